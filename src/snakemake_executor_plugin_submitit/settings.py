"""Settings of the executor: command-line flags, their valid values, and defaults from SLURM's configuration."""

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
    """Settings of the executor. Snakemake turns each field into a flag --submitit-NAME."""

    # Optional[...], because `... | None` breaks every Snakemake command
    backend: Optional[str] = field(  # noqa: UP045
        default="slurm",
        metadata={
            "help": "Where jobs run: slurm (sbatch), local (processes on this machine), or debug (one after another in "
            "Snakemake's own process)."
        },
    )
    folder: Optional[str] = field(  # noqa: UP045
        default=".snakemake/submitit",
        metadata={"help": "Folder for submissions, logs, and outcomes. Must be visible to all nodes."},
    )
    array_size: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "Maximum jobs per array (default: the cluster's MaxArraySize). 1 turns arrays off."},
    )
    array_parallelism: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "Maximum jobs of one array that run at once (default: as many as --jobs allows)."},
    )
    requeue_limit: Optional[int] = field(  # noqa: UP045
        default=100,
        metadata={"help": "Maximum requeues per job, after time limits, preemptions, and node failures."},
    )
    signal_delay: Optional[int] = field(  # noqa: UP045
        default=90,
        metadata={"help": "Seconds before the time limit at which a job is told to save its state."},
    )
    status_command: Optional[str] = field(  # noqa: UP045
        default="auto",
        metadata={
            "help": "Command that reports job states: sacct, squeue, or auto (sacct if the cluster has accounting, "
            "else squeue)."
        },
    )
    status_interval: Optional[int] = field(  # noqa: UP045
        default=10,
        metadata={
            "help": "Seconds between status queries to SLURM after a change. The interval grows while nothing changes."
        },
    )
    status_interval_max: Optional[int] = field(  # noqa: UP045
        default=120, metadata={"help": "Maximum seconds between status queries to SLURM."}
    )
    submit_retries: Optional[int] = field(  # noqa: UP045
        default=6, metadata={"help": "Maximum retries of an sbatch that fails with a temporary error."}
    )
    keep_days: Optional[int] = field(  # noqa: UP045
        default=10, metadata={"help": "Days to keep the logs of failed jobs."}
    )
    keep_successful: bool = field(
        default=False, metadata={"help": "Keep the logs of successful jobs as long as those of failed jobs."}
    )


#: Setting -> (minimum, maximum).
RANGES: dict[str, tuple[int, float]] = {
    "array_size": (1, inf),
    "array_parallelism": (1, inf),
    "requeue_limit": (0, inf),
    "signal_delay": (1, 65535),  # the limit of sbatch's --signal
    "status_interval": (1, inf),
    "status_interval_max": (1, inf),
    "submit_retries": (0, inf),
    "keep_days": (0, inf),
}


def check(settings: ExecutorSettings) -> None:
    """Check all values, and replace None by the default where None is not valid.

    Raises ApiError, with one line, for an invalid value.
    """

    def refuse(name: str, valid: str) -> None:
        flag = f"--submitit-{name.replace('_', '-')}"
        raise ApiError(f"{flag} {getattr(settings, name)!r} is not valid; valid: {valid}")

    if settings.backend not in BACKENDS:
        refuse("backend", ", ".join(BACKENDS))
    if settings.status_command not in STATUS_COMMANDS:
        refuse("status_command", ", ".join(STATUS_COMMANDS))
    if not settings.folder:
        refuse("folder", "a folder that is visible to all nodes")
    for name, (least, most) in RANGES.items():
        value = getattr(settings, name)
        if value is None and name not in ("array_size", "array_parallelism"):
            setattr(settings, name, getattr(ExecutorSettings, name))
        elif value is not None and not least <= value <= most:
            refuse(name, f"{least} to {most}" if most < inf else f"{least} or more")


def check_paths(settings: ExecutorSettings, workflow: Any) -> None:
    """Check the paths that are part of job scripts. Raises ApiError for a path that would be misread there."""
    paths = [
        ("--submitit-folder", os.path.abspath(settings.folder or "")),
        ("working directory", os.getcwd()),
        ("--snakefile", str(workflow.main_snakefile)),
        *(("--configfile", str(file)) for file in workflow.overwrite_configfiles),
    ]
    for name, path in paths:
        if found := slurm.misread(path):
            raise ApiError(
                f"{name} {path!r} cannot be used: it contains {found}, which would be misread in job scripts"
            )


@dataclass(frozen=True)
class Site:
    """Settings that depend on the cluster."""

    status_command: str  # sacct or squeue; "" without SLURM
    array_size: int | None  # maximum jobs per array; None: no limit


def meet_slurm(settings: ExecutorSettings, warn: Callable[[str], None]) -> Site:
    """Read SLURM's configuration. Raises ApiError if one of SLURM's commands is missing."""
    if missing := [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if not shutil.which(name)]:
        raise ApiError(f"no SLURM here ({', '.join(missing)} not found); use a login node or --submitit-backend local")
    if decided := slurm.decided_variables():
        warn(f"ignoring {', '.join(decided)}: the plugin sets these options itself")
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
