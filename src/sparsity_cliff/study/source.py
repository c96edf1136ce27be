"""Read modules, constants, and registries from source code with `ast`, without importing it.

A study is validated whenever the Snakefile is parsed, and importing torch there would cost seconds per command. Names
therefore come from the registries' dicts, options from the factories' signatures (options.py), and digests from the
source text (digests.py).
"""

import ast
import importlib.machinery
from functools import cache
from pathlib import Path
from typing import Any

from sparsity_cliff.study.registry import REGISTRIES

PACKAGE = "sparsity_cliff"


class SourceError(ValueError):
    """A name has no usable source; the message says which."""


# ------------------------------------------------------------------------------------------------- modules


@cache
def path_of(module: str) -> Path:
    """The file of a module, found without importing it or its packages. Raises SourceError if there is none."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise SourceError(f"{module!r} is not a module name")
    search: list[str] | None = None
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
            raise SourceError(f"no module named {module} in the working directory, on PYTHONPATH, or installed")
        search = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SourceError(f"module {module} has no Python source file")
    return Path(spec.origin)


def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module, without docstrings."""
    return tree_of_file(path_of(module))


@cache
def tree_of_file(path: Path) -> ast.Module:
    """The syntax tree of a file, without docstrings. Raises SourceError if it cannot be read or parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise SourceError(f"{path}, line {error.lineno}: {error.msg}") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"{path}: not valid Python ({error or type(error).__name__})") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement binds (imports excluded)."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()


@cache
def _value(module: str, name: str) -> ast.expr | None:
    for statement in tree_of(module).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and name in bound(statement):
            return statement.value
    return None


def constant(module: str, name: str, default: Any = None) -> Any:
    """The literal value of a module's top-level constant, or `default` if there is none."""
    value = _value(module, name)
    return default if value is None else literal(value, f"{module}.{name}")


def words(module: str, name: str) -> tuple[str, ...]:
    """A constant that is a tuple of strings; () if there is none. Raises SourceError for any other value."""
    found = constant(module, name, ())
    if not isinstance(found, tuple | list) or not all(isinstance(word, str) for word in found):
        raise SourceError(f"{module}.{name} is {found!r}; valid: a tuple of strings, such as ('one',)")
    return tuple(found)


def literal(value: ast.expr, what: str) -> Any:
    """The value of a literal expression. Raises SourceError, which begins with `what`, for any other expression."""
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        text = " ".join(ast.unparse(value).split())
        raise SourceError(f"{what} is not a literal: {text if len(text) <= 60 else text[:57] + '...'}") from error


# ------------------------------------------------------------------------------------------------- registries


@cache
def entries(kind: str) -> dict[str, ast.expr]:
    """Name -> expression, for the registry of `kind`."""
    module, name = REGISTRIES[kind]
    table = _value(module, name)
    if not isinstance(table, ast.Dict):
        raise SourceError(f"{module}.{name} is not a dict literal")
    return {ast.literal_eval(key): value for key, value in zip(table.keys, table.values, strict=True) if key}


@cache
def locate(kind: str, function: str) -> tuple[str, str]:
    """(module, attribute) of a name in a study file: an entry of the registry of `kind`, or `module:object`.

    Raises SourceError for any other name.
    """
    if ":" in function:
        module, _, attribute = function.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise SourceError(f"{function!r} is not valid; valid: module:object, such as my_lab.acts:MyAct")
        return module, attribute
    known = entries(kind)
    if function not in known:
        raise SourceError(f"unknown {kind} {function!r}; valid: {', '.join(known)}, or module:object")
    value = known[function]
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        module, _, attribute = value.value.partition(":")
        return module, attribute
    return REGISTRIES[kind][0], ast.unparse(value)
