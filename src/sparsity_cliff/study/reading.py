"""The text of a study file -> plain values: mappings with texts as keys, lists, texts, finite numbers, booleans, null.

The one reader of study files. It is stricter than YAML 1.1, which PyYAML implements: what nobody means is an error with
its line, and not another value. Numbers are those of YAML 1.2 (`1e-3` is one).

Snakemake, too, reads the file of a --configfile, and before any Snakefile. The profiles of this project run this file
as a script before that, so that a mistake gets our line and not a message of Snakemake's without file and line. It
imports nothing of the package: which copy of that is to be used, the Snakefile decides.
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
KEY = 100  # letters of a key
BYTES = 250_000  # of a study file
DEPTH = 20  # of mappings and lists within each other
LARGEST = sys.float_info.max
VALUES = 100_000  # of a study file, with every alias written out

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time
#: Where one of these stands, the parser in C may accept what the one in Python, which Snakemake uses, does not.
_DISPUTED = re.compile("[?\t\ufeff]")

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[+-]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][+-]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_OPEN = object()  # the value of an anchor whose end has not come


class StudyError(ValueError):
    """A study that cannot be run; the message is one line: where, what, and the valid values."""


def shown(path: str | Path) -> str:
    """A study file's name in messages: relative to the working directory where it lies there."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def read(path: str | Path) -> tuple[Config, dict[str, int]]:
    """The contents of a study file, and the line of each key (`architectures.mlp.steps`: 12).

    StudyError, which names the file and the line, where it is missing, unreadable, or no such text.
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
        raise StudyError(f"{shown(path)}: line {line}: not a text in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        says = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise StudyError(f"{shown(path)}: line {line}: not valid YAML ({says})") from error
    except StudyError as error:
        raise StudyError(f"{shown(path)}: {error}") from error


class _Reader:
    """Builds the values of one text from the events of YAML's parser, with a bound on all that can grow."""

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
            raise StudyError(f"line {_line(loader.peek_event())}: a second document; a study file is one")
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
            raise StudyError(f"line {_line(event)}: too many values; valid: at most {VALUES}, aliases written out")

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            raise StudyError(f"line {_line(event)}: no &{event.anchor} before *{event.anchor}")
        value, size = self._anchors[event.anchor]
        if value is _OPEN:
            raise StudyError(f"line {_line(event)}: *{event.anchor} is inside of what it names")
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
                    f"line {_line(event)}: key {written} is not a text; a number, date or yes needs quotes"
                )
            if len(key) > KEY or not key.isprintable():
                raise StudyError(
                    f"line {_line(event)}: key {_short(key)!r} is not valid; valid: {KEY} printable letters"
                )
            if key in own or (merge and merged is not None):
                raise StudyError(f"line {_line(event)}: key {key!r} stands twice")
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
            raise StudyError(
                f"line {line}: {_short(text)} is not a decimal number; valid: digits, without a 0 before them"
            )
        if tag == "float":
            raise StudyError(f"line {line}: {_short(text)} is not valid; valid: finite decimal numbers")
        raise StudyError(f"line {line}: {_short(text)} is a {tag} in YAML; a text of this form needs quotes")


def _mappings(value: Any, event: yaml.Event) -> list[Config]:
    """What `<<` merges: a mapping, or a list of such."""
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
    """The one study file that a command line of Snakemake names, by --configfile and --config. StudyError otherwise."""
    if overrides:
        raise StudyError("--config: a study is one file; write the change into a copy of it and give --configfile COPY")
    if len(files) > 1:
        raise StudyError(f"--configfile: a study is one file; here {', '.join(map(shown, files))}")
    return files[0] if files else DEFAULT


def check(arguments: Sequence[str]) -> None:
    """SystemExit with one line where a command line of Snakemake names a study that cannot be read."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    parser.add_argument("--config", "-C", nargs="*", action="extend", default=[])
    options, _ = parser.parse_known_args(arguments)
    try:
        path = chosen(options.configfile, options.config)
        if options.configfile:  # the default one is read by the Snakefile, and by it alone
            read(path)
    except StudyError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    check(sys.argv[1:])
