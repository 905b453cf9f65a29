"""The rules of the house that a parser can see."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "prefixvlm"
FILES = sorted(SRC.rglob("*.py"))
# What each stage may import of the package, besides batch and itself.
MAY_IMPORT = {
    "batch": set(),
    "data": set(),
    "encoder": set(),
    "mapper": set(),
    "lm": set(),
    "tune": {"lm"},
    "metrics": set(),
    "report": {"metrics"},
    "model": {"encoder", "mapper", "lm"},
    "task": {"data", "lm", "metrics", "model"},
    "training": {"data", "encoder", "mapper", "lm", "metrics", "model", "task"},
    "serve": {"data", "model", "task", "training", "build"},
    "sweep": {"report", "training"},
}
LIGHTNING = {"training", "data/datamodule.py", "build.py"}
HYDRA = {"build.py", "component_check.py", "describe.py", "config.py", "errors.py", "serve"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module


def stage(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_one_way(path):
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("prefixvlm.")} - {
        "atomic",
        "errors",
        "precision",
    }
    if stage(path) in MAY_IMPORT:
        assert ours <= MAY_IMPORT[stage(path)] | {"batch", stage(path)}
    frameworks = {name.split(".")[0] for name in imports(path)}
    place = str(path.relative_to(SRC))
    assert "lightning" not in frameworks or place in LIGHTNING or stage(path) in LIGHTNING
    assert not {"hydra", "omegaconf"} & frameworks or place in HYDRA or stage(path) in HYDRA


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_files_say_what_goes_in_and_out_and_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "the first line says what goes in and what comes out"
    assert text.count("\n") <= 220


def test_nothing_loads_unsafely():
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    for word in ("trust_remote_code=True", "weights_only=False", "allow_pickle=True", "shell=True", "pickle.load"):
        assert word not in text
