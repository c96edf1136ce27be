"""Checkpoints: atomic, checked on load, and bound to the spec and the code that wrote them.

A file is the SHA-256 of the rest, then what torch.save writes of plain containers and tensors; it is loaded with
`weights_only`, so no code in it is ever run.
"""

import copy
import hashlib
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

#: Exit status of a job that was told to stop, has saved its state and wants to be started again (BSD's EX_TEMPFAIL).
COME_BACK = 75


class CheckpointError(ValueError):
    """A checkpoint that must not be used; the message names the file and says why."""


class UnfitError(CheckpointError):
    """A checkpoint of the right run whose contents are not what this run saves."""


class Interrupted(SystemExit):
    """Ends the process with COME_BACK after the state was saved, because a signal asked the run to stop."""

    def __init__(self) -> None:
        super().__init__(COME_BACK)


def save(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `state` to `path`: to a temporary name, synced, then renamed. A folder of that name is set aside first."""
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
        if _is_folder(path):
            path.rename(_free_name(path))  # whoever made it, it is not ours to delete
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, identity: str | None = None) -> dict[str, Any] | None:
    """The state saved at `path`, or None where there is none.

    CheckpointError where it cannot be read, is torn, no checkpoint or, with an identity, another run's.
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
    except Exception as error:  # of many kinds, depending on what the file holds instead
        raise CheckpointError(f"{path}: not a checkpoint ({type(error).__name__} in torch.load)") from error
    if not isinstance(saved, dict) or {key: type(saved[key]) for key in saved} != {"identity": str, "state": dict}:
        raise CheckpointError(f"{path}: not a checkpoint (identity or state missing)")
    if identity not in (None, saved["identity"]):
        raise CheckpointError(f"{path}: foreign checkpoint (made by another spec or other code)")
    state: dict[str, Any] = saved["state"]
    return state


def restore_module(module: nn.Module, state: Any) -> None:
    """load_state_dict, and ValueError where torch would convert silently."""
    for key, own in module.state_dict().items():
        other = state.get(key)
        if isinstance(own, torch.Tensor) and isinstance(other, torch.Tensor) and own.dtype != other.dtype:
            raise ValueError(f"{key} is {other.dtype} and not {own.dtype}")
    module.load_state_dict(state)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """load_state_dict, and ValueError where the optimizer's next steps would fail, which torch does not look at.

    What an optimizer keeps of a parameter is compared with what a copy of it keeps after a step.
    """
    twin = copy.deepcopy(optimizer)
    for parameter in (parameter for group in twin.param_groups for parameter in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    twin.step()
    right = twin.state_dict()
    theirs, own = ([(group.keys(), group["params"]) for group in s["param_groups"]] for s in (state, right))
    if theirs != own:
        raise ValueError("the optimizer has other groups of parameters")
    for index, kept in state["state"].items():  # a parameter that never had a gradient has none
        for key, value in right["state"][index].items():
            if _form(kept[key]) != _form(value):
                raise ValueError(f"{key} of parameter {index} is {_form(kept[key])} and not {_form(value)}")
    optimizer.load_state_dict(state)


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def remove(path: Path) -> None:
    """Delete a checkpoint and what interrupted saves left beside it; and the three folders around it that are empty."""
    for file in (*path.parent.glob(".*.pt.*"), path):
        if not _is_folder(file):
            file.unlink(missing_ok=True)
    for folder in path.parents[:3]:
        with suppress(OSError):  # not empty, or another run's job was faster
            folder.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _free_name(path: Path) -> Path:
    """state.pt.1, or the first number that is free."""
    return next(name for number in count(1) if not (name := path.with_name(f"{path.name}.{number}")).exists())


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
