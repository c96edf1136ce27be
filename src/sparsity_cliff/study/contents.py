"""Digests of the files that a data entry names. A run on user data is stale when these files change.

Every option of type `str` or `list[str]` counts if its value is the path of a file or folder, relative to where the
workflow starts. Contents decide; times only show when a large file has to be read again.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsity_cliff.study import options as known

LARGE = 1 << 26  # bytes; digests of larger files (0.1 s of reading) are cached
KEPT = Path("results") / "data" / "digests.json"


def of_entry(entry: Mapping[str, Any]) -> dict[str, str]:
    """Path -> digest of each file or folder that a resolved data entry {function, **options} names.

    Raises OSError if one cannot be read.
    """
    options = known.options_of("data", entry["function"])
    values = [entry[name] for name, option in options.items() if "str" in option.annotation]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return {text: _digest(text) for text in texts if isinstance(text, str) and os.path.exists(text)}


def _digest(path: str) -> str:
    """Digest of a file's bytes, or of the names and bytes of all files below a folder."""
    if not os.path.isdir(path):
        return _file(path)
    sha = hashlib.sha256()
    for name in sorted(_below(path)):
        sha.update(f"{name}\0{_file(os.path.join(path, name))}\n".encode(errors="surrogateescape"))
    return sha.hexdigest()


def _below(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.relpath(os.path.join(parent, name), folder) for name in names)


def _file(path: str) -> str:
    state = os.stat(path)
    if state.st_size < LARGE:
        return _read(path)
    # no program can set ctime, so it shows an edit that keeps size and modification time
    key = [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    kept = _kept()
    known = kept.get(os.path.abspath(path))
    if known and known[:-1] == key:
        return str(known[-1])
    digest = _read(path)
    with suppress(OSError):  # read-only folder: the file is read every time
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        temporary = KEPT.with_name(f".{KEPT.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**kept, os.path.abspath(path): [*key, digest]}, indent=0))
        os.replace(temporary, KEPT)
    return digest


def _kept() -> dict[str, list[Any]]:
    try:
        kept = json.loads(KEPT.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
