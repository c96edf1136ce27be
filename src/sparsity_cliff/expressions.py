"""What a module states about itself as a text, such as REQUIRES = ("width % heads == 0",): arithmetic and comparisons
of names, judged without importing the module and without running any code of it.
"""

import ast
from collections.abc import Mapping
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
    """The names in an expression, each once. ValueError, without the text, where it is no expression."""
    return list(dict.fromkeys(node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)))


def value(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression. ValueError, without the text, where it has none."""
    code = compile(_parse(text), "<expression>", "eval")
    try:
        return eval(code, {"__builtins__": {}}, dict(values))
    except Exception as error:  # division by zero, None % 2, a name that is not there
        raise ValueError(str(error)) from error
