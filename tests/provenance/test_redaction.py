"""Secrets in configurations, command lines and Hydra's files are redacted; what only looks like a secret stays."""

import copy

import pytest
import yaml

from prefixvlm.provenance.redaction import is_secret, redact, redact_dumps

SECRET = "s3cr3t-Value/1234"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("MY_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "key",
    ["token", "hub_token", "HF_TOKEN", "access-token", "apiKey", "api_key", "db_password", "secret", "client_secret",
     "aws_secret_access_key", "Authorization", "credentials", "private_key"],
)  # fmt: skip
def test_secret_keys(key):
    assert is_secret(key)
    assert redact({"a": [{key: "anything"}]}) == {"a": [{key: "***"}]}


@pytest.mark.parametrize(
    "key",
    ["eos_token", "max_tokens", "tokenizer", "token_norm", "tokens", "key", "keys", "monitor", "monitor_key", "keyword",
     "max_new_tokens", "image_token", "secretary", "num_tokens", "authors", "passes", "lm.tokenizer", "donkey"],
)  # fmt: skip
def test_innocent_keys(key):
    config = {"lm": {key: "a value of any length"}, "overrides": [f"lm.{key}=anything", f"+lm={{{key}: word}}"]}
    assert redact(config) == config


def test_what_is_no_text_and_what_is_no_secret_stays():
    config = {
        "token": None, "hub_token": "", "other_token": "<image>", "query_token": 3, "use_auth_token": True,
        "api_key": "${oc.env:MY_KEY}", "_target_": "prefixvlm.mapper.mlp.MLPMapper", "lr": 1e-3, "seed": 0,
        "prompt": "Question: {question} Answer:", "shards": ["https://host/a?download=1", "s3://bucket/x-{0..9}.tar"],
        "size": (1, 2), "mail": "a@b.org",
    }  # fmt: skip
    before = copy.deepcopy(config)
    assert redact(config) == before
    assert config == before


def test_what_comes_in_is_not_changed():
    config = {"a": {"password": "x", "b": [SECRET]}}
    assert redact(config) == {"a": {"password": "***", "b": [SECRET]}}
    assert config == {"a": {"password": "x", "b": [SECRET]}}


def test_all_that_is_under_a_secret_key_goes_also_where_it_is_repeated():
    credentials = {"user": "a", "pins": [1234567, SECRET]}
    config = {"credentials": credentials, "url": f"https://host/{SECRET}/x", "password": 12}
    assert redact(config) == {
        "credentials": {"user": "***", "pins": ["***", "***"]}, "url": "https://host/***/x", "password": "***"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["MY_API_KEY", "some_token", "THE_PASSWORD", "A_SECRET_B", "X_CREDENTIALS"])
def test_what_the_environment_says_is_secret_goes_wherever_it_is(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    config = {SECRET: 1, "data": [{"note": f"<{SECRET}>"}], "url": "https://host/s3cr3t-Value%2F1234"}
    assert redact(config) == {"***": 1, "data": [{"note": "<***>"}], "url": "https://host/***"}


def test_short_values_files_and_names_of_classes_are_no_secrets_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SHORT_KEY", "mapper")
    monkeypatch.setenv("KEY_FOLDER", str(tmp_path))
    monkeypatch.setenv("TARGET_KEY", "prefixvlm")
    config = {"name": "mapper", "out": f"{tmp_path}/x", "_target_": "prefixvlm.mapper.mlp.MLPMapper"}
    assert redact(config) == config
    monkeypatch.setenv("NUMBER_TOKEN", "12345678")
    assert redact({"seed": 12345678, "other": 1234567}) == {"seed": "***", "other": 1234567}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://user:{SECRET.replace('/', '')}@host/x", "https://***@host/x"),
        ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
        ("https://u:p@ss@host", "https://***@host"),
        (
            "https://h/x.tar?X-Amz-Date=1&X-Amz-Signature=abc&x=2",
            "https://h/x.tar?X-Amz-Date=1&X-Amz-Signature=***&x=2",
        ),
        ("https://h/x?sig=a%2Fb&token=c#y", "https://h/x?sig=***&token=***"),
        ("https://h/x?api_key=abc", "https://h/x?api_key=***"),
        ("data.shards='https://u:p@h/x'", "data.shards='https://***@h/x'"),
        ("+data.api_key=abc", "+data.api_key=***"),
        ("data.api_key='a b',seed=1", "data.api_key=***,seed=1"),
        ("+data.extra={a: 1, password: abc}", "+data.extra={a: 1, password: ***}"),
        ("data.token=abc,seed=1", "data.token=***,seed=1"),
        ("data.token=${oc.env:X}", "data.token=${oc.env:X}"),
        ("data.token=${oc.env:X,abc}", "data.token=***"),
        ("https://host/a@2x.png", "https://host/a@2x.png"),
    ],
)
def test_texts(text, expected):
    assert redact([text]) == [expected]


def test_what_hydra_wrote_is_written_again_without_secrets(tmp_path):
    dumps = {
        "config.yaml": {"data": {"shards": "https://u:hunter2hunter2@h/x", "note": "hunter3hunter3"}, "seed": 1},
        "overrides.yaml": ["data.shards=https://u:hunter2hunter2@h/x", "+data.password=hunter3hunter3", "seed=1"],
        "hydra.yaml": {"hydra": {"job": {"override_dirname": "+data.password=hunter3hunter3,seed=1"}}},
    }
    for name, content in dumps.items():
        (tmp_path / ".hydra").mkdir(exist_ok=True)
        (tmp_path / ".hydra" / name).write_text(yaml.safe_dump(content))
    (tmp_path / "multirun.yaml").write_text("seed: 1 # as it was\n")
    redact_dumps(tmp_path, tmp_path / "nothing here")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "hunter" in path.read_text()]
    assert yaml.safe_load((tmp_path / ".hydra" / "config.yaml").read_text()) == {
        "data": {"shards": "https://***@h/x", "note": "***"}, "seed": 1
    }  # fmt: skip
    assert (tmp_path / "multirun.yaml").read_text() == "seed: 1 # as it was\n"
    assert {path.name for path in (tmp_path / ".hydra").iterdir()} == set(dumps)


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aB3" * 11,
        "sk-proj-" + "aB3" * 10,
        "ghp_" + "aB3" * 12,
        "AKIA" + "A1B2" * 4,
        "eyJ" + "aB3" * 5 + ".eyJ9.sig",
    ],
)
def test_a_token_is_hidden_wherever_it_stands(token):
    config = {"task": {"vqa": {"prompt": f"Use {token}. Question: {{question}} Answer:"}}, "name": f"run-of ({token})"}
    assert token not in str(redact(config))
    assert redact(config)["task"]["vqa"]["prompt"] == "Use ***. Question: {question} Answer:"
    for word in ("hf_model", "sk-learn", "risk-" + "a" * 30, "AKIA"):
        assert redact(word) == word
