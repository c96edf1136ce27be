"""Calls to SLURM: submit jobs, query their states, and cancel them.

Every call has a time limit and runs in the caller's environment, without the variables of an outer allocation. Defaults
that a user sets for sbatch (such as SBATCH_ACCOUNT) reach it, unless the plugin or a resource sets the same option. For
sbatch, a variable overrides an option in the script.
"""

import os
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, read_job_id

Answer = TypeVar("Answer")

#: Variables that an allocation sets for its processes, or that change the behavior of SLURM's commands.
OUTER = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SCANCEL|SCONTROL|PMI|PMI2|PMIX)_\w+$")
#: Exceptions, which locate SLURM and authenticate the user.
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS")

#: SBATCH_ variables that the plugin must decide itself. It relies on its own arrays with one process per task, on
#: Snakemake's environment, on its own signals, logs, and requeues, and on an immediate, parsable answer of sbatch.
DECIDED = (
    "ARRAY_INX", "CLUSTERS", "CPUS_PER_GPU", "DEBUG", "ERROR", "EXPORT", "GET_USER_ENV", "GPUS_PER_TASK", "INPUT",
    "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "WAIT",
)  # fmt: skip
_MEMORY = ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU")
_GPUS = ("GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET")
#: Option of sbatch -> its SBATCH_ variables if the names differ, and those of mutually exclusive options.
VARIABLES = {
    "time": ("TIMELIMIT",),
    "mem": _MEMORY,
    "mem_per_cpu": _MEMORY,
    "gpus": _GPUS,
    "switches": ("REQ_SWITCH", "WAIT4SWITCH"),
}

#: States of a job that does not run again by itself.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
#: States that are not the job's fault. The job may be requeued.
INNOCENT = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"}

#: Permanent errors of sbatch. All others may be temporary.
PERMANENT = re.compile(
    r"invalid|unrecognized|unknown option|not permitted|not available|permission denied|access/permission|no partition"
    r"|must specify|more processors requested|memory required|memory specification|bad constraint"
    r"|allow an argument|requires an argument|is ambiguous|can ?not be satisfied|user's group|pathname",
    re.IGNORECASE,
)
#: Pattern -> its name. sbatch and submitit replace % and a letter by ids, and sbatch drops backslashes. Snakemake
#: quotes with repr: with both kinds of quotes, or an apostrophe and a dollar sign, a job's shell would run code.
MISREAD = {
    "%": "%",
    r"\\": "a backslash",
    r"[\x00-\x1f\x7f]": "a line break or another control character",
    "[\ud800-\udfff]": "a character that is not UTF-8",
    "'.*[\"$`]|[\"$`].*'": 'an apostrophe beside one of " $ `',
}
PYTHON = shlex.quote(sys.executable)
ANSWER_WITHIN = 60.0  # seconds per command
CHUNK = 500  # ids per command


class SlurmError(RuntimeError):
    """A call to SLURM failed; the message is one line."""


class RefusedError(SlurmError):
    """sbatch rejects a job permanently, so retries are useless."""


@dataclass(frozen=True)
class State:
    """A job's state in SLURM."""

    name: str  # PENDING, RUNNING, ...
    exit_code: str = ""  # code:signal
    node: str = ""
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job will not run again by itself."""
        return self.name in ENDED


def outer_variables() -> list[str]:
    """Variables that must not reach a job. Outside of an allocation, SBATCH_ variables are the user's own."""
    inside = "SLURM_JOB_ID" in os.environ
    return sorted(
        name
        for name in os.environ
        if OUTER.match(name) and name not in KEPT and (inside or not name.startswith("SBATCH_"))
    )


def decided_variables() -> list[str]:
    """The user's SBATCH_ variables that the plugin ignores."""
    found = sorted(f"SBATCH_{name}" for name in DECIDED if f"SBATCH_{name}" in os.environ)
    return [] if "SLURM_JOB_ID" in os.environ else found


