"""A job's resources become what one sbatch asks for, or one line that says what is wrong with them."""

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import Cluster, skip_without_slurm
from hypothesis import assume, example, given
from hypothesis import strategies as st
from snakemake.common.tbdstring import TBDString
from snakemake.resources import GroupResources, Resources
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from snakemake_executor_plugin_submitit import resources
from snakemake_executor_plugin_submitit.resources import Allocation, Pending, ResourceError

TBD = TBDString()


def allocation(threads: int = 1, declared: set[str] | None = None, **given: Any) -> Allocation:
    return resources.allocation("train", threads, given, declared or set())


def refusal(threads: int = 1, declared: set[str] | None = None, **given: Any) -> str:
    with pytest.raises(ResourceError) as error:
        allocation(threads, declared, **given)
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert "train" in text
    return text


def script(name: str = "work", signal_delay_s: int = 90, array_parallelism: int = 7, **given: Any) -> str:
    parameters = resources.parameters(allocation(**given), name, signal_delay_s, array_parallelism)
    return _make_sbatch_string(command="hostname", folder="folder", **parameters)


def options(text: str) -> list[str]:
    """What sbatch reads: its quoting is a shell's, but for backslashes."""
    lines = [line for line in text.split("\n") if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line.removeprefix("#SBATCH "))]


# ------------------------------------------------------------------------------------------ what is asked for

#: Of every job.
ALWAYS = {
    "--nodes=1", "--cpus-per-task=1", "--job-name=work", "--open-mode=append", "--requeue", "--signal=B:USR2@90",
}  # fmt: skip


def asked(**given: Any) -> tuple[set[str], set[str]]:
    """(more, less) than what a job asks for that names no resource."""
    found = {option for option in options(script(**given)) if not option.startswith("--output=")}
    return found - ALWAYS, ALWAYS - found


def test_a_job_without_resources_asks_for_nothing_but_a_cpu() -> None:
    assert asked() == (set(), set())


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"runtime": 120}, {"--time=120"}),
        ({"runtime": "120"}, {"--time=120"}),
        ({"mem_mb": 4000}, {"--mem=4000M"}),
        ({"mem_mb": "4000"}, {"--mem=4000M"}),
        ({"mem_mb_per_cpu": 1000}, {"--mem-per-cpu=1000M"}),
        # Snakemake adds mem_mb to every rule where anybody uses --default-resources, and no rule can take it away
        ({"mem_mb_per_cpu": 1000, "mem_mb": 1000, "mem": "1 GB", "mem_mib": 954}, {"--mem-per-cpu=1000M"}),
        ({"gpu": 2}, {"--gpus=2"}),
        ({"gpu": 2, "gpu_model": "a100_3g.20gb"}, {"--gpus=a100_3g.20gb:2"}),
        ({"gpu": 0}, set()),
        ({"gres": "nvme:100,license:2"}, {"--gres=nvme:100,license:2"}),
        ({"gres": "gpu:a100:2"}, {"--gres=gpu:a100:2"}),
        ({"gres": "gpumem:8", "gpu": 1}, {"--gres=gpumem:8", "--gpus=1"}),
        ({"gres": "vgpu:8", "gpu": 1}, {"--gres=vgpu:8", "--gpus=1"}),
        ({"slurm_partition": "long,short"}, {"--partition=long,short"}),
        ({"slurm_account": 4711}, {"--account=4711"}),
        ({"qos": "high"}, {"--qos=high"}),
        ({"constraint": "[a|b]&c*2"}, {"--constraint=[a|b]&c*2"}),
        ({"reservation": "course"}, {"--reservation=course"}),
        ({"exclude": "n[1-3,5]"}, {"--exclude=n[1-3,5]"}),
        ({"runtime": None, "qos": None, "gpu": None, "gpus": None}, set()),
        ({"pack": 3}, set()),
        ({"slurm_extra": "--exclusive"}, {"--exclusive"}),
        ({"slurm_extra": "--wckey=mine"}, {"--wckey=mine"}),
    ],
)
def test_a_resource_becomes_an_option(given: dict[str, Any], more: set[str]) -> None:
    assert asked(**given) == (more, set())


