"""Description of a configuration without reading weights: shapes, numbers of parameters and optimisation."""

from collections.abc import Mapping
from typing import Any

import torch
from torchvision.transforms import Normalize

from prefixvlm.build import build_module, plain
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.model.trained_state import count_parameters, named_parts
from prefixvlm.training.module import PrefixModule

Description = dict[str, Any]


def describe(cfg: Any) -> Description:
    """Return {parts: {name: {trained, frozen, its shape}}, trained_parameters, frozen_parameters, optimisation}.

    cfg: composed configuration of a run.
    """
    # The real module, so that the numbers are right, but without memory for its weights.
    with torch.device("meta"):
        module: Any = build_module(cfg)
    parts = {}
    for name, part in named_parts(module.model):
        trained, frozen = count_parameters(part)
        parts[name] = {"trained": trained, "frozen": frozen}
    if isinstance(module, PrefixModule):
        for name, shape in _shapes(module).items():
            parts[name] |= shape
    trained, frozen = count_parameters(module)
    return {
        "parts": parts,
        "trained_parameters": trained,
        "frozen_parameters": frozen,
        "optimisation": _optimisation(module, plain(cfg)),
    }


def _shapes(module: PrefixModule) -> dict[str, Description]:
    encoder, mapper, lm = module.model.encoder, module.model.mapper, module.model.lm
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    return {
        "encoder": {
            "image_size": None if encoder.reads_features else _image_size(encoder),
            "num_features": encoder.num_features,
            "feature_width": encoder.feature_width,
            "grid": encoder.grid and list(encoder.grid),
        },
        "mapper": {"prefix_length": mapper.prefix_length, "width": lm.width},
        "lm": {"layers": len(lm.blocks), "width": lm.width, "vocabulary": vocabulary},
    }


def _image_size(encoder: ImageEncoder) -> list[int]:
    """Return the height and width of pixel_values."""
    image: Any = BLACK_IMAGE
    for step in getattr(encoder.transform, "transforms", [encoder.transform]):
        if not isinstance(step, Normalize):  # its mean is a tensor without data on the meta device
            image = step(image)
    return list(image.shape[1:])


def _optimisation(module: Any, cfg: Description) -> Description:
    """Return the options of the optimisation; lr and weight_decay by parameter group, batch_size per process."""
    optim, trainer = module.optim, cfg["trainer"]
    groups = optim.groups(module.named_parameters())
    return {
        "optimizer": cfg["optim"]["optimizer"]["_target_"].rpartition(".")[2],
        "lr": {group["name"]: group["lr"] for group in groups},
        "weight_decay": {group["name"]: group["weight_decay"] for group in groups},
        "schedule": optim.schedule,
        "warmup_steps": optim.warmup_steps,
        "batch_size": cfg["data"]["batch_size"],
        "accumulate_grad_batches": trainer.get("accumulate_grad_batches", 1),
        "devices": trainer.get("devices"),
        "max_epochs": trainer.get("max_epochs"),
        "max_steps": trainer.get("max_steps"),
        "precision": trainer.get("precision"),
        "lm_dtype": (cfg.get("lm") or {}).get("dtype"),
    }


def text_description(description: Description) -> str:
    """Return a table of the parts and lines about the optimisation as text."""
    rows: list[tuple[str, ...]] = [("part", "shape", "trained", "frozen")]
    for name, part in description["parts"].items():
        rows.append((name, _shape(name, part), millions(part["trained"]), millions(part["frozen"])))
    total = description["trained_parameters"], description["frozen_parameters"]
    rows.append(("total", "", *map(millions, total)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("\u2500" * width for width in widths))
    lines = [
        f"{name:{widths[0]}}  {shape:{widths[1]}}  {trained:>{widths[2]}}  {frozen:>{widths[3]}}"
        for name, shape, trained, frozen in rows
    ]
    return "\n".join([*lines, "", *_how(description["optimisation"])])


def millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _shape(name: str, part: Description) -> str:
    if name == "encoder" and "num_features" in part:
        pixels = part["image_size"]
        seen = "stored" if pixels is None else f"{pixels[0]} x {pixels[1]} pixels to"
        return f"{seen} {part['num_features']} x {part['feature_width']} features"
    if name == "mapper" and "prefix_length" in part:
        return f"a prefix of {part['prefix_length']} x {part['width']}"
    if name == "lm" and "layers" in part:
        return f"{part['layers']} blocks of width {part['width']}, a vocabulary of {part['vocabulary']:,}"
    return ""


def _how(how: Description) -> list[str]:
    lm_dtype, steps, epochs = how["lm_dtype"], how["max_steps"], how["max_epochs"]
    long = f"{steps:,} steps" if steps and steps > 0 else f"{epochs} epoch{'s' * (epochs != 1)}"
    accumulated = f" x {how['accumulate_grad_batches']}" if how["accumulate_grad_batches"] != 1 else ""
    return [
        f"optimizer      {how['optimizer']}, learning rate {_each(how['lr'])}",
        f"weight decay   {_each(how['weight_decay'])}",
        f"schedule       {how['schedule']}, warm-up {how['warmup_steps']:g}, {long}",
        f"batch          {how['batch_size']}{accumulated} images a process, trainer.devices={how['devices']}",
        f"precision      {how['precision']} of what is trained" + (f", lm.dtype={lm_dtype}" if lm_dtype else ""),
    ]


def _each(values: Mapping[str, float]) -> str:
    """Return a single value if all are equal, or else each with its name."""
    if len(set(values.values())) == 1:
        return f"{next(iter(values.values())):g}"
    return ", ".join(f"{value:g} for {name}" for name, value in values.items())
