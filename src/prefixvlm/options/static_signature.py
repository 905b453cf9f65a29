"""The parameters of a component, read from its source: importing it would import torch, which takes seconds."""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_origin

from prefixvlm.options import ranges

TYPES = {"int": int, "float": float, "bool": bool, "str": str}
TYPES |= {name: value for name, value in vars(ranges).items() if get_origin(value) is Annotated}
# Decorators that keep the signature. The second is that of Lightning's Trainer.
KEEPING = {"classmethod", "_defaults_from_env_vars"}

Definition = ast.ClassDef | ast.FunctionDef


class NotShownError(LookupError):
    """The source does not show it."""


def static_parameters(target: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the class, function or class method that a dotted name names, without an import of it.

    Empty if it takes any keyword, or if its source does not show what it takes. An annotation is Any unless it is of
    TYPES, Literal and unions of them.
    """
    try:
        function = _function(target)
    except (NotShownError, SyntaxError):
        return {}
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    if arguments.kwarg or not {_last_name(each) for each in function.decorator_list} <= KEEPING:
        return {}
    own = named[1:] if named and named[0].arg in ("self", "cls") else named
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {each.arg: inspect.Parameter(each.arg, keyword, annotation=_type(each.annotation)) for each in own}


def defines_class(module: str, name: str) -> bool:
    """Return whether the source of a module has a class of this name at its top."""
    try:
        path, found = _find(f"{module}.{name}")
    except (NotShownError, SyntaxError):
        return False
    # A name that the module imports is of another file.
    return isinstance(found, ast.ClassDef) and path.with_suffix("").parts[-module.count(".") - 1 :] == tuple(
        module.split(".")
    )


def _function(target: str) -> ast.FunctionDef:
    path, found = _find(target)
    if isinstance(found, ast.ClassDef):
        if found.decorator_list or found.keywords:  # such as dataclass, or a metaclass
            raise NotShownError(target)
        _, found = _member(path, found, "__init__")
    assert isinstance(found, ast.FunctionDef)
    return found


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _find(name: str) -> tuple[Path, Definition]:
    """Return the definition of a dotted name and the file that it is in, which may be imported into the one named."""
    top, *rest = name.split(".")
    # Of a module below the top, find_spec would import the packages above, and lightning/__init__.py imports torch.
    spec = PathFinder.find_spec(top)
    if not spec or not str(spec.origin).endswith(".py"):
        raise NotShownError(name)
    path = Path(str(spec.origin))
    while rest and path.name == "__init__.py":
        options = (path.parent / f"{rest[0]}.py", path.parent / rest[0] / "__init__.py")
        if not (below := next((option for option in options if option.is_file()), None)):
            break
        path, rest = below, rest[1:]
    return _defined(path, rest)


def _defined(path: Path, names: list[str]) -> tuple[Path, Definition]:
    for statement in reversed(_tree(path).body) if names else ():  # the last definition of a name counts
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == names[0]:
            if len(names) == 1:
                return path, statement
            if len(names) == 2 and isinstance(statement, ast.ClassDef):
                return _member(path, statement, names[1])
        if isinstance(statement, ast.ImportFrom) and not statement.level:
            for alias in statement.names:
                if (alias.asname or alias.name) == names[0]:
                    return _find(".".join([str(statement.module), alias.name, *names[1:]]))
    raise NotShownError(".".join(names))


def _member(path: Path, owner: ast.ClassDef, name: str) -> tuple[Path, ast.FunctionDef]:
    """Return a method of a class or of its base classes. Raises NotShownError if one before it is not found."""
    for statement in owner.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return path, statement
    for base in owner.bases:
        dotted = ast.unparse(base).partition("[")[0]
        if dotted in ("ABC", "Generic", "Protocol"):
            continue
        # With several base classes, the order of look-up is more than that of the list.
        file, found = _defined(path, dotted.split("."))
        if len(owner.bases) == 1 and isinstance(found, ast.ClassDef):
            return _member(file, found, name)
        break
    raise NotShownError(f"{owner.name}.{name}")


def _last_name(expression: ast.expr) -> str:
    return ast.unparse(expression).rpartition(".")[2]


def _type(annotation: ast.expr | None) -> Any:
    match annotation:
        case ast.Constant(None):
            return NoneType
        case ast.Name(name):
            return TYPES.get(name, Any)
        case ast.BinOp(left, ast.BitOr(), right):
            return Union[_type(left), _type(right)]  # noqa: UP007 - Any has no |
        case ast.Subscript(ast.Name("Literal"), choices):
            return Literal[ast.literal_eval(choices)]
        case ast.Subscript(ast.Name("Optional"), inner):
            return Union[_type(inner), None]  # noqa: UP007
        case ast.Subscript(ast.Name("Union"), ast.Tuple(kinds)):
            return Union[tuple(map(_type, kinds))]  # noqa: UP007
    return Any