@pytest.mark.parametrize(
    ("given", "option", "instead_of"),
    [
        ({"threads": 8}, "--cpus-per-task=8", "--cpus-per-task=1"),
        ({"cpus_per_task": 4}, "--cpus-per-task=4", "--cpus-per-task=1"),
        ({"cpus_per_task": 8, "threads": 4}, "--cpus-per-task=8", "--cpus-per-task=1"),
        ({"nodes": 2}, "--nodes=2", "--nodes=1"),
        ({"requeue": 0}, "--no-requeue", "--requeue"),
        ({"requeue": False}, "--no-requeue", "--requeue"),
        ({"requeue": "False"}, "--no-requeue", "--requeue"),
        ({"signal_delay_s": 30}, "--signal=B:USR2@30", "--signal=B:USR2@90"),
        ({"name": "two words"}, "--job-name=two words", "--job-name=work"),
    ],
)
def test_a_resource_takes_the_place_of_a_default(given: dict[str, Any], option: str, instead_of: str) -> None:
    assert asked(**given) == ({option}, {instead_of})


@pytest.mark.parametrize("value", [1, True, "1", "true", "True", 2])
def test_requeue_may_be_said_in_many_ways_and_added_up_over_a_group(value: Any) -> None:
    assert allocation(requeue=value).requeue


def test_the_batch_shell_runs_the_command_itself() -> None:
    assert "hostname" in script().split("\n")
    assert "srun" not in script()


def test_no_task_geometry_comes_with_gpus() -> None:
    assert "task" not in script(gpu=4, gpu_model="a100").replace("--cpus-per-task=1", "")


@pytest.mark.parametrize(
    ("minutes", "delay", "given"), [(1, 90, 30), (2, 90, 60), (3, 90, 90), (60, 90, 90), (10, 3600, 300), (1, 20, 20)]
)
def test_at_least_half_of_the_time_is_left_before_the_signal(minutes: int, delay: int, given: int) -> None:
    assert f"--signal=B:USR2@{given}" in options(script(runtime=minutes, signal_delay_s=delay))


def test_an_arrays_parallelism_is_passed_on() -> None:
    parameters = resources.parameters(allocation(), "work", 90, 7)
    assert "#SBATCH --array=0-19%7" in _make_sbatch_string("hostname", "folder", map_count=20, **parameters)


def test_submitits_executor_takes_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))  # where SLURM is not installed
    executor = SlurmExecutor(tmp_path)
    executor.update_parameters(**resources.parameters(allocation(gpu=1, runtime=5), "work", 90, 7))
    assert "--gpus=1" in options(executor._make_submission_file_text("hostname", "0"))


# ------------------------------------------------------------------------------------------ packs


def test_jobs_packed_one_after_another_need_more_time() -> None:
    one = allocation(threads=2, runtime=10, mem_mb=1000, gpu=1, pack=4)
    assert resources.packed(one, 3) == allocation(threads=2, runtime=30, mem_mb=1000, gpu=1, pack=4)


def test_jobs_packed_side_by_side_need_more_of_all_else() -> None:
    one = allocation(threads=2, runtime=10, mem_mb=1000, gpu=1, pack=4, pack_mode="parallel")
    four = allocation(threads=8, runtime=10, mem_mb=4000, gpu=4, pack=4, pack_mode="parallel")
    assert resources.packed(one, 4) == four


@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_what_was_not_asked_for_stays_so_in_a_pack(mode: str) -> None:
    pack = resources.packed(allocation(mem_mb_per_cpu=100, pack=4, pack_mode=mode), 4)
    assert (pack.minutes, pack.mem_mb, pack.mem_mb_per_cpu, pack.gpus) == (None, None, 100, 0)


@given(st.integers(1, 64), st.integers(1, 9), st.sampled_from(["serial", "parallel"]))
def test_a_pack_of_one_asks_for_what_the_job_does(threads: int, gpus: int, mode: str) -> None:
    one = allocation(threads=threads, runtime=10, mem_mb=100, gpu=gpus, pack=4, pack_mode=mode)
    assert resources.packed(one, 1) == one


