"""Removes secrets from configurations and command lines before they are written, logged or uploaded."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from prefixvlm.atomic import write_text

HIDDEN = "***"
MIN_LENGTH = 8  # shorter secrets are hidden only under their keys: as parts of other texts they would match by chance

_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SECRET_WORDS = {
    *("password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization", "apikey"),
}
_WORDS_BEFORE_KEY = {"api", "access", "secret", "private", "auth", "account", "encryption", "signing", "master"}
# Words before "token" in names of vocabulary tokens; any other `..._token` is taken for a secret.
_WORDS_BEFORE_TOKEN = {
    *("eos", "bos", "pad", "unk", "sep", "cls", "mask", "image", "img", "video", "special", "stop", "start", "end"),
    *("begin", "first", "last", "next", "new", "per", "query", "class", "prefix", "soft", "latent", "vision", "text"),
}
_SECRET_PARAMETERS = ("sig", "signature", "key", "token")  # endings of names in URL queries, as X-Amz-Signature

_URL_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_URL_PARAMETER = re.compile(r"(?<=[?&])([\w.-]+)=([^&#\s'\"]+)")
# The tokens of Hugging Face, OpenAI and Anthropic, GitHub, GitLab, Slack, AWS and wandb, and JSON web tokens.
_TOKEN = re.compile(
    r"(?<![\w-])(hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{30,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[abpr]-[\w-]{10,}"
    r"|A(?:KI|SI)A[0-9A-Z]{16}|wandb_v\d_\w{20,}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]+)"
)
_PAIR = re.compile(r"""([A-Za-z][\w-]*)(['"]?\s*[=:]\s*)('[^']*'|"[^"]*"|\$\{[^}]*\}|[^\s,;&{}\[\]]+)""")
_REFERENCE = re.compile(r"\$\{[^{},]*\}")  # an interpolation as ${oc.env:MY_TOKEN}; after a comma is a default value


def redact(config: Any) -> Any:
    """Return a copy of nested plain containers in which secrets are replaced by ***.

    Secrets are values under keys such as api_key or hub_token, users and passwords of URLs
    (https://user:password@host), signatures in URL queries, the values of environment variables with names such as
    MY_API_KEY, and tokens of known forms, as hf_... A secret of 8 or more characters that stands under such a key is
    hidden in all other texts too.
    """
    values = (*_secrets_of_environment(), *_secrets_under_keys(config))
    secrets = {value for value in values if len(value) >= MIN_LENGTH}
    secrets |= {quote(value, safe="") for value in secrets}
    # The longest first: a secret may be part of another one.
    return _redact(config, sorted(secrets, key=len, reverse=True))


def redact_dumps(*folders: str | Path) -> None:
    """Redact the files in which Hydra dumps configuration and overrides, FOLDER/.hydra/*.yaml and multirun.yaml."""
    paths = [
        path for folder in folders for path in (*Path(folder).glob(".hydra/*.yaml"), Path(folder, "multirun.yaml"))
    ]
    contents = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths if path.is_file()}
    # All at once: a secret that stands under a key in one file may stand in an override of another.
    for path, redacted in zip(contents, redact(list(contents.values())), strict=True):
        if redacted != contents[path]:
            write_text(path, yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True))


def is_secret(key: str) -> bool:
    """Return whether a key names a secret, as api_key, hub_token and password, unlike eos_token and max_tokens."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())
    if _SECRET_WORDS & set(words):
        return True
    before, last = (words[-2] if len(words) > 1 else ""), (words[-1] if words else "")
    return (last == "token" and before not in _WORDS_BEFORE_TOKEN) or (last == "key" and before in _WORDS_BEFORE_KEY)


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        is_path = value.startswith("/") and os.path.exists(value)  # of a file with a secret: not secret itself
        if _SECRET_VARIABLE.search(name) and not is_path:
            yield value


def _secrets_under_keys(node: Any, hidden: bool = False) -> Iterator[str]:
    """Yield the texts under secret keys, also within texts, as in an override `data.api_key=...`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _secrets_under_keys(value, hidden or is_secret(str(key)))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _secrets_under_keys(value, hidden)
    elif isinstance(node, str):
        if hidden and not _is_harmless(node):
            yield node
        for pair in _PAIR.finditer(node):
            if not is_secret(pair[1]):
                yield from _secrets_under_keys(pair[3])
            elif not _is_harmless(value := pair[3].strip("'\"")):
                yield value


def _redact(node: Any, secrets: list[str], hidden: bool = False) -> Any:
    """Redact a node. hidden: whether it is below a secret key."""
    if isinstance(node, Mapping):
        return {_hide_in(key, secrets): _redact_item(str(key), value, secrets, hidden) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_redact(value, secrets, hidden) for value in node)
    if node is None or isinstance(node, bool):
        return node
    if (hidden and not _is_harmless(str(node))) or str(node) in secrets:
        return HIDDEN
    return _hide_in(node, secrets)


def _redact_item(key: str, value: Any, secrets: list[str], hidden: bool) -> Any:
    # A class name is no secret, and a number under ..._token is a count.
    is_count = isinstance(value, int | float) and key.lower().endswith("token")
    if key == "_target_" or (is_count and not hidden):
        return value
    return _redact(value, secrets, hidden or is_secret(key))


def _hide_in(text: Any, secrets: list[str]) -> Any:
    if not isinstance(text, str):
        return text
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _TOKEN.sub(HIDDEN, text)
    text = _URL_USER.sub(f"{HIDDEN}@", text)
    text = _URL_PARAMETER.sub(_redact_parameter, text)
    return _PAIR.sub(_redact_pair, text)


def _redact_parameter(match: re.Match[str]) -> str:
    secret = match[1].lower().endswith(_SECRET_PARAMETERS) or is_secret(match[1])
    return f"{match[1]}={HIDDEN}" if secret else match[0]


def _redact_pair(match: re.Match[str]) -> str:
    if not is_secret(match[1]):
        return f"{match[1]}{match[2]}{_PAIR.sub(_redact_pair, match[3])}"
    if _is_harmless(match[3].strip("'\"")):
        return match[0]
    return f"{match[1]}{match[2]}{HIDDEN}"


def _is_harmless(value: str) -> bool:
    """Return whether a value is empty, a switch, a vocabulary token as <eos>, or a reference to a secret."""
    is_constant = value.lower() in ("", HIDDEN, "null", "none", "true", "false")
    return is_constant or re.fullmatch(r"<.*>", value) is not None or _REFERENCE.fullmatch(value) is not None
