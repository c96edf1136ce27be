"""The reader of study files. It returns mappings with string keys, lists, strings, finite numbers, booleans, and null.

It is stricter than YAML 1.1, which PyYAML implements: a value that is probably a mistake is an error with its line.
Numbers follow YAML 1.2, in which `1e-3` is a number.

Snakemake reads the file of --configfile before it runs any Snakefile, and its error messages lack file and line. The
profiles of this project therefore run this file as a script before Snakemake reads the study. This file imports
nothing from the package, because the Snakefile decides later which copy of the package is imported.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

DEFAULT = "config.yaml"
KEY = 100  # characters of a key
BYTES = 250_000  # of a study file
DEPTH = 20  # of nested mappings and lists
LARGEST = sys.float_info.max
VALUES = 100_000  # of a study file, with aliases expanded

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster
#: Characters at which the C parser may accept a text that the Python parser, which Snakemake uses, rejects.
_DISPUTED = re.compile("[?\t\ufeff]")

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[+-]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][+-]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_OPEN = object()  # the value of an anchor that is still being read


class StudyError(ValueError):
    """A study cannot be run. The message is one line with the place, the problem, and the valid values."""


def shown(path: str | Path) -> str:
    """A study file's name in messages, relative to the working directory if the file is inside it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def read(path: str | Path) -> tuple[Config, dict[str, int]]:
    """The contents of a study file, and the line of each key (`architectures.mlp.steps`: 12).

    Raises StudyError, which names the file and the line, if the file is missing, unreadable, or not valid.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(BYTES + 1)
        if len(content) > BYTES:
            raise StudyError(f"more than {BYTES} bytes; valid: at most {BYTES}")
        text = content.decode()
        reader = _Reader(text)
        config = reader.document()
        if _DISPUTED.search(text):
            for _ in yaml.parse(text, Loader=yaml.SafeLoader):
                pass
        return config, reader.lines
    except OSError as error:
        raise StudyError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{shown(path)}: line {line}: not valid UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        says = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise StudyError(f"{shown(path)}: line {line}: not valid YAML ({says})") from error
    except StudyError as error:
        raise StudyError(f"{shown(path)}: {error}") from error


class _Reader:
    """Builds the values of a text from the events of the YAML parser, within the limits above."""

    def __init__(self, text: str):
        if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
            line = text.count("\n", 0, bad.start()) + 1
            raise StudyError(f"line {line}: character {bad[0]!r} is not valid; valid: printable text")
        self._loader = LOADER(text)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self.lines: dict[str, int] = {}

    def document(self) -> Config:
        loader = self._loader
        loader.get_event()  # the stream's start
        if loader.check_event(yaml.StreamEndEvent):
            raise StudyError("empty; a study file is a mapping of sections")
        loader.get_event()  # the document's start
        event = loader.peek_event()
        if not isinstance(event, yaml.MappingStartEvent):
            raise StudyError("a study file is a mapping of sections")
        value: Config = self._value((), 0)
        loader.get_event()  # its end
        if not loader.check_event(yaml.StreamEndEvent):
            raise StudyError(f"line {_line(loader.peek_event())}: a second document; valid: one document")
        return value

    def _value(self, path: tuple[str, ...], depth: int) -> Any:
        event = self._loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            raise StudyError(f"line {_line(event)}: tag {event.tag!r} is not valid; valid: values without tags")
        if depth >= DEPTH:
            raise StudyError(f"line {_line(event)}: nested too deeply; valid: at most {DEPTH} levels")
        if event.anchor:
            self._anchors[event.anchor] = _OPEN, 0
        before = self._values
        self._count(1, event)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = self._mapping(event, path, depth)
        if event.anchor:
            self._anchors[event.anchor] = value, self._values - before
        return value

    def _count(self, values: int, event: yaml.Event) -> None:
        self._values += values
        if self._values > VALUES:
            raise StudyError(f"line {_line(event)}: too many values; valid: at most {VALUES}, with aliases expanded")

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            raise StudyError(f"line {_line(event)}: alias *{event.anchor} has no anchor &{event.anchor} before it")
        value, size = self._anchors[event.anchor]
        if value is _OPEN:
            raise StudyError(f"line {_line(event)}: *{event.anchor} is inside its own anchor")
        self._count(size, event)
        return value

    def _sequence(self, path: tuple[str, ...], depth: int) -> list[Any]:
        items: list[Any] = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            inner = (*path, str(len(items)))
            self.lines[".".join(inner)] = _line(self._loader.peek_event())
            items.append(self._value(inner, depth + 1))
        self._loader.get_event()
        return items

    def _mapping(self, start: yaml.Event, path: tuple[str, ...], depth: int) -> Config:
        own: Config = {}
        merged: list[Config] | None = None
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.peek_event()
            plain = isinstance(event, yaml.ScalarEvent) and not event.style
            key = self._value(path, depth + 1)
            merge = plain and key == "<<"
            if not isinstance(key, str):
                written = event.value if isinstance(event, yaml.ScalarEvent) else "a list or mapping"
                raise StudyError(
                    f"line {_line(event)}: key {written} is not a string; put numbers, dates, and yes or no in quotes"
                )
            if len(key) > KEY or not key.isprintable():
                raise StudyError(
                    f"line {_line(event)}: key {_short(key)!r} is not valid; valid: at most {KEY} printable characters"
                )
            if key in own or (merge and merged is not None):
                raise StudyError(f"line {_line(event)}: key {key!r} appears twice")
            if merge:
                merged = _mappings(self._value(path, depth + 1), event)
                continue
            inner = (*path, key)
            self.lines[".".join(inner)] = _line(event)
            own[key] = self._value(inner, depth + 1)
        self._loader.get_event()
        inherited: Config = {}
        for mapping in reversed(merged or []):  # the first of several wins
            inherited |= mapping
        return inherited | own

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text, line = event.value, _line(event)
        if event.style:  # in quotes or a block
            return text
        if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                raise StudyError(f"line {line}: {_short(text)} is not valid; valid: numbers up to {LARGEST:.1e}")
            return int(text) if _INTEGER.fullmatch(text) else number
        tag = self._loader.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_TAG)
        if tag == "bool":
            return self._loader.bool_values[text.lower()]
        if tag == "null":
            return None
        if tag in ("str", "merge"):
            return text
        if tag == "int":
            raise StudyError(f"line {line}: {_short(text)} is not a decimal number; valid: digits without a leading 0")
        if tag == "float":
            raise StudyError(f"line {line}: {_short(text)} is not valid; valid: finite decimal numbers")
        raise StudyError(f"line {line}: {_short(text)} is a {tag} in YAML; put such text in quotes")


def _mappings(value: Any, event: yaml.Event) -> list[Config]:
    """The mappings that `<<` merges, given as one mapping or a list of them."""
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in found):
        raise StudyError(f"line {_line(event)}: << takes a mapping or a list of mappings")
    return found


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return int(event.start_mark.line) + 1


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def chosen(files: Sequence[str | Path], overrides: Mapping[str, Any] | Sequence[str] = ()) -> str | Path:
    """The study file that a command line of Snakemake names.

    Raises StudyError for several files, and for any --config but `partial` (workflow/rules/train.smk).
    """
    if any(text.partition("=")[0] != "partial" for text in overrides):
        raise StudyError("--config: a study is one file; change a copy of it and use --configfile COPY")
    if len(files) > 1:
        raise StudyError(f"--configfile: a study is one file; got {', '.join(map(shown, files))}")
    return files[0] if files else DEFAULT


def check(arguments: Sequence[str]) -> None:
    """Exit with one line if a command line of Snakemake names a study that cannot be read."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    parser.add_argument("--config", "-C", nargs="*", action="extend", default=[])
    options, _ = parser.parse_known_args(arguments)
    try:
        path = chosen(options.configfile, options.config)
        if options.configfile:  # only the Snakefile reads the default study
            read(path)
    except StudyError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    check(sys.argv[1:])