# ------------------------------------------------------------------------------------------ what is refused

NUMBERS = ["runtime", "mem_mb", "mem_mb_per_cpu", "cpus_per_task", "nodes", "pack"]
WORDS = ["gres", "slurm_partition", "slurm_account", "qos", "constraint", "reservation", "exclude", "gpu_model"]


@pytest.mark.parametrize(
    ("name", "value"), list(itertools.product(NUMBERS, [0, -1, "0", "-1", "1.5", "2h", "", True, "²"]))
)
def test_a_number_that_cannot_be_is_refused(name: str, value: Any) -> None:
    text = refusal(**{name: value})
    assert text.startswith(f"rule train: {name}={value!r} is not valid; valid: ")
    assert "whole number from 1" in text


@pytest.mark.parametrize("value", [-1, "-1", "two", True])
def test_a_number_of_gpus_that_cannot_be_is_refused(value: Any) -> None:
    assert refusal(gpu=value).endswith(f"gpu={value!r} is not valid; valid: a whole number from 0")


@pytest.mark.parametrize(
    ("name", "value"), list(itertools.product(WORDS, ["", " ", "a b", "a\nb", "'a'", '"a"', "a\\b", "a\x00", -1, True]))
)
def test_a_word_that_cannot_be_is_refused(name: str, value: Any) -> None:
    assert refusal(gpu=1, **{name: value}).startswith(f"rule train: {name}={value!r} is not valid; valid: ")


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("requeue", "maybe", "0, 1, true, false"),
        ("requeue", -1, "0, 1, true, false"),
        ("pack_mode", "sideways", "serial, parallel"),
        ("pack_mode", 1, "serial, parallel"),
        ("gpu_model", "a100:2", "a model's name, such as a100"),
        ("slurm_extra", "", "long options of sbatch on one line, such as --mail-type=END"),
        ("slurm_extra", "--comment='a\nb'", "long options of sbatch on one line, such as --mail-type=END"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_valid_ones(name: str, value: Any, valid: str) -> None:
    assert refusal(**{name: value}) == f"rule train: {name}={value!r} is not valid; valid: {valid}"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"threads": 8, "cpus_per_task": 4}, "threads=8 and cpus_per_task=4 contradict each other"),
        ({"gpu": 1, "gres": "gpu:2"}, "gpu=1 and gres='gpu:2' contradict each other; give only one"),
        ({"gpu": 1, "gres": "nvme:1,gpu"}, "gpu=1 and gres='nvme:1,gpu' contradict each other; give only one"),
        ({"gpu": 1, "gres": "gres/gpu:a:1"}, "gpu=1 and gres='gres/gpu:a:1' contradict each other; give only one"),
        ({"gpu_model": "a100"}, "gpu_model='a100' needs gpu, the number of GPUs"),
        ({"gpu_model": "a100", "gpu": 0}, "gpu_model='a100' needs gpu, the number of GPUs"),
        ({"pack_mode": "serial"}, "pack_mode='serial' needs pack, the number of jobs, 2 or more"),
        ({"pack_mode": "parallel", "pack": 1}, "pack_mode='parallel' needs pack, the number of jobs, 2 or more"),
        (
            {"pack_mode": "parallel", "pack": 2, "gres": "nvme:1"},
            "pack_mode='parallel' and gres='nvme:1' contradict each other; use gpu, or pack_mode='serial'",
        ),
        (
            {"pack_mode": "parallel", "pack": 2, "nodes": 2},
            "pack_mode='parallel' and nodes=2 contradict each other; packed jobs share one node",
        ),
    ],
)
def test_what_contradicts_each_other_is_refused(given: dict[str, Any], text: str) -> None:
    assert refusal(**given).startswith(f"rule train: {text}")


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpus", "gpu"),
        ("GPU", "gpu"),
        ("gpu_models", "gpu_model"),
        ("mem_gb", "mem_mb"),
        ("memory", "mem_mb"),
        ("memory_mb", "mem_mb"),
        ("mem_per_cpu", "mem_mb_per_cpu"),
        ("partition", "slurm_partition"),
        ("account", "slurm_account"),
        ("slurm_partion", "slurm_partition"),
        ("slurm_acount", "slurm_account"),
        ("slurm_extras", "slurm_extra"),
        ("run_time", "runtime"),
        ("walltime", "runtime"),
        ("cpu_per_task", "cpus_per_task"),
        ("cpus", "cpus_per_task"),
        ("node", "nodes"),
        ("contraint", "constraint"),
        ("packmode", "pack_mode"),
        ("slurm_zzz", "slurm_partition, slurm_account, slurm_extra"),
    ],
)
def test_a_slip_of_a_name_is_refused_with_what_was_meant(name: str, meant: str) -> None:
    text = f"unknown resource {name!r} of rule train; did you mean {meant}? "
    assert refusal(**{name: 1}) == text + f"(if it is your own, declare it: --resources {name}=N)"
    assert allocation(declared={name}, **{name: 1}) == allocation()


