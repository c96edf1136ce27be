"""Map the resources of a Snakemake job to the options of one sbatch.

    runtime          minutes                       slurm_partition  --partition
    mem_mb           memory of a node              slurm_account    --account
    mem_mb_per_cpu   per CPU; overrides mem_mb     qos, constraint, reservation, exclude: as in sbatch
    cpus_per_task    CPUs; overrides threads       nodes            default 1
    gpu, gpu_model   total number, and model       requeue          0: the job is never requeued; default 1
    gres             other generic resources       pack             jobs that share an allocation; default 1
    slurm_extra      further long options          pack_mode        serial (default) or parallel

Resources that a job does not request are not passed, so the cluster's defaults apply. Names and meanings are those of
Snakemake's SLURM plugin where it has them. Any other resource belongs to the workflow, unless its name looks like a
misspelling.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any


class ResourceError(ValueError):
    """A job's resources are invalid; the message is one line."""


class Pending(Exception):
    """A resource depends on files that do not exist yet."""


@dataclass(frozen=True)
class Allocation:
    """What one sbatch requests; None is the cluster's default. Jobs with equal allocations may share an array."""

    cpus: int  # per node
    minutes: int | None = None
    mem_mb: int | None = None  # per node
    mem_mb_per_cpu: int | None = None
    gpus: int = 0  # in total, over all nodes
    gpu_model: str | None = None
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    nodes: int = 1
    extra: tuple[tuple[str, str | bool], ...] = ()  # long options without dashes, sorted; True: no value
    requeue: bool = True
    pack: int = 1  # jobs that may share an allocation
    pack_parallel: bool = False  # packed jobs run side by side


# ------------------------------------------------------------------------------------------------- values

#: Snakemake's text for a value that is not known yet.
TBD = "<TBD>"


