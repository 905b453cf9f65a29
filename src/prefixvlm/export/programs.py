"""Export to ONNX files or torch.export programs, with what a runtime needs to caption images with them."""

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from tqdm import tqdm

from prefixvlm.atomic import replacing_folder
from prefixvlm.build import rebuild
from prefixvlm.checkpoint.hub_folder import find
from prefixvlm.checkpoint.local_parts import locate, naming_places
from prefixvlm.data.image import ImageDecoder
from prefixvlm.export.graphs import Graph, cache_shapes, causal, graphs_of
from prefixvlm.export.runtime import describe_tasks, describe_transform, fast_tokenizer
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load

RUNTIME, TOKENIZER = "runtime.json", "tokenizer.json"
TOLERANCE = 1e-3  # of outputs whose size is about 1; a wrong mask or position changes them by more
# Options that the graphs replace: they are float32, of operations that can be traced.
PLAIN = {"dtype": "float32", "attention": "sdpa", "activation_checkpointing": False, "compile": False}


def export_programs(checkpoint: Path, out: Path, onnx: bool) -> str:
    """Write the graphs, tokenizer.json and runtime.json to the folder `out`, and return a line about it.

    onnx: ONNX files, else programs of torch.export. Raises ValueError, naming the part, for what cannot be expressed.
    """
    path = find(checkpoint)
    content = load(path)
    config = locate(content[KEY]["config"], path)
    if (config.get("lm") or {}).get("quantization"):
        raise ValueError("lm.quantization has no graph; export --to hub, or train with lm.quantization=null")
    config["lm"] = {name: PLAIN.get(name, value) for name, value in (config.get("lm") or {}).items()}
    with naming_places(config, path):
        module = rebuild(config, content).eval().to("cpu")
    model = module.model.float().requires_grad_(False)
    runtime: dict[str, Any] = {
        "format": 1,
        "image": describe_transform(model.encoder.transform, ImageDecoder.of(config.get("data") or {})),
        "tasks": describe_tasks(module.tasks, module.collate),
    }
    tokenizer = fast_tokenizer(model.lm.tokenizer)
    graphs = graphs_of(model)
    heads = cache_shapes(causal(model))
    runtime |= {
        "prefix_length": model.mapper.prefix_length, "eos_id": model.lm.eos_id,
        "max_positions": model.lm.max_positions, "cache": [{"heads": h, "width": w} for h, w in heads],
        "graphs": {name: f"{name}.{'onnx' if onnx else 'pt2'}" for name in graphs},
        "left_out": [name for name in module.tasks if name not in runtime["tasks"]],
    }  # fmt: skip
    with replacing_folder(out) as folder:
        for name, graph in tqdm(graphs.items(), unit=" graphs", disable=None):
            program = trace(graph)
            if onnx:
                write_onnx(program, graph, folder / f"{name}.onnx")
            else:
                torch.export.save(program, folder / f"{name}.pt2")
                compare(graph, torch.export.load(folder / f"{name}.pt2").module())
        tokenizer.save(str(folder / TOKENIZER))
        (folder / RUNTIME).write_text(json.dumps(runtime, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    left_out = f"; without task {', '.join(runtime['left_out'])}" if runtime["left_out"] else ""
    return f"{', '.join(runtime['graphs'].values())}, {TOKENIZER} and {RUNTIME}{left_out}"


def trace(graph: Graph) -> ExportedProgram:
    """Return the program of a graph. Raises ValueError, naming its part, if it cannot be traced."""
    try:
        with torch.no_grad():
            return torch.export.export(
                graph.module.eval(), graph.examples[0], dynamic_shapes=graph.dynamic, strict=False
            )
    except Exception as error:  # of the tracer, or of any operation that looks at values
        raise ValueError(f"{graph.part} cannot be traced ({_first_line(error)}); export --to hub") from error


def write_onnx(program: ExportedProgram, graph: Graph, path: Path) -> None:
    """Write a program as an ONNX file with its weights in PATH.data."""
    # It logs, as warnings, which operations its optimizer leaves as they are.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    names: dict[str, Any] = {"input_names": graph.input_names, "output_names": graph.output_names}
    try:
        written = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    except Exception as error:
        raise ValueError(f"{graph.part} has no ONNX graph ({_first_line(error)}); export --to hub") from error
    assert written is not None, "dynamo=True returns the program"
    written.save(path, external_data=True)
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*inputs: Any) -> Sequence[torch.Tensor]:
            values = [value.numpy() for value in _flat(inputs)]
            return [
                torch.from_numpy(each) for each in session.run(None, dict(zip(graph.input_names, values, strict=True)))
            ]

        compare(graph, run)


@torch.no_grad()
def compare(graph: Graph, run: Callable[..., Any]) -> None:
    """Raise ValueError, naming the part, unless a written graph has the outputs of its module."""
    ours, theirs = _flat(graph.module(*graph.examples[1])), _flat(run(*graph.examples[1]))
    for name, right, found in zip(graph.output_names, ours, theirs, strict=True):
        scale = max(1.0, float(right.float().abs().max()))
        is_near = right.shape == found.shape and (right.float() - found.float()).abs().max() <= TOLERANCE * scale
        if not is_near:  # also for NaN
            raise ValueError(f"{graph.part}: the written graph has another {name} than the model; export --to hub")


def _flat(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    return [tensor for value in values for tensor in _flat(value)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]