def given_variables(options: Mapping[str, object]) -> list[str]:
    """The user's SBATCH_ variables that the given options replace."""
    names: set[str] = set()
    for option, value in options.items():
        names.update(VARIABLES.get(option.replace("-", "_"), (option.replace("-", "_").upper(),)))
        if option == "gres" and "gpu" in str(value):
            names.update(_GPUS)
        if option == "gpus" and "gpu" in os.environ.get("SBATCH_GRES", ""):
            names.add("GRES")
    return sorted(f"SBATCH_{name}" for name in names if f"SBATCH_{name}" in os.environ)


def misread(path: str) -> str:
    """The name of what sbatch, submitit, or Snakemake would misread or run in a path; "" if there is nothing."""
    for pattern, name in MISREAD.items():
        if re.search(pattern, path):
            return name
    return ""


def call(*command: str) -> str:
    """Standard output of a command. Raises SlurmError if the command fails or does not answer."""
    environment = {name: value for name, value in os.environ.items() if not (OUTER.match(name) and name not in KEPT)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_WITHIN, env=environment, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {ANSWER_WITHIN:.0f} s") from error
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise SlurmError(f"{command[0]}: {_one_line(done.stderr or done.stdout) or f'exit {done.returncode}'}")
    return done.stdout


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------------- submitting


class Sbatch(SlurmExecutor):
    """submitit's executor for arrays whose tasks run the same pickle, and find their own jobs at run time."""

    def submit_tasks(self, pickle: Path, tasks: int) -> str:
        """Submit an array, or a single job, whose tasks run `pickle`. Returns its id."""
        # submitit writes each task's pickle after sbatch has answered, which is too late if Snakemake is killed before
        task = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
        own = f'{shlex.quote(f"{self.folder}/")}"{task}_submitted.pkl"'
        place = f"[ -e {own} ] || cp {shlex.quote(str(pickle))} {own}"
        self.parameters |= {"setup": [place], "map_count": tasks if tasks > 1 else None}
        return str(self._submit_command(self._submitit_command_str).job_id)

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        options = self.parameters | self.parameters.get("additional_parameters", {})
        given = given_variables({name: value for name, value in options.items() if value is not None})
        unset = [word for name in [*outer_variables(), *decided_variables(), *given] for word in ("-u", name)]
        return ["env", *unset, "sbatch", str(submission_file_path)]


def submit(
    action: Callable[[], str],
    find: Callable[[], str | None],
    retries: int,
    tell: Callable[[str], None],
) -> str:
    """Call `action`, which calls sbatch, and return the job's id. Temporary errors are retried, with jitter.

    SLURM may have accepted the job although sbatch failed (its answer was lost), so `find` looks for the job before
    each retry. Raises RefusedError for a permanent error, and SlurmError when no retries are left.
    """
    for trial in range(retries + 1):
        try:
            return action()
        except (FailedJobError, FailedSubmissionError) as error:
            complaint = _one_line(str(error))
        if PERMANENT.search(complaint):
            raise RefusedError(complaint)
        pause = min(60.0, 2.0**trial) * random.uniform(0.5, 1.5)
        tell(f"sbatch failed ({complaint}); trying again in {pause:.0f} s (retries left: {retries - trial})")
        time.sleep(pause)
        try:
            found = find()
        except SlurmError as outage:
            tell(str(outage))  # retry all the same: while SLURM is away, it cannot accept a job twice
        else:
            if found:
                return found
    raise SlurmError(complaint)


def find(name: str) -> str | None:
    """The id of the job or array with this name; None if SLURM has none."""
    lines = call("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F").split()
    return lines[0] if lines else None


def patiently(action: Callable[[], Answer], tell: Callable[[str], None]) -> Answer:
    """Repeat `action` until SLURM answers, and return the answer."""
    pause = 2.0
    while True:
        try:
            return action()
        except SlurmError as error:
            tell(f"{error}; waiting for SLURM to report which jobs are running")
        time.sleep(pause)
        pause = min(60.0, 2 * pause)


# ------------------------------------------------------------------------------------------------- states


def _bases(ids: Iterable[str]) -> list[list[str]]:
    """Ids without their task numbers, in chunks."""
    bases = sorted({job_id.split("_")[0] for job_id in ids})
    return [bases[i : i + CHUNK] for i in range(0, len(bases), CHUNK)]


def _expand(job_id: str, wanted: set[str]) -> list[str]:
    """The wanted ids in a word: 12_[3-5%2] -> 12_3, 12_4, 12_5; all of 12's for a truncated list, 12_[1,3,...]."""
    if not re.fullmatch(r"\d+(_\d+|_\[[\d,-]+(%\d+)?\])?", job_id):
        return [task for task in wanted if task.startswith(f"{job_id.partition('_')[0]}_")]
    found = []
    for parts in read_job_id(job_id):
        if len(parts) == 3:
            found += [f"{parts[0]}_{task}" for task in range(int(parts[1]), int(parts[2]) + 1)]
        else:
            found.append("_".join(parts))
    return [task for task in found if task in wanted]


def squeue(ids: Sequence[str]) -> dict[str, State]:
    """State of each job that slurmctld still knows. It knows ended jobs for a while (MinJobAge)."""
    wanted, states = set(ids), dict[str, State]()
    for chunk in _bases(ids):
        try:
            answer = call(
                "squeue", "--noheader", "--states=all", "--array", f"--jobs={','.join(chunk)}", "--format=%i|%T|%N|%r"
            )
        except SlurmError as error:
            if "Invalid job id" not in str(error):
                raise
            if len(chunk) > 1:  # one of the ids is invalid: query each alone
                for base in chunk:
                    states |= squeue([job_id for job_id in ids if job_id.split("_")[0] == base])
            continue  # the only job of the query is gone
        for line in answer.splitlines():
            job_id, name, node, reason = line.split("|", 3)
            for task in _expand(job_id, wanted):
                states[task] = State(name, node=node, reason=reason)
    return states


def sacct(ids: Sequence[str]) -> dict[str, State]:
    """State of each job that the accounting database knows."""
    wanted, states = set(ids), {}
    for chunk in _bases(ids):
        answer = call(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(chunk)}",
            "--format=JobID,State,ExitCode,NodeList,Reason",
        )  # fmt: skip
        for line in sorted(answer.splitlines(), key=lambda line: "_[" not in line):  # a task's own line comes last
            job_id, name, exit_code, node, reason = line.split("|", 4)
            for task in _expand(job_id, wanted):
                states[task] = State(name.split()[0], exit_code, node, reason)  # "CANCELLED by 1000"
    return states


