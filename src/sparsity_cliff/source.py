"""What source code says of itself: registries, options, constants and digests, read with `ast`, never imported.

The study is validated, and what makes a run stale is decided, while the Snakefile is parsed; importing torch there
would cost seconds at every command. So names come from the registries' dicts, options from the factories' signatures,
and digests from the source text.
"""

import ast
import hashlib
import importlib
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
    if not all(part.isidentifier() for part in module.split(".")):
        raise SourceError(f"{module!r} is not the name of a module")
    search: list[str] | None = None
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
            raise SourceError(f"no module named {module} in the working directory, on PYTHONPATH or installed")
        search = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SourceError(f"module {module} has no Python source file")
    return Path(spec.origin)


def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module without its docstrings."""
    return _tree(path_of(module))


@cache
def _tree(path: Path) -> ast.Module:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise SourceError(f"{path}, line {error.lineno}: {error.msg}") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"{path}: not Python that can be read ({error or type(error).__name__})") from error
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
    return default if value is None else _literal(value, f"{module}.{name}")


def words(module: str, name: str) -> tuple[str, ...]:
    """A constant that is a tuple of texts, () where there is none. SourceError where it is anything else."""
    found = constant(module, name, ())
    if not isinstance(found, tuple | list) or not all(isinstance(word, str) for word in found):
        raise SourceError(f"{module}.{name} is {found!r}; valid: a tuple of texts, such as ('one',)")
    return tuple(found)


def _literal(value: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        text = " ".join(ast.unparse(value).split())
        raise SourceError(f"{what} is not a literal: {text if len(text) <= 60 else text[:57] + '...'}") from error


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


# ------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a factory. `annotation` is its source text; `default` is None where required."""

    name: str
    annotation: str
    required: bool
    default: Any


LARGEST = 2**31 - 1  # a count: what seeds and steps are where they are written
MANY = f"to {LARGEST}"

