"""What source code says of itself: registries, options, constants and digests, read with `ast`, never imported.

The study is validated, and what makes a run stale is decided, while the Snakefile is parsed; importing torch there
would cost seconds at every command. So names come from the registries' dicts, options from the factories' signatures,
and digests from the source text.
"""

import ast
import hashlib
import importlib.machinery
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sparsity_cliff.registry import REGISTRIES

PACKAGE = "sparsity_cliff"


class SourceError(ValueError):
    """A name that leads to no source; the message says which."""


# ------------------------------------------------------------------------------------------------- modules


@cache
def path_of(module: str) -> Path:
    """The file of a module, found without importing it or its packages."""
    search: list[str] | None = None
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
            raise SourceError(f"no module named {module} (searched {', '.join(p or '.' for p in sys.path[:3])}, …)")
        search = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SourceError(f"module {module} has no Python source file")
    return Path(spec.origin)


@cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module without its docstrings."""
    path = path_of(module)
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise SourceError(f"{path}, line {error.lineno}: {error.msg}") from error
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


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement binds (imports excluded)."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()


def _value(module: str, name: str) -> ast.expr | None:
    for statement in tree_of(module).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and name in _bound(statement):
            return statement.value
    return None


def constant(module: str, name: str, default: Any = None) -> Any:
    """The literal value of a module's top-level constant, or `default` where it has none."""
    value = _value(module, name)
    return default if value is None else ast.literal_eval(value)


# ------------------------------------------------------------------------------------------------- registries


@cache
def entries(kind: str) -> dict[str, ast.expr]:
    """Name -> expression, of the registry of `kind`."""
    module, name = REGISTRIES[kind]
    table = _value(module, name)
    if not isinstance(table, ast.Dict):
        raise SourceError(f"{module}.{name} is not a dict literal")
    return {ast.literal_eval(key): value for key, value in zip(table.keys, table.values, strict=True) if key}


@cache
def locate(kind: str, function: str) -> tuple[str, str]:
    """(module, attribute) of what a study file names: an entry of the registry of `kind`, or `module:object`."""
    if ":" in function:
        module, _, attribute = function.partition(":")
        return module, attribute
    known = entries(kind)
    if function not in known:
        raise SourceError(f"unknown {kind} {function!r}; valid: {', '.join(known)}, or module:object")
    value = known[function]
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        module, _, attribute = value.value.partition(":")
        return module, attribute
    return REGISTRIES[kind][0], ast.unparse(value)


# ------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a factory. `annotation` is its source text; `default` is None where required."""

    name: str
    annotation: str
    required: bool
    default: Any


