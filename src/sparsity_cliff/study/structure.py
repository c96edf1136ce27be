"""Checks the shape of a study file (sections, keys, types, and ranges) against the schema, and words the errors."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from sparsity_cliff.study import reading
from sparsity_cliff.study.reading import Config, StudyError

SCHEMA_FILE = Path(__file__).parents[3] / "workflow" / "schemas" / "config.schema.yaml"


_SCIENTIFIC = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")


def numbers(value: Any, where: str = "") -> Any:
    """A value with whole numbers as integers: 1e3 and 2.0 are counts, as 1000 and 2 are.

    Other YAML libraries read 1e-3 as a string and write it in quotes, so such strings become numbers, too. Raises
    StudyError for a number that is not finite.
    """
    if isinstance(value, Mapping):
        return {key: numbers(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item, f"{where}.{number}") for number, item in enumerate(value)]
    if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        value = float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StudyError(f"{where}: {value} is not valid; valid: a finite number")
        return int(value) if value.is_integer() else value
    return value


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(yaml.load(SCHEMA_FILE.read_bytes(), Loader=reading.LOADER))


def shown(value: Any) -> str:
    """A value as error messages show it."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(key: str, valid: list[str], what: str = "key") -> str:
    """The error message for an unknown key, with the closest valid one as a suggestion."""
    close = difflib.get_close_matches(str(key), valid, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {what} {shown(key)}{hint}; valid: {', '.join(valid) or 'none'}"


def check(config: Config) -> None:
    """Check sections, keys, types, and ranges of a study file. Raises StudyError for the first error."""
    errors = sorted(_validator().iter_errors(config), key=lambda e: (len(e.absolute_path), str(e.absolute_path)))
    if not errors:
        return
    error = errors[0]
    where = ".".join(str(part) for part in error.absolute_path)
    dot = f"{where}." if where else ""
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        extra = next(key for key in error.instance if key not in known)
        raise StudyError(f"{dot}{extra}: {unknown(extra, known)}")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise StudyError(f"{dot}{missing}: missing; {where or 'a study'} needs {', '.join(error.validator_value)}")
    if error.validator == "propertyNames" or error.validator == "pattern":
        raise StudyError(
            f"{where}: {shown(error.instance)} is not a valid name; valid: a letter, then letters, digits, _ or -, at "
            "most 60 characters"
        )
    valid = error.schema.get("description") or f"{error.validator} {error.validator_value}"
    raise StudyError(f"{where}: {shown(error.instance)} is not valid; valid: {valid}")


def check_repeats(config: Config) -> None:
    """Raise StudyError for a name that appears twice in an axis of the grid or in another list of names."""
    axes = ("architectures", "activations", "losses", "normalizations", "data")
    lists = [(f"grid.{i}.{axis}", block.get(axis, [])) for i, block in enumerate(config["grid"]) for axis in axes]
    lists += [("probes.measure", config["probes"]["measure"])]
    lists += [("cliff.losses", config["cliff"]["losses"])]
    lists += [("drift.controls", config["drift"]["controls"])]
    for where, names in lists:
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise StudyError(f"{where}: {twice} appears twice; valid: a list of names without repeats")