OWN = """api_calls bandwidth codes db disk_gb downloads gpu_manufacturer gpu_mem_mb io licenses load modes network
priority ram scratch_gb slots tmpdir _job_count _anything"""


@pytest.mark.parametrize("name", OWN.split())
def test_a_workflows_own_resource_passes(name: str) -> None:
    assert allocation(**{name: 5}) == allocation()


@pytest.mark.parametrize("defaults", ["full", "bare"])
def test_what_snakemake_adds_by_itself_passes(defaults: Any) -> None:
    own: dict[str, Any] = dict.fromkeys(Resources.default(defaults), TBD)
    sized = Resources.from_mapping({"mem": "4GB", "disk": "2GB", "runtime": "2h", "_nodes": 1, "_cores": 3})
    own |= dict(sized.expand_items(constraints={}, evaluate=None))
    assert {"mem", "mem_mib", "disk", "disk_mib"} <= set(own)
    assert allocation(**own) == Allocation(cpus=1, minutes=120, mem_mb=4000)


def test_a_group_asks_for_what_snakemake_adds_up() -> None:
    given = {"runtime": 10, "mem_mb": 1000, "mem": "1 GB", "requeue": 1, "slurm_partition": "long", "_cores": 2}
    job: Any = SimpleNamespace(resources=given, pipe_group=None)
    total = GroupResources.basic_layered([[job, job], [job]], Resources(), run_local=False)
    both = resources.allocation("both", int(total["_cores"]), total)
    assert both == Allocation(cpus=4, minutes=20, mem_mb=2000, partition="long")


@pytest.mark.parametrize(
    ("name", "harmless", "value", "instead"),
    [
        ("tasks", 1, 4, "use threads or cpus_per_task, and nodes"),
        ("tasks_per_node", 1, 4, "use threads or cpus_per_task, and nodes"),
        ("tasks_per_gpu", 0, 1, "use threads or cpus_per_task, and nodes"),
        ("mpi", "", "srun", "use threads or cpus_per_task, and nodes"),
        ("cpus_per_gpu", None, 4, "use cpus_per_task"),
        ("cluster", "", "other", "run Snakemake with the SLURM_CONF of that cluster"),
        ("clusters", "", "other", "run Snakemake with the SLURM_CONF of that cluster"),
        ("slurm_cluster", "", "other", "run Snakemake with the SLURM_CONF of that cluster"),
    ],
)
def test_what_only_the_plain_slurm_plugin_has_is_refused(name: str, harmless: Any, value: Any, instead: str) -> None:
    text = refusal(declared={name}, **{name: value})
    assert text.startswith(f"rule train: resource {name}={value!r} is not supported: ")
    assert text.endswith(instead)
    assert allocation(**{name: harmless}) == allocation()


def test_every_resource_of_the_plain_slurm_plugin_is_known() -> None:
    """As read in its submit_string.py, utils.py and __init__.py, version 2.8."""
    plain = (
        "cluster clusters constraint cpus_per_gpu cpus_per_task gpu gpu_model gres mem_mb mem_mb_per_cpu mpi nodes qos "
        "runtime slurm_account slurm_cluster slurm_extra slurm_partition tasks tasks_per_gpu tasks_per_node"
    )
    assert set(plain.split()) <= set(resources.KNOWN) | set(resources.UNSUPPORTED)


