"""The plugin's settings: flags of Snakemake, their valid values, and what SLURM decides where they leave it open."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Optional

from snakemake_interface_common.exceptions import ApiError
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from snakemake_executor_plugin_submitit import slurm

BACKENDS = ("slurm", "local", "debug")
STATUS_COMMANDS = ("auto", *slurm.STATUS)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):  # type: ignore[misc]
    """Settings of the executor; Snakemake makes a flag --submitit-NAME of each."""

    # Optional[...] and not `... | None`: the latter breaks every Snakemake command
    backend: Optional[str] = field(  # noqa: UP045
        default="slurm",
        metadata={
            "help": "Where jobs run: slurm (sbatch), local (processes of this machine), debug (one after another in "
            "Snakemake's own process)."
        },
    )
    folder: Optional[str] = field(  # noqa: UP045
        default=".snakemake/submitit",
        metadata={"help": "Folder for what is submitted, its logs and outcomes; every node must see it."},
    )
    array_size: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "At most so many jobs in one array. Default: the cluster's MaxArraySize. 1: no arrays."},
    )
    array_parallelism: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "At most so many jobs of one array run at once. Default: all that --jobs allows."},
    )
    requeue_limit: Optional[int] = field(  # noqa: UP045
        default=100,
        metadata={
            "help": "So often may a job go back to the queue, after its time limit, a preemption or a node's failure."
        },
    )
    signal_delay: Optional[int] = field(  # noqa: UP045
        default=90, metadata={"help": "Seconds before the time limit at which a job is asked to save its state."}
    )
    status_command: Optional[str] = field(  # noqa: UP045
        default="auto",
        metadata={
            "help": "What tells the state of jobs: sacct, squeue, or auto: sacct where the cluster has accounting."
        },
    )
    status_interval: Optional[int] = field(  # noqa: UP045
        default=10,
        metadata={"help": "Seconds between two questions to SLURM after a change; grows while nothing happens."},
    )
    status_interval_max: Optional[int] = field(  # noqa: UP045
        default=120, metadata={"help": "Seconds up to which that interval grows."}
    )
    submit_retries: Optional[int] = field(  # noqa: UP045
        default=6, metadata={"help": "So often is an sbatch tried again that failed for a reason that may pass."}
    )
    keep_days: Optional[int] = field(  # noqa: UP045
        default=10, metadata={"help": "Days for which the logs of failed jobs are kept."}
    )
    keep_successful: bool = field(default=False, metadata={"help": "Keep the logs of successful jobs for as long."})


#: Setting -> its least value, and its greatest where it has one.
RANGES: dict[str, tuple[int, float]] = {
    "array_size": (1, inf),
    "array_parallelism": (1, inf),
    "requeue_limit": (0, inf),
    "signal_delay": (1, 65535),  # of sbatch's --signal
    "status_interval": (1, inf),
    "status_interval_max": (1, inf),
    "submit_retries": (0, inf),
    "keep_days": (0, inf),
}


def check(settings: ExecutorSettings) -> None:
    """Refuse a value that is not valid, in one line; None where a default must be is the default."""

    def refuse(name: str, valid: str) -> None:
        flag = f"--submitit-{name.replace('_', '-')}"
        raise ApiError(f"{flag} {getattr(settings, name)!r} is not valid; valid: {valid}")

    if settings.backend not in BACKENDS:
        refuse("backend", ", ".join(BACKENDS))
    if settings.status_command not in STATUS_COMMANDS:
        refuse("status_command", ", ".join(STATUS_COMMANDS))
    if not settings.folder:
        refuse("folder", "a folder that every node sees")
    for name, (least, most) in RANGES.items():
        value = getattr(settings, name)
        if value is None and name not in ("array_size", "array_parallelism"):
            setattr(settings, name, getattr(ExecutorSettings, name))
        elif value is not None and not least <= value <= most:
            refuse(name, f"{least} to {most}" if most < inf else f"{least} or more")


def check_paths(settings: ExecutorSettings, workflow: Any) -> None:
    """Refuse paths that are part of each job's script and would be misread there."""
    paths = [
        ("--submitit-folder", os.path.abspath(settings.folder or "")),
        ("working directory", os.getcwd()),
        ("--snakefile", str(workflow.main_snakefile)),
        *(("--configfile", str(file)) for file in workflow.overwrite_configfiles),
    ]
    for name, path in paths:
        if found := slurm.misread(path):
            raise ApiError(f"{name} {path!r} cannot be used: {found} in it would be misread in jobs' scripts")


@dataclass(frozen=True)
class Site:
    """What SLURM's own configuration decides."""

    status_command: str  # sacct or squeue; "" without SLURM
    array_size: int | None  # jobs in an array, at most; None: any number


def meet_slurm(settings: ExecutorSettings, warn: Callable[[str], None]) -> Site:
    """Look for SLURM's commands and ask for its configuration. ApiError where there is no SLURM."""
    if missing := [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if not shutil.which(name)]:
        raise ApiError(f"no SLURM here: {', '.join(missing)} not found; use a login node, or --submitit-backend local")
    if decided := slurm.decided_variables():
        warn(f"{', '.join(decided)}: not followed, since the plugin itself decides that")
    try:
        configuration = slurm.configuration()
    except slurm.SlurmError as error:
        warn(f"{error}; assuming SLURM's defaults")
        configuration = {}
    accounting = not configuration.get("AccountingStorageType", "").endswith("none")
    command = settings.status_command
    largest = int(configuration.get("MaxArraySize", 1001))
    return Site(
        status_command=("sacct" if accounting else "squeue") if command == "auto" else str(command),
        array_size=min(settings.array_size or largest, largest),
    )
