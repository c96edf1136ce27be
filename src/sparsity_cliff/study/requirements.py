"""Evaluate the expressions that modules define in REQUIRES and EXAMPLES."""

from collections.abc import Mapping
from typing import Any

from sparsity_cliff.study import expressions
from sparsity_cliff.study.reading import StudyError


def judged(what: str, text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression. Raises StudyError, which begins with `what`, if it cannot be evaluated."""
    try:
        return expressions.value(text, names)
    except ValueError as error:
        raise StudyError(f"{what} {text!r} cannot be evaluated ({error})") from error


def requirement(where: str, function: str, module: str, text: str, names: Mapping[str, Any]) -> None:
    """Raise StudyError if a requirement of a module is not met or is not a valid expression."""
    used = ", ".join(f"{word}={names[word]}" for word in words(where, module, text) if word in names)
    try:
        met = expressions.value(text, names)
    except ValueError as error:
        raise StudyError(f"{where}: {module}.REQUIRES {text!r} cannot be evaluated ({error}); got {used}") from error
    if not met:
        raise StudyError(f"{where}: {function} needs {text}; got {used}")


def words(where: str, module: str, text: str) -> list[str]:
    """The names in a requirement. Raises StudyError if it is not a valid expression."""
    try:
        return expressions.names(text)
    except ValueError as error:
        raise StudyError(f"{where}: {module}.REQUIRES {text!r} cannot be evaluated ({error})") from error