# ------------------------------------------------------------------------------------------ slurm_extra


@pytest.mark.parametrize(
    ("text", "extra"),
    [
        ("--mail-type=END", (("mail-type", "END"),)),
        ("--mail-type END", (("mail-type", "END"),)),
        ("--mail_type=END", (("mail-type", "END"),)),
        ("--exclusive", (("exclusive", True),)),
        ("  --exclusive   --nice  ", (("exclusive", True), ("nice", True))),
        (
            '--mail-type=END --exclusive --comment "a b"',
            (("comment", "a b"), ("exclusive", True), ("mail-type", "END")),
        ),
        ("--comment='it is --fine'", None),
        ("--comment=a=b", (("comment", "a=b"),)),
        ("--comment=-x --hold", (("comment", "-x"), ("hold", True))),
        ("--comment=", (("comment", ""),)),
        ("--wait-all-nodes=1 --time-min=5 --nodelist=n1 --gpu-bind=none --gres-flags=enforce-binding", "all"),
    ],
)
def test_further_options_are_split_as_a_shell_does(text: str, extra: Any) -> None:
    if extra is None:
        assert "contains further options; quote the text only once" in refusal(slurm_extra=text)
    elif extra == "all":
        assert len(allocation(slurm_extra=text).extra) == len(text.split())
    else:
        assert allocation(slurm_extra=text).extra == extra


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("--time=5", "--time is not allowed here: use runtime"),
        ("--mem=5G", "--mem is not allowed here: use mem_mb"),
        ("--mem-per-cpu 5G", "--mem-per-cpu is not allowed here: use mem_mb_per_cpu"),
        ("--cpus-per-task=2", "--cpus-per-task is not allowed here: use cpus_per_task or threads"),
        ("--cpus_per_task=2", "--cpus-per-task is not allowed here: use cpus_per_task or threads"),
        ("--mail-type=END --partition=x", "--partition is not allowed here: use slurm_partition"),
        ("--part=x", "--part (--partition) is not allowed here: use slurm_partition"),
        ("--ti 5", "--ti (--time) is not allowed here: use runtime"),
        ("--cpus-per=2", "--cpus-per (--cpus-per-gpu) is not allowed here: use cpus_per_task or threads"),
        ("--no-req", "--no-req (--no-requeue) is not allowed here: use requeue"),
        ("-p x", "-p (--partition) is not allowed here: use slurm_partition"),
        ("-pdebug", "-p (--partition) is not allowed here: use slurm_partition"),
        ("-n 4", "-n (--ntasks) is not allowed here: a job is one task"),
        ("--exclusive -t5", "-t (--time) is not allowed here: use runtime"),
        ("--export=NONE", "--export is not allowed here: jobs inherit the environment of Snakemake"),
        ("--export ALL,A=1", "--export is not allowed here: jobs inherit the environment of Snakemake"),
        ("--signal=USR1", "--signal is not allowed here: use --submitit-signal-delay"),
        ("-H", "'-H' is not a long option; write the long form"),
        ("-", "'-' is not a long option; write the long form"),
        ("nice=5", "'nice=5' is not a long option; write the long form"),
        ("--mail-type=END FAIL", "'FAIL' is not a long option; write the long form"),
        ("--", "'--' is not an option"),
        ("--=5", "'--=5' is not an option"),
        ("---nice", "'---nice' is not an option"),
        ("'--a b=1'", "'--a b=1' is not an option"),
        ("'--nice=5 --mail-type=END'", "the value of --nice contains further options; quote the text only once"),
        ("--nice=5 --nice=6", "--nice is given twice"),
        ("--comment='a b", "No closing quotation"),
        (r"--comment='a\b'", "the value of --comment contains a backslash, which sbatch would drop"),
        (r"--comment 'a\b'", "the value of --comment contains a backslash, which sbatch would drop"),
    ],
)
def test_further_options_that_cannot_be_are_refused(text: str, what: str) -> None:
    assert refusal(slurm_extra=text).startswith(f"rule train: slurm_extra={text!r}: {what}")


