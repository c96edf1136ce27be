"""What modules state about themselves as expressions, judged: REQUIRES and EXAMPLES."""

from collections.abc import Mapping
from typing import Any

from sparsity_cliff.study import expressions
from sparsity_cliff.study.reading import StudyError


def judged(what: str, text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression. StudyError where it has none; `what` is its place."""
    try:
        return expressions.value(text, names)
    except ValueError as error:
        raise StudyError(f"{what} {text!r} cannot be judged ({error})") from error


def requirement(where: str, function: str, module: str, text: str, names: Mapping[str, Any]) -> None:
    """StudyError where a requirement of a module is not met, or is no expression."""
    used = ", ".join(f"{word}={names[word]}" for word in words(where, module, text) if word in names)
    try:
        met = expressions.value(text, names)
    except ValueError as error:
        raise StudyError(f"{where}: {module}.REQUIRES {text!r} cannot be judged ({error}); here {used}") from error
    if not met:
        raise StudyError(f"{where}: {function} needs {text}; here {used}")


def words(where: str, module: str, text: str) -> list[str]:
    """The names in a requirement. StudyError where it is no expression."""
    try:
        return expressions.names(text)
    except ValueError as error:
        raise StudyError(f"{where}: {module}.REQUIRES {text!r} cannot be judged ({error})") from error
