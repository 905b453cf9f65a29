"""Rules of the architecture that a parser can check: directions of imports, and lengths of files and functions."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "prefixvlm"
FILES = sorted(SRC.rglob("*.py"))
SCRIPTS = [*ROOT.glob("*.py"), *(ROOT / "bench").glob("*.py"), *(ROOT / "examples").glob("*.py")]
PLUGINS = sorted((ROOT / "src" / "hydra_plugins").rglob("*.py"))
FOLDERS = sorted({path.parent for path in (*FILES, *PLUGINS)})

# What each file and folder at the top may import of the package, besides itself, BASE and its own folder.
BASE = {"atomic", "lock", "options", "packaged", "plugins", "precision", "strict_json"}
STAGES = {"batch", "data", "encoder", "mapper", "lm", "metrics", "model", "task"}
MAY_IMPORT = {
    "__init__": {"inference"},
    "atomic": set(),
    "lock": set(),
    "packaged": set(),
    "plugins": set(),
    "precision": set(),
    "strict_json": set(),
    "options": set(),
    "checkpoint": {"data", "encoder"},
    "sentences": set(),
    "errors": {"sentences"},
    "resumable_stages": set(),
    "batch": set(),
    "data": {"batch"},
    "encoder": {"batch"},
    "mapper": {"batch"},
    "lm": {"batch"},
    "metrics": {"batch"},
    "tune": {"lm"},
    "model": {"batch", "encoder", "mapper", "lm"},
    "task": {"batch", "data", "encoder", "features", "lm", "metrics", "model"},
    "provenance": set(),
    "report": {"data", "metrics"},
    "distributed": {"errors", "task"},
    "features": {"batch", "data", "encoder", "model"},
    "training": STAGES | {"checkpoint", "distributed"},
    "convert": {"checkpoint", "encoder", "mapper", "lm", "model", "training"},
    "logger": {"provenance"},
    "sweep": {"metrics", "report", "training"},
    "callbacks": STAGES | {"distributed", "logger", "provenance", "sweep", "training"},
    "evaluation": STAGES | {"checkpoint", "features", "report", "training"},
    "config": {"distributed"},
    "build": {
        "callbacks",
        "checkpoint",
        "data",
        "features",
        "metrics",
        "provenance",
        "task",
        "training",
    },
    "run": {"distributed", "logger", "metrics", "model", "training"},
    "describe": {"build", "data", "encoder", "model", "training"},
    "inference": {"batch", "build", "checkpoint", "data", "model", "task", "training"},
    "inspect": {"batch", "checkpoint", "data", "inference", "lm", "metrics", "model", "report", "task"},
    "export": {
        "batch",
        "build",
        "checkpoint",
        "data",
        "encoder",
        "inference",
        "lm",
        "mapper",
        "model",
        "provenance",
        "report",
        "task",
        "training",
    },
    "serve": {"batch", "checkpoint", "data", "errors", "inference", "inspect", "model", "task"},
    "cli": {"command_line", "distributed"},
    "command_line": {
        "build",
        "checkpoint",
        "config",
        "convert",
        "data",
        "describe",
        "distributed",
        "encoder",
        "errors",
        "evaluation",
        "features",
        "lm",
        "metrics",
        "export",
        "inference",
        "inspect",
        "serve",
        "sweep",
        "training",
    },
}
# The same for folders below: what each may import of its neighbours.
MAY_IMPORT_OF_NEIGHBOURS = {
    "data/shards": {"image", "remote", "sample", "schema", "sources", "feature_codec", "tar_headers"},
    "data/sources": {"image", "shards", "sample", "schema"},
    "data/loading": {"image", "remote", "sample", "shard_cache", "shards"},
    "metrics/captions": {"bootstrap", "pairs", "ptb", "score_kind"},
    "metrics/ptb": set(),
    "metrics/vqa": {"pairs"},
    "export/llava": set(),
    "report/templates": set(),
    "serve/api": {"feedback", "limits", "prompts", "service", "work"},
    "serve/http": {"api", "limits"},
    "serve/page": set(),
    "task/results": set(),
    "task/rows": {"interface", "results"},
}
LIGHTNING = {
    "training", "callbacks", "logger", "evaluation", "distributed/world.py", "data/datamodule.py", "build.py", "run.py",
}  # fmt: skip
HYDRA = {"build.py", "command_line", "options/component_check.py", "config.py", "errors.py", "sentences.py"}

MAX_FILES, MAX_LINES, MAX_FUNCTION_LINES = 15, 200, 40
EXEMPT = {
    "data/sources": "a data set a file",
}


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
    """Return the names of our modules that a file imports, as parts below prefixvlm."""
    return {tuple(name.split(".")[1:]) for name in imports(path) if name.startswith("prefixvlm.")}


def place(path):
    return path.relative_to(SRC).with_suffix("").parts


def module_of(name):
    """Return the module of an imported name; None for a name whose module is in the list itself."""
    path = SRC.joinpath(*name)
    if path.is_dir():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(place(path)))
def test_imports_point_one_way(path):
    top, *rest = place(path)
    imported = {name[0] for name in ours(path)}
    assert imported <= MAY_IMPORT[top] | BASE | {top}
    if (folder := "/".join((top, *rest[:-1]))) in MAY_IMPORT_OF_NEIGHBOURS:
        neighbours = {name[1] for name in ours(path) if name[0] == top and len(name) > 1}
        assert neighbours <= MAY_IMPORT_OF_NEIGHBOURS[folder] | {rest[0]}
    frameworks = {name.split(".")[0] for name in imports(path)}
    names = {top, "/".join(place(path)) + ".py"}
    assert "lightning" not in frameworks or names & LIGHTNING
    assert not {"hydra", "omegaconf"} & frameworks or names & HYDRA


def test_every_file_and_folder_has_a_row():
    assert {path.name.removesuffix(".py") for path in SRC.iterdir() if path.name != "__pycache__"} == set(MAY_IMPORT)
    below = {"/".join(path.relative_to(SRC).parts) for path in SRC.glob("*/*") if path.is_dir()}
    assert {name for name in below if not name.endswith("__pycache__")} == set(MAY_IMPORT_OF_NEIGHBOURS)


def test_no_imports_go_in_circles():
    needs = {path: {module_of(name) for name in ours(path)} - {None, path} for path in FILES}
    while free := {path for path, others in needs.items() if not others & needs.keys()}:
        needs = {path: others for path, others in needs.items() if path not in free}
    assert not needs


@pytest.mark.parametrize("path", [*FILES, *PLUGINS, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short_and_say_what_they_are_for(path):
    if path.name != "__init__.py" or path.parent != SRC.parent / "hydra_plugins":
        assert ast.get_docstring(tree_of(path)), "the first line says what the file is for"
    assert path.read_text(encoding="utf-8").count("\n") <= MAX_LINES
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_folder_has_few_files_and_a_sentence_about_its_idea(folder):
    name = str(folder.relative_to(SRC)) if folder.is_relative_to(SRC) else folder.name
    assert name in EXEMPT or len(list(folder.glob("*.py"))) <= MAX_FILES
    first, *more = ast.get_docstring(tree_of(folder / "__init__.py")).split("\n\n")
    assert more or first.count(". ") == 0, "its __init__.py says in one sentence what the folder is for"


def test_errors_and_language_models_import_nothing_above_them():
    """At run time too: importing them brings neither build.py nor, for lm/, Hydra."""
    for module, unwanted in (("errors", "prefixvlm.build"), ("lm.packaged", "hydra")):
        code = f"import sys, prefixvlm.{module}; sys.exit({unwanted!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_one_file_opens_images():
    """So that orientation, transparency and limits are the same for all readers."""
    opening = [path for path in FILES if "Image.open(" in path.read_text(encoding="utf-8")]
    assert ["/".join(place(path)) for path in opening] == ["data/image"]


def test_nothing_loads_unsafely():
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    for word in ("trust_remote_code=True", "weights_only=False", "allow_pickle=True", "shell=True", "pickle.load"):
        assert word not in text