@pytest.mark.parametrize("option", resources.REFUSED)
def test_an_option_that_has_its_own_resource_is_refused_in_all_its_spellings(option: str) -> None:
    for text in (f"--{option}", f"--{option}=1", f"--{option} 1", f"--nice --{option.replace('-', '_')}=1"):
        assert f": --{option} is not allowed here: {resources.REFUSED[option]}" in refusal(slurm_extra=text)
    for length in range(1, len(option)):
        assert "is not allowed here: " in refusal(slurm_extra=f"--{option[:length]}=1")
    for letter in (letter for letter, long in resources.SHORT.items() if long == option):
        assert f"-{letter} (--{option}) is not allowed here: " in refusal(slurm_extra=f"-{letter}1")


# ------------------------------------------------------------------------------------------ not known yet


@pytest.mark.parametrize("name", resources.KNOWN)
def test_a_value_that_snakemake_does_not_know_yet_is_pending(name: str) -> None:
    with pytest.raises(Pending):
        allocation(**{name: TBD})


def test_threads_may_be_pending_too() -> None:
    with pytest.raises(Pending):
        allocation(threads=TBD, cpus_per_task=2)


def test_a_pending_value_that_does_not_matter_is_none() -> None:
    assert allocation(tmpdir=TBD, disk_mb=TBD, own=TBD) == allocation()


@pytest.mark.parametrize("other", [{"gpu": -1}, {"gpus": 1}, {"slurm_extra": "-H"}, {"gpu": 1, "gres": "gpu"}])
def test_what_is_wrong_is_said_even_while_another_value_is_pending(other: dict[str, Any]) -> None:
    """With --default-resources, the memory of every rule is pending that reads another's output."""
    refusal(mem_mb=TBD, **other)


@pytest.mark.parametrize("given", [{"gpu_model": "a100", "gpu": TBD}, {"pack_mode": "serial", "pack": TBD}])
def test_a_pending_value_is_not_taken_for_a_missing_one(given: dict[str, Any]) -> None:
    with pytest.raises(Pending):
        allocation(**given)


# ------------------------------------------------------------------------------------------ laws

VALID: dict[str, st.SearchStrategy[Any]] = {
    "runtime": st.integers(1, 10**4),
    "mem_mb": st.integers(1, 10**6),
    "mem_mb_per_cpu": st.none() | st.integers(1, 10**4),
    "cpus_per_task": st.integers(1, 64),
    "gpu": st.integers(1, 8),
    "gpu_model": st.sampled_from(["a100", "h100_80gb"]),
    "gres": st.sampled_from(["nvme:1", "license"]),
    "slurm_partition": st.sampled_from(["long", "a,b"]),
    "qos": st.sampled_from(["high", 7]),
    "constraint": st.sampled_from(["a&b", "[x|y]"]),
    "nodes": st.integers(1, 4),
    "slurm_extra": st.sampled_from(["--nice=5 --exclusive", "--comment='a \"b\" # c'"]),
    "requeue": st.sampled_from([0, 1, "true", "FALSE"]),
    "pack": st.integers(2, 9),
    "io": st.integers(0, 3),
}


@given(st.fixed_dictionaries({}, optional=VALID), st.randoms())
def test_the_order_of_the_resources_does_not_matter(given: dict[str, Any], draw: Any) -> None:
    assume("gpu_model" not in given or "gpu" in given)
    shuffled = draw.sample(list(given.items()), len(given))
    one, other = allocation(**given), allocation(**dict(shuffled))
    assert one == other
    assert hash(one) == hash(other)
    assert resources.parameters(one, "a", 90, 1) == resources.parameters(other, "a", 90, 1)


def test_the_order_of_further_options_does_not_matter() -> None:
    assert allocation(slurm_extra="--nice --hold") == allocation(slurm_extra="--hold --nice")


NASTY = [
    "--comment",
    "--hold",
    "=",
    " ",
    "'",
    '"',
    "\\",
    "#",
    "\n",
    "\r",
    "\t",
    "\x00",
    "`",
    "$(x)",
    "a",
    "-",
    "\u2028",
    ":",
]


