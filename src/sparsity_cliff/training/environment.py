"""The environment of a run: everything that affects the last bits of its numbers besides spec and code."""

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def pick_device(name: str) -> torch.device:
    """The device for a study's setting: cpu, cuda, mps, or auto for the best one available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """Device, processor, instruction set, threads, and versions, as a trace records them.

    instruction_set: the set that torch's kernels use, and the settings that restrict torch's libraries.
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
    """Versions of Python and of the numerical packages."""
    packages = ("sparsity_cliff", "torch", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def processor() -> str:
    """The model of this machine's processor, or its architecture (`arm`, `aarch64`) if the model is not known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine()