#: Annotation -> (type, test, words). The names stand in sparsity_cliff.registry.
KINDS: dict[str, tuple[type, Any, str]] = {
    "bool": (bool, lambda x: True, "true or false"),
    "int": (int, lambda x: abs(x) < 2**63, "an integer"),
    "float": (float, lambda x: True, "a number"),
    "str": (str, lambda x: True, "a text"),
    "Count": (int, lambda x: 1 <= x <= LARGEST, f"an integer from 1 {MANY}"),
    "Size": (int, lambda x: 0 <= x <= LARGEST, f"an integer from 0 {MANY}"),
    "Share": (float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "Momentum": (float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "Positive": (float, lambda x: x > 0, "a number > 0"),
    "NonNegative": (float, lambda x: x >= 0, "a number >= 0"),
}
#: kind of entry -> what it is called with, by position; all else is by keyword
CALLED: dict[str, tuple[str, ...]] = {
    "activation": (),
    "normalization": ("features", "spatial"),
    "loss": (),
    "model": ("shape", "classes", "activation", "normalization"),
    "data": ("root",),
    "optimizer": ("model",),
    "schedule": (),
}


@cache
def options(kind: str, function: str) -> dict[str, Option]:
    """The options of what a study file names: its keyword-only arguments, a class's being those of __init__.

    SourceError where it is no function or class of its module, or could not be called as CALLED says.
    """
    module, attribute = locate(kind, function)
    what = f"{module}.{attribute}"
    found = next((s for s in tree_of(module).body if attribute in _bound(s)), None)
    bound = 0
    if isinstance(found, ast.ClassDef):
        inits = (s for s in found.body if isinstance(s, ast.FunctionDef) and s.name == "__init__")
        found = next(inits, ast.parse("def __init__(self, *arguments): pass").body[0])
        bound = 1  # self
    if not isinstance(found, ast.FunctionDef):
        raise SourceError(f"module {module} has no function or class {attribute}")
    _callable(kind, what, found.args, bound)
    table = {}
    for argument, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "missing"
        value = None if default is None else _literal(default, f"{what}: the default of {argument.arg}")
        table[argument.arg] = Option(argument.arg, annotation, default is None, value)
    return table


def _callable(kind: str, what: str, arguments: ast.arguments, bound: int) -> None:
    """SourceError where a function with these arguments cannot be called with what its kind is called with."""
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][bound:]
    given = CALLED[kind]
    how = f"({', '.join((*given, '*, options'))})"
    needed = named[: len(named) - len(arguments.defaults)] if arguments.defaults else named
    if len(needed) > len(given):
        raise SourceError(
            f"{what} needs {', '.join(needed[len(given) :])}; valid: {how}, that is, options are keyword-only"
        )
    if len(named) < len(given) and not arguments.vararg:
        raise SourceError(f"{what} takes ({', '.join(named)}); valid: {how}")


def convert(annotation: str, value: Any) -> Any:
    """`value` as the annotation has it: numbers of the right type. ValueError with the valid values otherwise."""
    try:
        expression = ast.parse(annotation, mode="eval").body
    except SyntaxError as error:
        raise ValueError(_unchecked(annotation)) from error
    return _convert(expression, value)


def _unchecked(annotation: str) -> str:
    return f"the option's annotation {annotation!r} is not one that a study can check: {', '.join(KINDS)}"


def _alternatives(annotation: ast.expr) -> list[ast.expr]:
    """X | Y, Optional[X], Union[X, Y], and what is in quotes, as a list of what is none of these."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return _alternatives(ast.parse(annotation.value, mode="eval").body)
        except SyntaxError as error:
            raise ValueError(_unchecked(annotation.value)) from error
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_alternatives(annotation.left), *_alternatives(annotation.right)]
    if isinstance(annotation, ast.Subscript) and _name(annotation.value) in ("Optional", "Union"):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        found = [part for item in inner for part in _alternatives(item)]
        return [*found, ast.Constant(None)] if _name(annotation.value) == "Optional" else found
    return [annotation]


def _name(annotation: ast.expr) -> str:
    """The last part of a dotted name: registry.Count is Count."""
    return ast.unparse(annotation).rpartition(".")[2]


def _convert(annotation: ast.expr, value: Any) -> Any:
    valid = []
    for alternative in _alternatives(annotation):
        if isinstance(alternative, ast.Constant) and alternative.value is None:
            if value is None:
                return None
            valid.append("null")
            continue
        try:
            return _convert_one(alternative, value)
        except ValueError as error:
            valid.append(str(error).removeprefix("valid: "))
    unchecked = [words for words in valid if words.startswith("the option's")]
    raise ValueError(unchecked[0] if unchecked else f"valid: {' or '.join(valid)}")


def _convert_one(annotation: ast.expr, value: Any) -> Any:
    if isinstance(annotation, ast.Subscript):
        return _convert_many(annotation, value)
    name = _name(annotation)
    if name == "ActivationName":
        bases = [n for n in entries("activation") if not any(o.required for o in options("activation", n).values())]
        if value not in bases:
            raise ValueError(f"valid: {', '.join(bases)}")
        return value
    if name not in KINDS:
        raise ValueError(_unchecked(ast.unparse(annotation)))
    kind, valid, says = KINDS[name]
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    fits = isinstance(value, kind) if kind in (bool, str) else number and (kind is float or value == int(value))
    if not fits or not valid(value):
        raise ValueError(f"valid: {says}")
    return kind(value)


def _convert_many(annotation: ast.Subscript, value: Any) -> Any:
    """Literal[...], list[X], tuple[X, ...] and tuple[X, Y]."""
    outer, inner = _name(annotation.value), annotation.slice
    if outer == "Literal":
        try:
            choices = ast.literal_eval(inner)
        except ValueError as error:
            raise ValueError(_unchecked(ast.unparse(annotation))) from error
        choices = choices if isinstance(choices, tuple) else (choices,)
        for choice in choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"valid: {', '.join(map(str, choices))}")
    if outer.lower() not in ("list", "sequence", "tuple"):
        raise ValueError(_unchecked(ast.unparse(annotation)))
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("valid: a list that is not empty")
    if outer.lower() == "tuple" and isinstance(inner, ast.Tuple):
        if isinstance(inner.elts[-1], ast.Constant) and inner.elts[-1].value is ...:
            return [_convert(inner.elts[0], item) for item in value]
        if len(value) != len(inner.elts):
            raise ValueError(f"valid: a list of {len(inner.elts)}")
        return [_convert(part, item) for part, item in zip(inner.elts, value, strict=True)]
    return [_convert(inner, item) for item in value]


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


@cache
def file_digest(path: Path) -> str:
    """Digest of the code in a file that is no module of the package, such as a script of the workflow."""
    return hashlib.sha256(ast.unparse(_tree(path)).encode()).hexdigest()[:12]


def forget() -> None:
    """Read everything anew from now on: the files may have changed."""
    importlib.invalidate_caches()
    for name, function in list(globals().items()):
        if hasattr(function, "cache_clear") and getattr(function, "__module__", "") == __name__:
            globals()[name].cache_clear()


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
