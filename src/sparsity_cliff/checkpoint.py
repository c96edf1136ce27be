"""Checkpoints: atomic, checked on load, and bound to the spec and the code that wrote them.

A file is the SHA-256 of the rest, then what torch.save writes of plain containers and tensors; it is loaded with
`weights_only`, so no code in it is ever run.
"""

import hashlib
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

#: Exit status of a job that was told to stop, has saved its state and wants to be started again (BSD's EX_TEMPFAIL).
COME_BACK = 75


class CheckpointError(ValueError):
    """A checkpoint that must not be used; the message names the file and says why."""


class Interrupted(SystemExit):
    """Ends the process with COME_BACK after the state was saved, because a signal asked the run to stop."""

    def __init__(self) -> None:
        super().__init__(COME_BACK)


def save(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `state` to `path`: to a temporary name, synced, then renamed."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, "state": state}, buffer)
    body = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, identity: str | None = None) -> dict[str, Any] | None:
    """The state saved at `path`, or None where there is none.

    CheckpointError where it is torn, no checkpoint or, with an identity, another run's.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"{path}: torn checkpoint (checksum does not match)")
    try:
        saved = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, depending on what the file holds instead
        raise CheckpointError(f"{path}: not a checkpoint ({type(error).__name__} in torch.load)") from error
    if not isinstance(saved, dict) or saved.keys() != {"identity", "state"}:
        raise CheckpointError(f"{path}: not a checkpoint (identity or state missing)")
    if identity not in (None, saved["identity"]):
        raise CheckpointError(f"{path}: foreign checkpoint (made by another spec or other code)")
    state: dict[str, Any] = saved["state"]
    return state


def remove(path: Path) -> None:
    """Delete a checkpoint and what interrupted saves left beside it; and the three folders around it that are empty."""
    for leftover in path.parent.glob(".*.pt.*"):
        leftover.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    for folder in path.parents[:3]:
        with suppress(OSError):  # not empty, or another run's job was faster
            folder.rmdir()


class StopRequest:
    """True once SIGTERM, SIGINT or SIGUSR2 has arrived."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Within: the signals set the request and do nothing else. Main thread only."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.requested = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
