"""Evaluate expressions that a module defines as strings, such as REQUIRES = ("width % heads == 0",).

An expression has arithmetic and comparisons of names. Its evaluation neither imports the module nor runs its code.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_VALID: tuple[type[ast.AST], ...] = (ast.Expression, ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List, ast.IfExp)
_VALID += (ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop, ast.BinOp)
_VALID += (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


@cache
def _parse(text: str) -> ast.Expression:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("not a Python expression") from error
    for node in ast.walk(tree):
        if not isinstance(node, _VALID):
            raise ValueError(
                f"{type(node).__name__} is not valid; valid: names, numbers, + - * / // %, comparisons, and or not"
            )
    return tree


def names(text: str) -> list[str]:
    """The names in an expression, each once. Raises ValueError if the text is not a valid expression."""
    return list(dict.fromkeys(node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)))


def value(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression. Raises ValueError if it is not valid or cannot be evaluated."""
    try:
        return _evaluate(_parse(text).body, values)
    except Exception as error:  # division by zero, None % 2, an undefined name
        raise ValueError(str(error)) from error


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """Evaluate as Python does: `and`, `or`, and chained comparisons stop at the first operand that decides."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            if node.id not in values:
                raise NameError(f"name {node.id!r} is not defined")
            return values[node.id]
        case ast.Tuple() | ast.List():
            return [_evaluate(item, values) for item in node.elts]
        case ast.IfExp():
            return _evaluate(node.body if _evaluate(node.test, values) else node.orelse, values)
        case ast.BoolOp():
            result = None
            for part in node.values:
                result = _evaluate(part, values)
                if bool(result) == isinstance(node.op, ast.Or):
                    break
            return result
        case ast.UnaryOp():
            return _OPERATORS[type(node.op)](_evaluate(node.operand, values))
        case ast.BinOp():
            return _OPERATORS[type(node.op)](_evaluate(node.left, values), _evaluate(node.right, values))
        case ast.Compare():
            left, result = _evaluate(node.left, values), True
            for kind, part in zip(node.ops, node.comparators, strict=True):
                right = _evaluate(part, values)
                result = _OPERATORS[type(kind)](left, right)
                if not result:
                    break
                left = right
            return result
    raise TypeError(f"{type(node).__name__} is not valid")