#: Annotation -> (type, test, words). The names stand in sparsity_cliff.registry.
KINDS: dict[str, tuple[type, Any, str]] = {
    "bool": (bool, lambda x: True, "true or false"),
    "int": (int, lambda x: True, "an integer"),
    "float": (float, lambda x: True, "a number"),
    "str": (str, lambda x: True, "a text"),
    "Count": (int, lambda x: x >= 1, "an integer >= 1"),
    "Size": (int, lambda x: x >= 0, "an integer >= 0"),
    "Share": (float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "Momentum": (float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "Positive": (float, lambda x: x > 0, "a number > 0"),
    "NonNegative": (float, lambda x: x >= 0, "a number >= 0"),
}


@cache
def options(kind: str, function: str) -> dict[str, Option]:
    """The options of what a study file names: its keyword-only arguments, a class's being those of __init__."""
    module, attribute = locate(kind, function)
    found = next((s for s in tree_of(module).body if attribute in _bound(s)), None)
    if isinstance(found, ast.ClassDef):
        inits = (s for s in found.body if isinstance(s, ast.FunctionDef) and s.name == "__init__")
        found = next(inits, ast.parse("def __init__(self): pass").body[0])
    if not isinstance(found, ast.FunctionDef):
        raise SourceError(f"module {module} has no function or class {attribute}")
    table = {}
    for argument, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "missing"
        try:
            value = None if default is None else ast.literal_eval(default)
        except ValueError as error:
            problem = f"{module}.{attribute}: the default of {argument.arg} is not a literal: {ast.unparse(default)}"  # type: ignore[arg-type]
            raise SourceError(problem) from error
        table[argument.arg] = Option(argument.arg, annotation, default is None, value)
    return table


def convert(annotation: str, value: Any) -> Any:
    """`value` as the annotation has it: numbers of the right type. ValueError with the valid values otherwise."""
    expression = ast.parse(annotation, mode="eval").body
    return _convert(expression, value)


def _convert(annotation: ast.expr, value: Any) -> Any:
    if isinstance(annotation, ast.BinOp):  # X | None
        if value is None:
            return None
        return _convert(annotation.left, value)
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value)
        if outer == "Literal":
            choices = ast.literal_eval(annotation.slice)
            choices = choices if isinstance(choices, tuple) else (choices,)
            if value not in choices:
                raise ValueError(f"valid: {', '.join(map(str, choices))}")
            return value
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("valid: a list that is not empty")
        return [_convert(annotation.slice, item) for item in value]
    name = ast.unparse(annotation)
    if name == "ActivationName":
        bases = [n for n in entries("activation") if not any(o.required for o in options("activation", n).values())]
        if value not in bases:
            raise ValueError(f"valid: {', '.join(bases)}")
        return value
    if name not in KINDS:
        raise ValueError(f"the option's annotation {name!r} is not one that a study can check: {', '.join(KINDS)}")
    kind, valid, words = KINDS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    fits = isinstance(value, kind) if kind in (bool, str) else number and (kind is float or value == int(value))
    if not fits or not valid(value):
        raise ValueError(f"valid: {words}")
    return kind(value)


# ------------------------------------------------------------------------------------------------- digests


@cache
def _imported(module: str) -> set[tuple[str, str | None]]:
    """(module, name) of every import, anywhere in a module's text, of our and the user's own code.

    name is None where a whole module is imported.
    """
    package = module if path_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = _is_module(f"{base}.{alias.name}")
                found.add((f"{base}.{alias.name}", None) if whole else (base, alias.name))
    top = module.partition(".")[0]
    return {(name, item) for name, item in found if name.partition(".")[0] == top or _is_own(name)}


@cache
def _is_own(module: str) -> bool:
    """Whether it is ours or the user's: not of Python, and not installed."""
    if module.partition(".")[0] == PACKAGE:
        return True
    try:
        path = path_of(module)
    except SourceError:
        return False
    # by the folder's name: a virtual environment may see the packages of the system or of the user as well
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not path.is_relative_to(sysconfig.get_path("stdlib"))


@cache
def _is_module(name: str) -> bool:
    try:
        path_of(name)
    except SourceError:
        return False
    return True


@cache
def reach(roots: frozenset[str]) -> frozenset[str]:
    """The modules of our and the user's own code that `roots` reach by imports, themselves included."""
    seen: set[str] = set()
    todo = set(roots)
    while todo:
        module = todo.pop()
        seen.add(module)
        parent = module.rpartition(".")[0]
        parents = {parent} if parent and _is_module(parent) else set()  # a folder without __init__.py has no code
        todo |= ({name for name, _ in _imported(module)} | parents) - seen
    return frozenset(seen)


@cache
def module_digest(module: str, used: frozenset[str]) -> str:
    """Digest of a module's code; comments, docstrings and formatting do not count.

    In the home of a registry, only the entries in `used` count, with what they use, and what is no entry's own.
    `used` also holds names that other modules import from it.
    """
    statements = list(tree_of(module).body)
    lines = []
    for kind, (home, name) in REGISTRIES.items():
        if home == module:
            table = entries(kind)
            lines += [f"{key} = {ast.unparse(value)}" for key, value in table.items() if key in used]
            statements = [s for s in statements if name not in _bound(s)]
            private = _closure(statements, [value for key, value in table.items() if key not in used])
            public = [s for s in statements if not (_bound(s) & private) or _bound(s) & used]
            shared = _closure(statements, [*public, *(table[key] for key in table if key in used)])
            statements = [s for s in statements if s in public or not (_bound(s) & (private - shared))]
    lines += [ast.unparse(statement) for statement in statements]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _closure(statements: list[ast.stmt], roots: Sequence[ast.AST]) -> set[str]:
    """Names bound by `statements` that `roots` use, directly or through one another."""
    homes = {name: statement for statement in statements for name in _bound(statement)}
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        for node in ast.walk(todo.pop()):
            if isinstance(node, ast.Name) and node.id in homes and node.id not in seen:
                seen.add(node.id)
                todo.append(homes[node.id])
    return seen


@cache
def code(root: str, selected: frozenset[tuple[str, str]] = frozenset()) -> dict[str, str]:
    """Module -> digest, of all that the module `root` reaches.

    selected: (kind of registry, name or module:object) of what it will look up at run time. Entries with a file of
    their own, and importable objects, add that file and what it imports; other entries of a registry do not count.
    """
    modules = reach(frozenset({root} | {locate(kind, function)[0] for kind, function in selected}))
    used: dict[str, set[str]] = {REGISTRIES[kind][0]: set() for kind, _ in selected}
    for kind, function in selected:
        used[REGISTRIES[kind][0]].add(function)
    for module in modules:
        for home, name in _imported(module):
            # of a module imported as a whole, any name may be used
            names = {n for s in tree_of(home).body for n in _bound(s)} if name in (None, "*") else {str(name)}
            used.setdefault(home, set()).update(names)
    return {module: module_digest(module, frozenset(used.get(module, ()))) for module in sorted(modules)}
