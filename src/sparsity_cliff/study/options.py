"""Read the options of a factory from the signature in its source, without importing it."""

import ast
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from sparsity_cliff.study.source import SourceError, bound, entries, literal, locate, tree_of


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a factory. `annotation` is source text; `default` is None for a required option."""

    name: str
    annotation: str
    required: bool
    default: Any


LARGEST = 2**31 - 1  # of counts: traces store seeds as int32
MANY = f"to {LARGEST}"

#: Annotation -> (type, test, description of valid values). sparsity_cliff.study.registry defines the names.
KINDS: dict[str, tuple[type, Any, str]] = {
    "bool": (bool, lambda x: True, "true or false"),
    "int": (int, lambda x: abs(x) < 2**63, "an integer"),
    "float": (float, lambda x: True, "a number"),
    "str": (str, lambda x: True, "a string"),
    "Count": (int, lambda x: 1 <= x <= LARGEST, f"an integer from 1 {MANY}"),
    "Size": (int, lambda x: 0 <= x <= LARGEST, f"an integer from 0 {MANY}"),
    "Share": (float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "Momentum": (float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "Positive": (float, lambda x: x > 0, "a number > 0"),
    "NonNegative": (float, lambda x: x >= 0, "a number >= 0"),
}
#: Kind of entry -> its positional arguments. All options are keyword arguments.
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
def options_of(kind: str, function: str) -> dict[str, Option]:
    """Name -> option: the keyword-only arguments of a function, or of a class's __init__.

    Raises SourceError if the module has no such function or class, or if it cannot be called as in CALLED.
    """
    module, attribute = locate(kind, function)
    what = f"{module}.{attribute}"
    found = next((s for s in tree_of(module).body if attribute in bound(s)), None)
    own = 0  # arguments that are already bound
    if isinstance(found, ast.ClassDef):
        inits = (s for s in found.body if isinstance(s, ast.FunctionDef) and s.name == "__init__")
        found = next(inits, ast.parse("def __init__(self, *arguments): pass").body[0])
        own = 1  # self
    if not isinstance(found, ast.FunctionDef):
        raise SourceError(f"module {module} has no function or class {attribute}")
    _callable(kind, what, found.args, own)
    table = {}
    for argument, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else "missing"
        value = None if default is None else literal(default, f"{what}: the default of {argument.arg}")
        table[argument.arg] = Option(argument.arg, annotation, default is None, value)
    return table


def _callable(kind: str, what: str, arguments: ast.arguments, own: int) -> None:
    """Raise SourceError if a function with these arguments cannot be called as in CALLED."""
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][own:]
    given = CALLED[kind]
    how = f"({', '.join((*given, '*, options'))})"
    needed = named[: len(named) - len(arguments.defaults)] if arguments.defaults else named
    if len(needed) > len(given):
        raise SourceError(f"{what} needs {', '.join(needed[len(given) :])}; valid: {how}, with keyword-only options")
    if len(named) < len(given) and not arguments.vararg:
        raise SourceError(f"{what} takes ({', '.join(named)}); valid: {how}")


def convert(annotation: str, value: Any) -> Any:
    """Convert `value` to the type of the annotation. Raises ValueError, with the valid values, if that fails."""
    try:
        expression = ast.parse(annotation, mode="eval").body
    except SyntaxError as error:
        raise ValueError(_unchecked(annotation)) from error
    return _convert(expression, value)


def _unchecked(annotation: str) -> str:
    return f"the option's annotation {annotation!r} is not supported; valid: {', '.join(KINDS)}"


def _alternatives(annotation: ast.expr) -> list[ast.expr]:
    """The alternatives of X | Y, Optional[X], or Union[X, Y], also in quotes."""
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
    """The last part of a dotted name: registry.Count -> Count."""
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
        bases = [n for n in entries("activation") if not any(o.required for o in options_of("activation", n).values())]
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
    """Convert to Literal[...], list[X], tuple[X, ...], or tuple[X, Y]."""
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
        raise ValueError("valid: a non-empty list")
    if outer.lower() == "tuple" and isinstance(inner, ast.Tuple):
        if isinstance(inner.elts[-1], ast.Constant) and inner.elts[-1].value is ...:
            return [_convert(inner.elts[0], item) for item in value]
        if len(value) != len(inner.elts):
            raise ValueError(f"valid: a list of {len(inner.elts)}")
        return [_convert(part, item) for part, item in zip(inner.elts, value, strict=True)]
    return [_convert(inner, item) for item in value]