def _whole(value: object) -> int | None:
    """A non-negative whole number, which may be given as text; None if the value is not one."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _positive(value: object) -> int | None:
    return _whole(value) or None


def _switch(value: object) -> bool | None:
    # may exceed 1, because Snakemake adds up the resources of a group's jobs
    number = _whole(value)
    return bool(number) if number is not None else {"true": True, "false": False}.get(str(value).lower())


def _matching(pattern: str) -> Callable[[object], str | None]:
    def read(value: object) -> str | None:
        # Snakemake converts a name that has only digits to a number
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        return text if isinstance(text, str) and re.fullmatch(pattern, text) else None

    return read


# sbatch treats a backslash as an escape even inside quotes, and drops it
_WORD = (_matching(r"(?!-)[^\s'\"`\\\x00-\x1f\x7f]+"), "one word without quotes, spaces or backslashes")

#: Resource -> (function that reads its value, or returns None if it is invalid; description of valid values).
KNOWN: dict[str, tuple[Callable[[object], Any], str]] = {
    "runtime": (_positive, "minutes, a whole number from 1"),
    "mem_mb": (_positive, "MB, a whole number from 1"),
    "mem_mb_per_cpu": (_positive, "MB, a whole number from 1"),
    "cpus_per_task": (_positive, "a whole number from 1"),
    "gpu": (_whole, "a whole number from 0"),
    "gpu_model": (_matching(r"\w[\w.-]*"), "a model's name, such as a100"),
    "gres": _WORD,
    "slurm_partition": _WORD,
    "slurm_account": _WORD,
    "qos": _WORD,
    "constraint": _WORD,
    "reservation": _WORD,
    "nodes": (_positive, "a whole number from 1"),
    "exclude": _WORD,
    "slurm_extra": (
        _matching(r"\s*\S[^\x00-\x1f\x7f]*"),
        "long options of sbatch on one line, such as --mail-type=END",
    ),
    "requeue": (_switch, "0, 1, true, false"),
    "pack": (_positive, "a whole number from 1"),
    "pack_mode": (_matching("serial|parallel"), "serial, parallel"),
}

# ------------------------------------------------------------------------------------------------- names

#: Resources that Snakemake itself adds or knows.
SNAKEMAKE = {"mem", "mem_mib", "disk", "disk_mb", "disk_mib", "tmpdir", "gpu_manufacturer"}

_ONE_TASK = "a job is one task; use threads or cpus_per_task, and nodes"
_ONE_CLUSTER = "run Snakemake with the SLURM_CONF of that cluster"
#: Resource of Snakemake's SLURM plugin that this plugin lacks -> (value without effect, what to use instead).
UNSUPPORTED = {
    "tasks": ("1", _ONE_TASK),
    "tasks_per_node": ("1", _ONE_TASK),
    "tasks_per_gpu": ("0", _ONE_TASK),
    "mpi": ("", _ONE_TASK),
    "cpus_per_gpu": ("", "use cpus_per_task"),
    "cluster": ("", _ONE_CLUSTER),
    "clusters": ("", _ONE_CLUSTER),
    "slurm_cluster": ("", _ONE_CLUSTER),
}

#: Common wrong name -> the resource that is meant. Their spellings differ too much for difflib.
MEANT = {
    "account": "slurm_account",
    "cores": "cpus_per_task",
    "cpu": "cpus_per_task",
    "cpus": "cpus_per_task",
    "memory": "mem_mb",
    "memory_mb": "mem_mb",
    "partition": "slurm_partition",
    "threads": "cpus_per_task",
    "time": "runtime",
    "time_min": "runtime",
    "walltime": "runtime",
}
ALIKE = 0.82  # similarity: takes mem_gb for mem_mb, but not modes for nodes, nor gpu_mem_mb for mem_mb


def _check_name(rule: str, name: str, value: object, declared: Collection[str]) -> None:
    """Raise ResourceError for a name that seems to be meant for SLURM but would be ignored."""
    if name in UNSUPPORTED:
        harmless, instead = UNSUPPORTED[name]
        if str(value) != harmless:
            raise ResourceError(f"rule {rule}: resource {name}={value!r} is not supported: {instead}")
    elif not (name in KNOWN or name in SNAKEMAKE or name in declared or name.startswith("_")):
        own = name.startswith("slurm_")
        ours = [known for known in KNOWN if known.startswith("slurm_")] if own else list(KNOWN)
        near = difflib.get_close_matches(name.lower(), ours, n=1, cutoff=0.7 if own else ALIKE)
        if meant := MEANT.get(name.lower()) or (near[0] if near else ", ".join(ours) if own else ""):
            raise ResourceError(
                f"unknown resource {name!r} of rule {rule}; did you mean {meant}? "
                f"(if it is your own, declare it: --resources {name}=N)"
            )


# ------------------------------------------------------------------------------------------------- slurm_extra

_OURS = "the plugin sets it"
_ENVIRONMENT = "jobs inherit the environment of Snakemake; set variables there"
_CPUS = "use cpus_per_task or threads"
#: Long option of sbatch that slurm_extra must not contain -> what to use instead.
REFUSED = {
    "account": "use slurm_account",
    "array": "use --submitit-array-size",
    "chdir": _OURS,
    "cluster": _ONE_CLUSTER,
    "clusters": _ONE_CLUSTER,
    "constraint": "use constraint",
    "cpus-per-gpu": _CPUS,
    "cpus-per-task": _CPUS,
    "error": _OURS,
    "exclude": "use exclude",
    # NONE removes PATH and the variables of a workflow's `envvars:`; a list of names removes all other variables
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "gpus": "use gpu",
    "gpus-per-node": "use gpu",
    "gpus-per-socket": "use gpu",
    "gpus-per-task": "use gpu",
    "gres": "use gres",
    "help": "it submits nothing",
    "job-name": _OURS,
    "mem": "use mem_mb",
    "mem-per-cpu": "use mem_mb_per_cpu",
    "mem-per-gpu": "use mem_mb",
    "no-requeue": "use requeue",
    "nodes": "use nodes",
    "ntasks": _ONE_TASK,
    "ntasks-per-core": _ONE_TASK,
    "ntasks-per-gpu": _ONE_TASK,
    "ntasks-per-node": _ONE_TASK,
    "ntasks-per-socket": _ONE_TASK,
    "open-mode": _OURS,
    "output": _OURS,
    "parsable": "the plugin reads sbatch's answer",
    "partition": "use slurm_partition",
    "qos": "use qos",
    "quiet": "the plugin reads sbatch's answer",
    "requeue": "use requeue",
    "reservation": "use reservation",
    "signal": "use --submitit-signal-delay",
    "tasks-per-node": _ONE_TASK,
    "test-only": "it submits nothing",
    "time": "use runtime",
    "tres-per-task": "use gpu or gres",
    "usage": "it submits nothing",
    "version": "it submits nothing",
    "wait": "the plugin itself waits for jobs",
    "wrap": _OURS,
}
SHORT = {
    "A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "J": "job-name", "M": "clusters", "N": "nodes",
    "Q": "quiet", "V": "version", "W": "wait", "a": "array", "c": "cpus-per-task", "e": "error", "h": "help",
    "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time", "x": "exclude",
}  # fmt: skip


def _extra(rule: str, text: str) -> tuple[tuple[str, str | bool], ...]:
    """Parse long options. The text is split as in a shell, and a value follows "=" or a space."""

    def refuse(what: str) -> ResourceError:
        return ResourceError(f"rule {rule}: slurm_extra={text!r}: {what}")

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise refuse(f"{error}") from error
    options: dict[str, str | bool] = {}
    while words:
        word = words.pop(0)
        option, equals, value = word.removeprefix("--").partition("=")
        option = option.replace("_", "-")  # as submitit does
        if not word.startswith("--"):
            short = SHORT.get(word[1:2]) if word.startswith("-") else None
            if short:
                raise refuse(f"{word[:2]} (--{short}) is not allowed here: {REFUSED[short]}")
            raise refuse(f"{word!r} is not a long option; write the long form, such as --mail-type=END")
        # sbatch accepts an unambiguous prefix of an option
        if full := next((name for name in sorted(REFUSED) if name.startswith(option) and option), None):
            raise refuse(f"--{option} {f'(--{full}) ' if full != option else ''}is not allowed here: {REFUSED[full]}")
        if not re.fullmatch(r"[a-zA-Z][\w-]*", option):
            raise refuse(f"{word!r} is not an option")
        if re.search(r"\s--\w", value):
            raise refuse(f"the value of --{option} contains further options; quote the text only once")
        if option in options:
            raise refuse(f"--{option} is given twice")
        if not equals and words and not words[0].startswith("-"):
            equals, value = "=", words.pop(0)
        if "\\" in value:
            raise refuse(f"the value of --{option} contains a backslash, which sbatch would drop")
        options[option] = value if equals else True
    return tuple(sorted(options.items()))


# ------------------------------------------------------------------------------------------------- the mapping


def allocation(rule: str, threads: int, resources: Mapping[str, object], declared: Collection[str] = ()) -> Allocation:
    """The allocation that a job requests.

    `declared` are the names of the workflow's own resources (--resources). A resource that is None counts as not
    given. `mem_mb_per_cpu` overrides `mem_mb`, as in Snakemake's SLURM plugin, because a rule cannot remove the mem_mb
    that Snakemake adds to every rule once --default-resources is used.

    Raises ResourceError, with one line, for an invalid name, value, or combination. Raises Pending if all known values
    are valid but a required one is not known yet.
    """
    values, pending = _read(rule, resources, declared)
    extra = _extra(rule, values["slurm_extra"]) if "slurm_extra" in values else ()
    _check_pairs(rule, threads, values)
    if pending or str(threads) == TBD:
        raise Pending(rule)
    gpus, pack, mode = values.get("gpu", 0), values.get("pack", 1), values.get("pack_mode")
    if "gpu_model" in values and not gpus:
        raise ResourceError(f"rule {rule}: gpu_model={values['gpu_model']!r} needs gpu, the number of GPUs")
    if mode and pack == 1:
        raise ResourceError(f"rule {rule}: pack_mode={mode!r} needs pack, the number of jobs, 2 or more")
    per_cpu = values.get("mem_mb_per_cpu")
    return Allocation(
        cpus=values.get("cpus_per_task") or threads,
        minutes=values.get("runtime"),
        mem_mb=None if per_cpu else values.get("mem_mb"),
        mem_mb_per_cpu=per_cpu,
        gpus=gpus,
        gpu_model=values.get("gpu_model"),
        gres=values.get("gres"),
        partition=values.get("slurm_partition"),
        account=values.get("slurm_account"),
        qos=values.get("qos"),
        constraint=values.get("constraint"),
        reservation=values.get("reservation"),
        exclude=values.get("exclude"),
        nodes=values.get("nodes", 1),
        extra=extra,
        requeue=values.get("requeue", True),
        pack=pack,
        pack_parallel=mode == "parallel",
    )


def _read(rule: str, resources: Mapping[str, object], declared: Collection[str]) -> tuple[dict[str, Any], bool]:
    """(values of the plugin's resources that are known, whether a value is not known yet)."""
    values: dict[str, Any] = {}
    pending = False
    for name, value in resources.items():
        if value is None:
            continue
        _check_name(rule, name, value, declared)
        if name not in KNOWN:
            continue
        if str(value) == TBD:
            pending = True
            continue
        read, valid = KNOWN[name]
        values[name] = read(value)
        if values[name] is None:
            raise ResourceError(f"rule {rule}: {name}={value!r} is not valid; valid: {valid}")
    return values, pending


def _check_pairs(rule: str, threads: int, values: Mapping[str, Any]) -> None:
    """Raise ResourceError for two values that contradict each other."""

    def contradict(one: str, other: str, advice: str) -> ResourceError:
        return ResourceError(f"rule {rule}: {one} and {other} contradict each other; {advice}")

    gpus, gres, cpus = values.get("gpu", 0), values.get("gres"), values.get("cpus_per_task")
    mode, nodes = values.get("pack_mode"), values.get("nodes", 1)
    if cpus and str(threads) != TBD and threads > cpus:
        raise contradict(f"threads={threads}", f"cpus_per_task={cpus}", "a job cannot use more CPUs than it has")
    if gres and gpus and re.search(r"(^|,)(gres[:/])?gpu(:|,|$)", gres):
        raise contradict(f"gpu={gpus}", f"gres={gres!r}", "give only one")
    if mode == "parallel" and gres:
        raise contradict("pack_mode='parallel'", f"gres={gres!r}", "use gpu, or pack_mode='serial'")
    if mode == "parallel" and nodes > 1:
        raise contradict("pack_mode='parallel'", f"nodes={nodes}", "packed jobs share one node")


def packed(allocation: Allocation, jobs: int) -> Allocation:
    """The allocation for a pack of `jobs` jobs.

    A serial pack needs more time. A parallel pack needs more CPUs, GPUs, and memory (memory per CPU grows with the
    CPUs).
    """
    if allocation.pack_parallel:
        memory = allocation.mem_mb and allocation.mem_mb * jobs
        return replace(allocation, cpus=allocation.cpus * jobs, mem_mb=memory, gpus=allocation.gpus * jobs)
    return replace(allocation, minutes=allocation.minutes and allocation.minutes * jobs)


def parameters(allocation: Allocation, name: str, signal_delay_s: int, array_parallelism: int) -> dict[str, Any]:
    """Keyword arguments for submitit.SlurmExecutor.update_parameters.

    The batch shell, which execs the job, gets SIGUSR2 `signal_delay_s` seconds before the limit, but not before half of
    a known limit has passed. The explicit None replaces submitit's defaults: 5 minutes, and the wckey "submitit", which
    sites that track wckeys reject. A submission whose time is None must call `DelayedSubmission.set_timeout`, because
    submitit computes with the timeout when the signal arrives.
    """
    delay = signal_delay_s if allocation.minutes is None else min(signal_delay_s, 30 * allocation.minutes)
    further: dict[str, str | bool] = dict(allocation.extra)
    further["signal"] = f"B:USR2@{delay}"
    further["requeue" if allocation.requeue else "no-requeue"] = True
    if allocation.gpus:
        # --gpus-per-task and --ntasks-per-gpu would add tasks
        further["gpus"] = f"{allocation.gpu_model}:{allocation.gpus}" if allocation.gpu_model else str(allocation.gpus)
    if allocation.reservation:
        further["reservation"] = allocation.reservation
    return {
        "job_name": name,
        "time": allocation.minutes,
        "nodes": allocation.nodes,
        "cpus_per_task": allocation.cpus,
        "mem": f"{allocation.mem_mb}M" if allocation.mem_mb else None,
        "mem_per_cpu": f"{allocation.mem_mb_per_cpu}M" if allocation.mem_mb_per_cpu else None,
        "gres": allocation.gres,
        "partition": allocation.partition,
        "account": allocation.account,
        "qos": allocation.qos,
        "constraint": allocation.constraint,
        "exclude": allocation.exclude,
        "wckey": None,
        "array_parallelism": array_parallelism,
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": further,
    }
