"""Checkpoints, which are atomic, checked on load, and bound to the spec and the code that wrote them.

A file begins with the SHA-256 of its remainder, which torch.save writes from plain containers and tensors. It is loaded
with `weights_only`, so code in it never runs.
"""

import hashlib
import io
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch

from sparsity_cliff.traces.files import whole


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written; the message names the file and the reason."""


class UnfitError(CheckpointError):
    """A checkpoint belongs to the run, but its contents are not a state of the run."""


def save(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically. A folder with this name is renamed first."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, "state": state}, buffer)
    body = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_bytes(hashlib.sha256(body).digest() + body)
        if _is_folder(path):
            path.rename(_free_name(path))  # it is foreign, so it is not deleted


def load(path: Path, identity: str | None = None) -> dict[str, Any] | None:
    """The state saved at `path`; None if there is none.

    Raises CheckpointError if the file cannot be read, is torn, or is not a checkpoint; with an identity, also if it
    belongs to another run.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a checkpoint (not a file)")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: unreadable checkpoint ({error.strerror or error})") from error
    digest, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"{path}: torn checkpoint (checksum does not match)")
    try:
        saved = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, depending on the file's contents
        raise CheckpointError(f"{path}: not a checkpoint ({type(error).__name__} in torch.load)") from error
    if not isinstance(saved, dict) or {key: type(saved[key]) for key in saved} != {"identity": str, "state": dict}:
        raise CheckpointError(f"{path}: not a checkpoint (identity or state missing)")
    if identity not in (None, saved["identity"]):
        raise CheckpointError(f"{path}: foreign checkpoint (made by another spec or other code)")
    state: dict[str, Any] = saved["state"]
    return state


def remove(path: Path) -> None:
    """Delete a checkpoint, the leftovers of interrupted saves, and those of its three parent folders that are empty."""
    for file in (*path.parent.glob(".*.pt"), path):
        if not _is_folder(file):
            file.unlink(missing_ok=True)
    for folder in path.parents[:3]:
        with suppress(OSError):  # not empty, or removed by another job
            folder.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _free_name(path: Path) -> Path:
    """state.pt.1, or with the first number that is free."""
    return next(name for number in count(1) if not (name := path.with_name(f"{path.name}.{number}")).exists())
