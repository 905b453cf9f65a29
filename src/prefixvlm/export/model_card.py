"""The model card of an export: what was trained on which data, its scores, and how to load it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor

from prefixvlm.checkpoint.hub_folder import CONFIG, TENSORS
from prefixvlm.data.remote import is_remote, without_query
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.export.scores import Metrics
from prefixvlm.report.table import BASELINES, number, span
from prefixvlm.training.checkpoint import KEY

PIPELINES = {"captioning": "image-to-text", "vqa": "visual-question-answering", "dialogue": "image-text-to-text",
             "classification": "image-classification", "classification_head": "image-classification",
             "detection": "object-detection"}  # fmt: skip
ASK, CLASSIFY = 'model.answer("photo.png", "what is this?")', 'model.classify("photo.png")'
CALLS = {"vqa": ASK, "dialogue": ASK, "captioning": 'model.caption("photo.png")', "classification": CLASSIFY,
         "classification_head": CLASSIFY}  # fmt: skip
TRAINER_OPTIONS = ("max_epochs", "max_steps", "precision", "devices", "accumulate_grad_batches", "gradient_clip_val")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NAME = re.compile(r"[^\w.-]+")


def model_card(
    stored: Mapping[str, Any],
    state: Mapping[str, Tensor],
    metrics: Metrics | None,
    config: Mapping[str, Any],
    missing: Mapping[str, str],
    licence: str | None,
) -> str:
    """Return the README.md of a folder for the hub, with its YAML header.

    stored: the content of CONFIG. config: with the paths of this machine, to find the manifests of the data.
    missing: local parts that are not in the folder, by axis. licence: of what was trained, None if nobody said.
    """
    tasks = stored[KEY]["config"].get("task") or {}
    name = _cell(f"{_class(config.get('mapper'))} prefix for {_part(config.get('lm'))}")
    sections = {
        "": f"A mapper that turns an image into prefix embeddings for a frozen language model, trained with prefixvlm "
            f"for {_cell(', '.join(tasks)) or 'no task'}.",
        "How to load it": _loading(tasks, missing),
        "What is in it": _content(stored, state),
        "Frozen parts": _frozen(stored, missing),
        "Data": "\n".join(_data(config)),
        "Scores": _scores(metrics),
        "Training": _training(stored),
    }  # fmt: skip
    header = _header(name, stored[KEY]["config"], tasks, metrics, licence)
    body = "\n\n".join(f"## {head}\n\n{text}" if head else text for head, text in sections.items())
    return f"---\n{header}\n---\n\n# {name}\n\n{body}\n"


def _header(
    name: str, config: Mapping[str, Any], tasks: Mapping[str, Any], metrics: Metrics | None, licence: str | None
) -> str:
    lm = (config.get("lm") or {}).get("name")
    data = ModelCardData(
        library_name="prefixvlm",
        license=licence,
        tags=["prefixvlm", "vision-language", *tasks],
        pipeline_tag=next((PIPELINES[task] for task in tasks if task in PIPELINES), None),
        base_model=lm if isinstance(lm, str) and _HUB_ID.fullmatch(lm) and not Path(lm).exists() else None,
        model_name=name,
        eval_results=[
            EvalResult(
                row.task,
                _slug(dataset := _shards_name(metrics.config)),
                dataset,
                row.score,
                round(row.value, row.decimals + 2),
            )
            for row in metrics.rows()
        ]
        if metrics
        else None,
    )
    return data.to_yaml().strip()


def _loading(tasks: Mapping[str, Any], missing: Mapping[str, str]) -> str:
    call = next((call for task, call in CALLS.items() if task in tasks), "# prefixvlm predict --help: other tasks")
    needs = "".join(
        f"\n\nThe frozen {axis} was the local folder or file `{_cell(part)}`, which is not here: to load this, have it "
        "at that path, beside this folder or in a folder above it." for axis, part in missing.items()
    )  # fmt: skip
    lines = [
        "pip install PREFIXVLM  # the folder of its source: it is not on PyPI",
        "",
        "import prefixvlm",
        "",
        'model = prefixvlm.load("USER/NAME")  # or this folder',
        call,
    ]
    return "\n".join(f"    {line}".rstrip() for line in lines) + f"\n\nNo code of this folder is run.{needs}"


def _content(stored: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    groups: dict[str, int] = {}
    for name, tensor in state.items():
        group = ".".join(name.split(".")[1:2]) or name
        groups[group] = groups.get(group, 0) + tensor.numel()
    return "\n".join([
        f"`{TENSORS}` has the trained tensors alone, and `{CONFIG}` the configuration that builds the model.", "",
        "| part | values |", "|---|---:|", *(f"| {group} | {count:,} |" for group, count in groups.items()),
    ])  # fmt: skip


def _frozen(stored: Mapping[str, Any], missing: Mapping[str, str]) -> str:
    config, rows = stored[KEY]["config"], []
    for part, fingerprint in stored[KEY]["identity"].items():
        here = "to be had by the reader" if part in missing else ""
        rows.append(f"| {_cell(part)} | {_cell(_part(config.get(part)))} | `{_cell(str(fingerprint))}` | {here} |")
    return "\n".join([
        "They are checked by these fingerprints when the model is loaded.", "",
        "| part | what | fingerprint | |", "|---|---|---|---|", *rows,
    ])  # fmt: skip


def _data(config: Mapping[str, Any]) -> Iterator[str]:
    for shards in _all_shards(config):
        manifest = None if is_remote(shards) else read_manifest(Path(shards))
        if manifest is None:
            yield f"* `{_cell(_short(shards))}`: source and licence are not known; its manifest was not found"
            continue
        splits = ", ".join(f"{manifest.num_samples(split):,} {split}" for split in manifest.splits)
        yield f"* {_cell(manifest.source)} ({splits} samples). Licence: {_cell(manifest.licence)}"


def _scores(metrics: Metrics | None) -> str:
    if metrics is None:
        return "None were given; `python eval.py ckpt=FOLDER` computes them, also with black images."
    baselines = [name for row in metrics.rows()[:1] for name in row.baselines]
    rows = [
        " | ".join(["", _cell(row.task), _cell(row.score),
                    *(number(value, row.decimals) for value in (row.value, *row.baselines.values())),
                    span(row.interval, row.decimals), f"{row.num_items:,}", ""]).strip()
        for row in metrics.rows()
    ]  # fmt: skip
    return "\n".join([
        f"On `{_cell(_shards_name(metrics.config))}`, {_cell(metrics.date)}.", "",
        *(f"* {name}: {BASELINES[name]}" for name in baselines), "",
        f"| task | score | value | {''.join(f'{name} | ' for name in baselines)}95 % interval | n |",
        f"|---|---|---:|{'---:|' * len(baselines)}---:|---:|", *rows, "",
        *(f"* {_cell(task)}: `{_cell(each.variant)}`" for task, each in metrics.tasks.items()),
        *(f"* {_cell(note)}" for note in metrics.notes),
    ])  # fmt: skip


def _training(stored: Mapping[str, Any]) -> str:
    config = stored[KEY]["config"]
    shown = {axis: config[axis] for axis in ("mapper", "tune", "module", "optim", "task", "seed") if config.get(axis)}
    trainer = config.get("trainer") or {}
    shown["trainer"] = {name: trainer[name] for name in TRAINER_OPTIONS if trainer.get(name) is not None}
    shown |= {name: value for name, value in stored[KEY].get("provenance", {}).items() if name in ("git", "versions")}
    text = yaml.safe_dump({"steps": stored["global_step"], **shown}, sort_keys=False, allow_unicode=True)
    return "```yaml\n" + text.replace("```", "'''") + "```"


def _all_shards(config: Mapping[str, Any]) -> list[str]:
    shards = (config.get("data") or {}).get("shards")
    nodes = shards.values() if isinstance(shards, Mapping) else [shards]
    names = [node.get("shards") if isinstance(node, Mapping) else node for node in nodes]
    return [name for name in names if isinstance(name, str)]


def _shards_name(config: Mapping[str, Any]) -> str:
    return ", ".join(_short(name) for name in _all_shards(config)) or "unknown"


def _short(shards: str) -> str:
    """Return a name of shards without the folders of this machine."""
    return without_query(shards) if is_remote(shards) else Path(shards).name


def _slug(text: str) -> str:
    return _NAME.sub("-", text).strip("-") or "unknown"


def _class(node: Any) -> str:
    return str((node or {}).get("_target_", "")).removesuffix(".from_pretrained").rpartition(".")[2] or "trained"


def _part(node: Any) -> str:
    """Return a name of the encoder or the language model."""
    node = node or {}
    named = node.get("name") or node.get("model_name")
    text = f"{named}, {node['pretrained']}" if named and isinstance(node.get("pretrained"), str) else str(named or "")
    return f"{_class(node)} {text}".strip()


def _cell(text: str) -> str:
    """Return text for one line of Markdown, without the marks of tables, code and HTML."""
    return " ".join(text.replace("|", "/").replace("`", "'").replace("<", "&lt;").split())
