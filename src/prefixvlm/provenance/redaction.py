"""A configuration goes in; the same without its secrets comes out: what may be written, logged and uploaded."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

HIDDEN = "***"
MIN_LENGTH = 8  # what is shorter is hidden where it stands, but not wherever the same letters are

_ENVIRONMENT = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_WORDS = {"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization"}
_WORDS |= {"apikey"}
_KEYS = {"api", "access", "secret", "private", "auth", "account", "encryption", "signing", "master"}  # and then key
# Tokens of a vocabulary; any other `..._token` is taken for a secret.
_TOKENS = {"eos", "bos", "pad", "unk", "sep", "cls", "mask", "image", "img", "video", "special", "stop", "start", "end"}
_TOKENS |= {
    "begin",
    "first",
    "last",
    "next",
    "new",
    "per",
    "query",
    "class",
    "prefix",
    "soft",
    "latent",
    "vision",
    "text",
}
_IN_QUERIES = ("sig", "signature", "key", "token")  # how a query's names end, as X-Amz-Signature

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(?<=[?&])([\w.-]+)=([^&#\s'\"]+)")
_PAIR = re.compile(r"""([A-Za-z][\w-]*)(['"]?\s*[=:]\s*)('[^']*'|"[^"]*"|\$\{[^}]*\}|[^\s,;&{}\[\]]+)""")
_REFERENCE = re.compile(r"\$\{[^{},]*\}")  # to where a secret is, as ${oc.env:MY_TOKEN}; with a comma it has a default


def redact(config: Any) -> Any:
    """Nested plain containers without what is secret; other values, and the containers that came in, stay.

    Secret is: what stands under a key such as api_key or hub_token; a user of a URL (https://user:password@host) and
    the signature in its query; the value of an environment variable whose name says so, wherever it is. What stands
    under a secret key and has 8 characters or more is hidden in all other texts too.
    """
    secrets = {value for value in (*_of_environment(), *_under_keys(config)) if len(value) >= MIN_LENGTH}
    secrets |= {quote(value, safe="") for value in secrets}
    return _redact(config, sorted(secrets, key=len, reverse=True))


def redact_dumps(*folders: str | Path) -> None:
    """Rewrite what Hydra wrote of a configuration and a command line: FOLDER/.hydra/*.yaml and FOLDER/multirun.yaml."""
    files = [
        path for folder in folders for path in (*Path(folder).glob(".hydra/*.yaml"), Path(folder, "multirun.yaml"))
    ]
    contents = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files if path.is_file()}
    for path, clean in zip(contents, redact(list(contents.values())), strict=True):
        if clean != contents[path]:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_text(yaml.safe_dump(clean, sort_keys=False, allow_unicode=True), encoding="utf-8")
            temporary.replace(path)


def is_secret(key: str) -> bool:
    """Whether a key names a secret: api_key, hub_token, password; not eos_token, max_tokens, tokenizer."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())
    if _WORDS & set(words):
        return True
    before, last = (words[-2] if len(words) > 1 else ""), (words[-1] if words else "")
    return (last == "token" and before not in _TOKENS) or (last == "key" and before in _KEYS)


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        path = value.startswith("/") and os.path.exists(value)  # of a file that holds a secret, or of anything
        if _ENVIRONMENT.search(name) and not path:
            yield value


def _under_keys(node: Any, hidden: bool = False) -> Iterator[str]:
    """The texts that stand under secret keys, also in an override as `data.api_key=...`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _under_keys(value, hidden or is_secret(str(key)))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _under_keys(value, hidden)
    elif isinstance(node, str):
        if hidden and not _harmless(node):
            yield node
        for pair in _PAIR.finditer(node):
            if not is_secret(pair[1]):
                yield from _under_keys(pair[3])
            elif not _harmless(value := pair[3].strip("'\"")):
                yield value


def _redact(node: Any, secrets: list[str], hidden: bool = False) -> Any:
    if isinstance(node, Mapping):
        return {_text(key, secrets): _value(str(key), value, secrets, hidden) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_redact(value, secrets, hidden) for value in node)
    if node is None or isinstance(node, bool):
        return node
    if (hidden and not _harmless(str(node))) or str(node) in secrets:
        return HIDDEN
    return _text(node, secrets)


def _value(key: str, value: Any, secrets: list[str], hidden: bool) -> Any:
    """What stands under a key: the name of a class is no secret, and a number under ..._token counts something."""
    counts = isinstance(value, int | float) and key.lower().endswith("token")
    if key == "_target_" or (counts and not hidden):
        return value
    return _redact(value, secrets, hidden or is_secret(key))


def _text(text: Any, secrets: list[str]) -> Any:
    if not isinstance(text, str):
        return text
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(lambda found: f"{found[1]}={HIDDEN}" if _in_query(found[1]) else found[0], text)
    return _PAIR.sub(_pair, text)


def _pair(found: re.Match[str]) -> str:
    if not is_secret(found[1]):
        return f"{found[1]}{found[2]}{_PAIR.sub(_pair, found[3])}"
    if _harmless(found[3].strip("'\"")):
        return found[0]
    return f"{found[1]}{found[2]}{HIDDEN}"


def _in_query(name: str) -> bool:
    return name.lower().endswith(_IN_QUERIES) or is_secret(name)


def _harmless(value: str) -> bool:
    """Nothing, a switch, a word of a vocabulary as <eos>, or where a secret is."""
    known = value.lower() in ("", HIDDEN, "null", "none", "true", "false")
    return known or re.fullmatch(r"<.*>", value) is not None or _REFERENCE.fullmatch(value) is not None