@given(st.sampled_from([*WORDS, "slurm_extra"]), st.text(max_size=9) | st.lists(st.sampled_from(NASTY)).map("".join))
@example("slurm_extra", "--comment='a\rb'")
@example("slurm_partition", "a#b")
@example("slurm_extra", '--comment="it\'s #1"')
def test_no_text_brings_an_option_of_its_own_into_the_script(name: str, text: str) -> None:
    """A script says what a plain job's does and what the text stands for, and no more."""
    try:
        taken = allocation(gpu=1, **{name: text})
    except ResourceError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (most texts are refused, and some are not)
        return
    own = [line for line in script(gpu=1, **{name: text}).split("\n") if not line.startswith("#SBATCH")]
    assert own == [line for line in script().split("\n") if not line.startswith("#SBATCH")]
    more, less = asked(gpu=1, **{name: text})
    if name == "slurm_extra":
        said = {f"--{option}" if value is True else f"--{option}={value}" for option, value in taken.extra}
    elif name == "gpu_model":
        said = {f"--gpus={text}:1"}
    else:
        said = {f"--{name.removeprefix('slurm_')}={text}"}
    assert more - {"--gpus=1"} == said
    assert not less


# ------------------------------------------------------------------------------------------ SLURM's own word


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose partitions give 7 minutes to a job that asks for no time."""
    skip_without_slurm()
    folder = tmp_path_factory.mktemp("slurm") / "bed"
    with Cluster(folder, partitions=["other Nodes=ALL DefaultTime=7"]) as cluster:
        cluster.run("scontrol", "update", "PartitionName=debug", "DefaultTime=7")
        yield cluster


def sbatch(cluster: Cluster, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sbatch", *flags], input=text, env=cluster.environment, cwd=cluster.folder, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, ["NumNodes=1-1", "NumCPUs=1", "NumTasks=1", "Requeue=1", "MinMemoryNode=0", "TimeLimit=00:07:00"]),
        ({"threads": 2, "runtime": 10, "mem_mb": 100, "requeue": 0}, ["NumCPUs=2", "Requeue=0", "MinMemoryNode=100M"]),
        ({"runtime": 3}, ["TimeLimit=00:03:00"]),
        ({"mem_mb_per_cpu": 10, "mem_mb": 1000}, ["MinMemoryCPU=10M"]),
        ({"gpu": 2, "threads": 2}, ["TresPerJob=gres:gpu:2", "NumTasks=1"]),
        ({"gres": "gpu:1"}, ["TresPerNode=gres:gpu:1"]),
        ({"nodes": 2, "cpus_per_task": 2}, ["NumNodes=2-2", "NumCPUs=4", "CPUs/Task=2"]),
        ({"slurm_partition": "debug,other", "exclude": "n[1-1]"}, ["Partition=debug,other", "ExcNodeList=n1"]),
        (
            {"slurm_extra": '--comment="it\'s a # b" --exclusive --mail-type END --mail-user=me@here --hold'},
            ["Comment=it's a # b", "OverSubscribe=NO", "MailUser=me@here", "MailType=END", "Reason=JobHeldUser"],
        ),
    ],
)
def test_sbatch_takes_the_script_and_slurm_shows_what_was_asked_for(
    bed: Cluster, given: dict[str, Any], shown: list[str]
) -> None:
    text = script(**given)
    tried = sbatch(bed, text, "--test-only")
    assert tried.returncode == 0, tried.stderr
    submitted = sbatch(bed, text, "--hold").stdout.split()[-1]
    job = bed.run("scontrol", "show", "job", submitted)
    assert [part for part in shown if part not in job] == []
    assert "WCKey" not in job


def test_each_further_option_that_sbatch_has_is_taken_or_refused_by_name(bed: Cluster) -> None:
    """No option of sbatch is refused for being the beginning of another."""
    known = set(re.findall(r"--([a-z][\w-]+)", sbatch(bed, "", "--help").stdout)) - {"mem-"}
    assert len(known) > 60
    for option in known - set(resources.REFUSED):
        assert allocation(slurm_extra=f"--{option}=1").extra == ((option, "1"),)
