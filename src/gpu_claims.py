"""Assign the GPUs of this machine to processes. Snakemake's `resources: gpu=1` only counts GPUs.

Each device has one or more slots. A slot is a file that its owner locks with flock. The kernel releases the lock when
the process ends, however it ends, so nothing is left to clean up.
"""

import contextlib
import fcntl
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CLAIMED = "SUBMITIT_PLUGIN_DEVICES_CLAIMED"  # set for the child processes of a process that claimed devices
LOCKS = Path("/tmp")  # not tempfile.gettempdir(): jobs with different TMPDIRs would not see each other's locks
LOOK_EVERY = 0.2  # seconds

_held: list[int] = []  # descriptors of the locked slots, open until this process ends


class DeviceError(ValueError):
    """Devices cannot be claimed; the message is one line."""


def claim(count: int, per_device: int = 1, log: Callable[[str], None] = print) -> list[str]:
    """Claim `count` distinct devices until this process ends, and return their names. Waits until they are free.

    Sets CUDA_VISIBLE_DEVICES to the claimed devices. `per_device` is the number of processes that may share a device;
    all processes that use a device must pass the same number. The function offers the devices in CUDA_VISIBLE_DEVICES
    if it is set, otherwise those that nvidia-smi lists. Name devices in the same way everywhere on a machine, because
    "0" and a UUID count as different devices. Processes of other users are not seen. Devices of a SLURM allocation are
    shared only among the jobs inside it.

    Does nothing in a child of a process that has claimed devices. Locks belong to this process alone: they are closed
    in forked children and across exec. Raises DeviceError if there are fewer than `count` devices.
    """
    if CLAIMED in os.environ:
        return _visible() or []
    on_offer = offered()
    if count > len(on_offer):
        known = f": {', '.join(on_offer)}" if on_offer else " (CUDA_VISIBLE_DEVICES is unset or empty)"
        raise DeviceError(f"{count} GPUs requested, but this machine offers {len(on_offer)}{known}")
    folder, scope = _folder(), f"job-{os.environ['SLURM_JOB_ID']}." if _given_by_slurm() else ""
    slots = [(device, folder / f"{scope}{device}.{slot}") for slot in range(per_device) for device in on_offer]
    taken: list[str] = []

    # queue: only one process collects devices at a time, which prevents deadlocks and starvation of large claims
    queue = _try(folder / f"{scope}queue")
    if queue is None:
        log(f"waiting for {count} of the GPUs {', '.join(on_offer)}: other processes are already waiting")
        queue = _open(folder / f"{scope}queue")
        fcntl.flock(queue, fcntl.LOCK_EX)
    told = False
    while len(taken) < count:
        for device, path in slots:
            if len(taken) < count and device not in taken and (descriptor := _try(path)) is not None:
                _held.append(descriptor)
                taken.append(device)
        if len(taken) < count:
            if not told:
                log(f"waiting for {count - len(taken)} of the GPUs {', '.join(on_offer)}: all are in use")
            told = True
            time.sleep(LOOK_EVERY)
    os.close(queue)

    taken.sort(key=on_offer.index)
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[CLAIMED] = ",".join(taken)
    return taken


def offered() -> list[str]:
    """The devices that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    visible = _visible()
    return _listed() if visible is None else visible


def _visible() -> list[str] | None:
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name in ("-1", "NoDevFiles"):  # CUDA ignores the rest; NoDevFiles is SLURM's word for none
            break
        if name and name not in names:
            names.append(name)
    return names


def _listed() -> list[str]:
    """UUIDs of the devices, since nvidia-smi may number them unlike CUDA. A MIG GPU is listed by its parts."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"no GPUs: CUDA_VISIBLE_DEVICES is not set, and nvidia-smi -L failed ({error})") from error
    parts: dict[str, list[str]] = {}
    gpu = ""
    for kind, name in re.findall(r"UUID: (GPU|MIG)(-[^)\s]+)", done.stdout):
        if kind == "GPU":
            gpu = kind + name
            parts[gpu] = []
        else:
            parts.setdefault(gpu, []).append(kind + name)
    return [name for gpu, cut in parts.items() for name in (cut or [gpu])]


def _given_by_slurm() -> bool:
    said = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")
    return "SLURM_JOB_ID" in os.environ and "CUDA_VISIBLE_DEVICES" in os.environ and any(v in os.environ for v in said)


def _folder() -> Path:
    folder = LOCKS / f"gpu-slots-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise DeviceError(f"{folder}: not a folder owned by this user; the locks on GPUs need one")
    return folder


def _open(path: Path) -> int:
    return os.open(path.with_name(path.name.replace("/", "_")), os.O_RDWR | os.O_CREAT, 0o600)  # closed across exec


def _try(path: Path) -> int | None:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _forget() -> None:
    """Close the locks in a forked child, whose copies would outlive the parent's."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget)
