"""Where a run is trained: what, besides spec and code, decides the last bits of its numbers."""

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def pick_device(name: str) -> torch.device:
    """The device of a study's setting: cpu, cuda or mps, or auto for the best that is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """What, besides spec and code, decides the last bits of a run's numbers.

    instruction_set: what torch's own kernels use, and the settings that restrict those of the libraries below it.
    """
    limits = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    level = [
        torch.backends.cpu.get_cpu_capability(),
        *(f"{key}={os.environ[key]}" for key in limits if key in os.environ),
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "instruction_set": " ".join(level),
        "threads": threads,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what can change a number: Python and the numerical packages."""
    packages = ("sparsity_cliff", "torch", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def processor() -> str:
    """The model of this machine's processor, or, where the system does not tell, its kind (`arm`, `aarch64`)."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine()