STATUS = {"sacct": sacct, "squeue": squeue}


def configuration() -> dict[str, str]:
    """The settings in `scontrol show config`."""
    pairs = (line.partition("=") for line in call("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def exit_code(job_id: str) -> str:
    """Exit code of a job that slurmctld still knows, as code:signal."""
    match = re.search(r"\bExitCode=(\S+)", call("scontrol", "show", "job", job_id))
    return match[1] if match else ""


def is_preempted(job_id: str) -> bool:
    """Whether a job that received SIGTERM is being preempted, not cancelled."""
    match = re.search(r"\bPreemptTime=(\S+)", call("scontrol", "show", "job", job_id))
    return match is not None and match[1] != "None"


# ------------------------------------------------------------------------------------------------- ending


def compress(ids: Iterable[str]) -> list[str]:
    """Join ids into one word per array: 12_0, 12_1, 12_3, 15 -> 12_[0-1,3], 15."""
    tasks: dict[str, set[int]] = {}
    for job_id in ids:
        base, _, task = job_id.partition("_")
        tasks.setdefault(base, set()).update([int(task)] if task else [])
    return [f"{base}_[{','.join(_ranges(found))}]" if found else base for base, found in tasks.items()]


def _ranges(numbers: set[int]) -> list[str]:
    """Ranges of numbers: 0, 1, 2, 5 -> 0-2, 5."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return [f"{first}-{last}" if first < last else str(first) for first, last in zip(firsts, lasts, strict=True)]


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs, in chunks, to keep the number of calls low."""
    words = compress(ids)
    for first in range(0, len(words), CHUNK):
        call("scancel", *words[first : first + CHUNK])


def cancel_by_name(name: str) -> None:
    """Cancel the job or array with this name."""
    call("scancel", f"--name={name}")
