"""The executor plugin on a real SLURM: arrays, packs, faults; nothing is lost and nothing runs twice."""

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cluster import Cluster
from flows import Flow
from snakemake.common.tests import TestWorkflowsLocalStorageBase

from snakemake_executor_plugin_submitit import ExecutorSettings
from snakemake_executor_plugin_submitit import slurm as states

SHORT = """
rule all:
    input: expand("out/{i}.txt", i=range(int(config.get("jobs", 3))))
rule work:
    output: "out/{i}.txt"
    shell: "echo begun >> out/{wildcards.i}.starts; sleep {SECONDS}; echo {wildcards.i} > {output}"
"""
RESUMABLE = """
rule all:
    input: expand("out/{i}.txt", i=range(int(config.get("jobs", 2))))
rule work:
    output: "out/{i}.txt"
    shell: "python3 resumable.py {output} {SECONDS}"
"""
WORD = SHORT.replace("echo {wildcards.i} >", "echo {params.word} >").replace(
    "    shell:", "    params: word=config.get('word', 'old')\n    shell:"
)


def tenths(seconds: float, jobs: int) -> dict[str, str]:
    """What RESUMABLE leaves when nothing is lost and nothing done twice."""
    return {str(i): "x" * round(10 * seconds) for i in range(jobs)}


# ------------------------------------------------------------------------------------------ arrays


def test_jobs_that_are_ready_go_out_as_one_array_with_one_sbatch(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    flow.run(keep_successful=True)
    assert flow.outputs() == {str(i): f"{i}\n" for i in range(3)}
    assert len(slurm.calls("sbatch")) == 1
    assert [len(submission["allocations"]) for submission in flow.submissions()] == [3]
    assert {job.id.split("_")[1] for job in slurm.jobs()} == {str(i) for i in range(3)}


def test_jobs_with_other_resources_share_no_array(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(
        tmp_path / "flow",
        SHORT.replace("    shell:", "    resources: runtime=lambda wildcards: 5 + int(wildcards.i) % 2\n    shell:"),
        slurm,
    )
    flow.run(keep_successful=True)
    assert sorted(len(submission["allocations"]) for submission in flow.submissions()) == [1, 2]
    scripts = flow.folder.glob(".snakemake/submitit/*/*_submission.sh")
    assert sorted(re.findall(r"--time=(\d+)", "".join(script.read_text() for script in scripts))) == ["5", "6"]


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [({"array_size": 2}, [1, 2]), pytest.param({"array_size": 1}, [1] * 3, marks=pytest.mark.large), ({}, [1, 2])],
)
def test_arrays_are_cut_to_the_settings_and_the_clusters_size(
    slurm_factory: Callable[..., Cluster], tmp_path: Path, settings: dict[str, int], sizes: list[int]
) -> None:
    cluster = slurm_factory(MaxArraySize=2 if not settings else 1001)
    flow = Flow(tmp_path / "flow", SHORT, cluster)
    flow.run(keep_successful=True, **settings)
    assert sorted(len(submission["allocations"]) for submission in flow.submissions()) == sizes
    assert len(flow.outputs()) == 3


def test_an_arrays_parallelism_is_limited(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    process = flow.start("--config", "jobs=4", "seconds=2", array_parallelism=2)
    most = 0
    while process.poll() is None:
        most = max(most, slurm.states().count("RUNNING"))
        time.sleep(0.3)
    flow.finish(process)
    assert most == 2


def test_a_group_goes_out_as_one_job(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(
        tmp_path / "flow",
        """
rule all:
    input: expand("out/{i}.txt", i=range(2))
rule first:
    output: "out/{i}.first"
    group: "both"
    shell: "echo {wildcards.i} > {output}"
rule second:
    input: "out/{i}.first"
    output: "out/{i}.txt"
    group: "both"
    shell: "cp {input} {output}"
""",
        slurm,
    )
    flow.run(keep_successful=True)
    assert flow.outputs() == {"0": "0\n", "1": "1\n"}
    assert [submission["allocations"] for submission in flow.submissions()] == [[[0]], [[0]]]


# ------------------------------------------------------------------------------------------ packs


def test_packed_jobs_run_one_after_another_in_one_allocation(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    flow.run("--default-resources", "pack=2", keep_successful=True)
    assert len(flow.outputs()) == 3
    assert len(slurm.jobs()) == 2  # 2 and 1: none is held back to fill a pack
    assert sorted(len(jobs) for submission in flow.submissions() for jobs in submission["allocations"]) == [1, 2]


def test_packed_jobs_run_side_by_side_each_with_its_own_end_and_log(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(
        tmp_path / "flow",
        SHORT.replace("sleep {SECONDS};", "sleep 3; date +%s > out/{wildcards.i}.time; [ {wildcards.i} != 2 ];"),
        slurm,
    )
    output = flow.run(
        "--keep-going", "--default-resources", "pack=4", "pack_mode=parallel", "--config", "jobs=4", check=False
    )
    assert set(flow.outputs()) == {"0", "1", "3"}
    assert len(slurm.jobs()) == 1
    assert output.count("\nError in rule work") == 1
    assert "rule work, i=2: FAILED, exit code 1" in output
    logs = {file.name: file.read_text() for file in flow.folder.glob(".snakemake/submitit/*/?.log")}
    assert len(logs) == 4
    assert sum("Error in rule work" in text for text in logs.values()) == 1
    times = [int(file.read_text()) for file in (flow.folder / "out").glob("*.time")]
    assert max(times) - min(times) < 6  # one after another, they would lie 9 s apart


# ------------------------------------------------------------------------------------------ many


@pytest.mark.parametrize(("jobs", "at_once"), [(12, 5), pytest.param(300, 50, marks=pytest.mark.large)])
def test_many_jobs_run_once_each_with_few_calls(
    slurm_factory: Callable[..., Cluster], tmp_path: Path, jobs: int, at_once: int
) -> None:
    cluster = slurm_factory(nodes=3, cpus=2)
    flow = Flow(tmp_path / "flow", SHORT, cluster)
    began = time.time()
    how = ("--jobs", str(at_once), "--config", f"jobs={jobs}", "seconds=0")
    output = flow.run(*how, timeout=1500, status_interval=10, keep_successful=True)
    minutes = (time.time() - began) / 60
    assert flow.starts() == Counter({str(i): 1 for i in range(jobs)})
    assert len(flow.outputs()) == jobs
    waves = output.count("\nExecute ") - 1  # the last is the local rule all
    assert len(cluster.calls("sbatch")) <= waves
    questions = len(cluster.calls("squeue")) + len(cluster.calls("sacct")) + len(cluster.calls("scontrol"))
    assert questions <= 5 + 6 * minutes  # one every 10 s at most, and what is asked once
    assert len(flow.submissions()[0]["allocations"]) == at_once
    print(
        f"{jobs} jobs in {minutes:.1f} min: {waves} waves, {len(cluster.calls('sbatch'))} sbatch, {questions} questions"
    )


# ------------------------------------------------------------------------------------------ the controller dies


def test_a_controller_killed_at_each_of_its_steps_loses_nothing_and_runs_nothing_twice(
    slurm: Cluster, tmp_path: Path
) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    arguments = ("--jobs", "3", "--config", "jobs=6", "seconds=2")
    steps: list[Callable[[], object]] = [
        lambda: (flow.folder / ".snakemake/submitit").exists(),  # it has not submitted yet
        lambda: slurm.calls("sbatch"),  # jobs are under way
        lambda: len(flow.outputs()) >= 2,  # some have ended
        lambda: len(slurm.calls("sbatch")) >= 2,  # the next ones are under way
    ]
    for reached in steps:
        process = flow.start(*arguments)
        slurm.wait(lambda: reached() or process.poll() is not None)  # noqa: B023
        process.kill()  # SIGKILL, to Snakemake alone
        assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    flow.run(*arguments)
    each_ran_once(flow, slurm, 6)


def each_ran_once(flow: Flow, slurm: Cluster, jobs: int) -> None:
    assert flow.starts() == Counter({str(i): 1 for i in range(jobs)})
    assert flow.outputs() == {str(i): f"{i}\n" for i in range(jobs)}
    assert Counter(job.state for job in slurm.jobs()) == Counter(COMPLETED=jobs)


@pytest.mark.large
def test_a_controller_killed_ten_times_loses_nothing_and_runs_nothing_twice(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    draw = random.Random(4)
    arguments = ("--jobs", "3", "--config", "jobs=12", "seconds=4")
    for _ in range(10):
        process = flow.start(*arguments)
        time.sleep(draw.uniform(1.5, 6.0))  # Snakemake itself needs 1.3 s to start
        process.kill()
        process.wait()
    flow.run(*arguments)
    each_ran_once(flow, slurm, 12)


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.large), "after"])
def test_a_controller_killed_around_sbatch_submits_nothing_twice(slurm: Cluster, tmp_path: Path, moment: str) -> None:
    """Killed while sbatch runs: it goes on alone, and nobody hears which id it got."""
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    slurm.slow("sbatch", moment, seconds=3)
    process = flow.start("--config", "jobs=3", "seconds=5")
    slurm.wait(lambda: slurm.calls("sbatch"))
    process.kill()
    process.wait()
    flow.run("--config", "jobs=3", "seconds=5")
    assert len(slurm.calls("sbatch")) == 1
    assert flow.starts() == Counter({"0": 1, "1": 1, "2": 1})


def test_what_ended_while_nobody_looked_is_taken_over(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    process = flow.start("--config", "jobs=2", "seconds=3")
    flow.wait_for("out/0.starts", "out/1.starts")
    process.kill()
    process.wait()
    slurm.wait(lambda: slurm.states() == ["COMPLETED"] * 2)
    output = flow.run("--config", "jobs=2", "seconds=3")
    assert "rule work" not in output
    assert flow.starts() == Counter({"0": 1, "1": 1})
    assert "Nothing to be done" in flow.run("--config", "jobs=2", "seconds=3")


def test_an_outdated_job_is_ended_before_its_successor_starts(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", WORD, slurm)
    process = flow.start("--config", "jobs=1", "seconds=60")
    flow.wait_for("out/0.starts")
    process.kill()
    process.wait()
    flow.run("--config", "jobs=1", "seconds=1", "word=new")
    assert flow.outputs() == {"0": "new\n"}
    assert sorted(slurm.states()) == ["CANCELLED", "COMPLETED"]


def test_what_is_packed_with_an_outdated_job_starts_again(slurm: Cluster, tmp_path: Path) -> None:
    snakefile = WORD.replace("word=config", "word=lambda wildcards: wildcards.i if wildcards.i != '0' else config")
    flow = Flow(tmp_path / "flow", snakefile, slurm)
    pack = ("--default-resources", "pack=3", "pack_mode=parallel", "--config", "jobs=3")
    process = flow.start(*pack, "seconds=8")
    flow.wait_for("out/0.starts", "out/1.starts", "out/2.starts")
    process.kill()
    process.wait()
    flow.run(*pack, "seconds=8", "word=new")
    assert flow.outputs() == {"0": "new\n", "1": "1\n", "2": "2\n"}
    assert flow.starts() == Counter({"0": 2, "1": 2, "2": 2})


def test_a_wrong_resource_that_depends_on_a_file_fails_its_own_job_only(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(
        tmp_path / "flow",
        """
rule all:
    input: "out/a.txt", "out/b.txt"
rule source:
    output: "out/source"
    shell: "echo 3 > {output}"
rule work:
    input: "out/source"
    output: "out/{name}.txt"
    resources: mem_mb=lambda wildcards, input: -int(open(input[0]).read()) if wildcards.name == "a" else 10
    shell: "cp {input} {output}"
""",
        slurm,
    )
    output = flow.run("--keep-going", check=False)
    assert "rule work: mem_mb=-3 is not valid; valid: MB, a whole number from 1" in output
    assert flow.outputs() == {"b": "3\n"}


@pytest.mark.large
def test_what_ended_under_old_params_while_nobody_looked_runs_again(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", WORD, slurm)
    process = flow.start("--config", "jobs=1", "seconds=2")
    flow.wait_for("out/0.starts")
    process.kill()
    process.wait()
    slurm.wait(lambda: slurm.states() == ["COMPLETED"])
    flow.run("--config", "jobs=1", "seconds=2", "word=new")
    assert flow.outputs() == {"0": "new\n"}


def test_a_second_snakemake_in_the_same_folder_is_refused_in_one_line(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    process = flow.start("--config", "jobs=1", "seconds=8")
    flow.wait_for("out/0.starts")
    output = flow.run("--config", "jobs=1", "seconds=8", check=False)
    assert re.search(rf"submitit: in use by another Snakemake \(process {process.pid} on \S+\)", output)
    flow.finish(process)
    assert flow.starts() == Counter({"0": 1})


def test_ctrl_c_cancels_all_and_a_new_start_runs_them(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", RESUMABLE, slurm)
    process = flow.start("--config", "jobs=3", "seconds=6")
    flow.wait_for("out/0.starts", "out/1.starts", "out/2.starts")
    process.send_signal(signal.SIGINT)
    flow.finish(process, check=False)
    assert len(slurm.calls("scancel")) == 1
    flow.run("--config", "jobs=3", "seconds=6")
    assert flow.outputs() == tenths(6, 3)
    slurm.wait(lambda: set(slurm.states()) == {"CANCELLED", "COMPLETED"})


# ------------------------------------------------------------------------------------------ jobs die


def test_a_failed_job_is_reported_whole(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(
        tmp_path / "flow",
        """
rule broken:
    output: "out/{name}.txt"
    log: "out/{name}.log"
    shell: "python3 -c 'raise ValueError(\\"all went wrong\\")' 2> {log}"
rule all:
    default_target: True
    input: "out/this.txt"
""",
        slurm,
    )
    output = flow.run(check=False)
    assert re.search(r"rule broken, name=this: FAILED, exit code 1\S*, on node n\d", output)
    assert re.search(r"job: \d+; its log: out/this.log", output)
    assert "  | Traceback (most recent call last):" in output
    assert "  | ValueError: all went wrong" in output
    rows = (flow.folder / ".snakemake/submitit/map.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["time", "event", "id", "rule", "wildcards", "log"]
    assert [row.split("\t")[1:] for row in rows[1:]] == [
        [event, slurm.jobs()[0].id, "broken", "name=this", rows[1].split("\t")[5]] for event in ("submitted", "failure")
    ]
    assert "ValueError" not in rows[1]
    assert (flow.folder / ".snakemake/submitit" / rows[1].split("\t")[5]).exists()


def test_a_job_that_uses_more_memory_than_it_asked_for_is_reported_as_out_of_memory(
    slurm_factory: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = slurm_factory(memory_limits=True)
    command = "python3 -c 'import time; held = bytearray(900 * 2**20); time.sleep(60)' # "
    snakefile = SHORT.replace('shell: "', f'resources: mem_mb=500\n    shell: "{command}')
    output = Flow(tmp_path / "flow", snakefile, cluster, fresh=True).run("--config", "jobs=1", check=False)
    assert "rule work, i=0: OUT_OF_MEMORY" in output
    assert "out of memory: the job used more than it requested; increase mem_mb" in output


def command_of(flow: Flow, name: str) -> psutil.Process:
    """The process of a job's own command."""
    found = [p for p in psutil.process_iter(["cmdline", "cwd"]) if p.info["cwd"] == str(flow.folder)]
    return next(p for p in found if (p.info["cmdline"] or ["", ""])[1:3] == ["resumable.py", f"out/{name}.txt"])


@pytest.mark.parametrize("whole_group", [False, pytest.param(True, marks=pytest.mark.large)])
def test_a_job_killed_with_sigkill_is_reported_and_retried_once_per_retry(
    slurm: Cluster, tmp_path: Path, whole_group: bool
) -> None:
    flow = Flow(tmp_path / "flow", RESUMABLE, slurm)
    process = flow.start("--config", "jobs=1", "seconds=4", "--retries", "1")
    flow.wait_for("out/0.starts")
    command = command_of(flow, "0")
    if whole_group:
        os.killpg(os.getpgid(command.pid), signal.SIGKILL)  # with submitit, Snakemake and the shells in between
    else:
        command.kill()
    output = flow.finish(process)
    assert output.count("\nError in rule work") == 1
    assert "Trying to restart job" in output
    assert flow.outputs() == tenths(4, 1)
    assert flow.starts() == Counter({"0": 2})


def test_retries_count_once(slurm: Cluster, tmp_path: Path) -> None:
    snakefile = SHORT.replace("    shell:", "    retries: 2\n    shell:").replace("sleep {SECONDS};", "exit 1;")
    flow = Flow(tmp_path / "flow", snakefile, slurm)
    flow.run("--config", "jobs=1", check=False)
    assert flow.starts() == Counter({"0": 3})


@pytest.mark.parametrize("accounting", [pytest.param(False, marks=pytest.mark.large), True])
def test_scancel_by_hand_is_reported_as_such(accounting: bool, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cluster: Cluster = request.getfixturevalue("slurm_accounting" if accounting else "slurm")
    flow = Flow(tmp_path / "flow", RESUMABLE, cluster)
    process = flow.start("--keep-going", "--retries", "2", "--config", "jobs=2", "seconds=6")
    flow.wait_for("out/0.starts", "out/1.starts")
    cluster.scancel(next(job.id for job in cluster.jobs() if job.id.endswith("_0")))
    output = flow.finish(process, check=False)
    assert re.search(r"rule work, i=\d: CANCELLED", output)
    assert "cancelled by scancel or by an administrator" in output
    assert len(flow.outputs()) == 1
    assert flow.starts() == Counter({"0": 1, "1": 1})  # whoever ended it does not want it again
    flow.run("--config", "jobs=2", "seconds=6")
    assert flow.outputs() == tenths(6, 2)  # the cancelled one had saved its state
    asked, other = ("sacct", "squeue") if accounting else ("squeue", "sacct")
    assert cluster.calls(asked)
    if not accounting:
        assert not cluster.calls(other)


def test_a_job_whose_node_goes_down_runs_again(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    process = flow.start("--config", "jobs=1", "seconds=5")
    flow.wait_for("out/0.starts")
    slurm.set_node(slurm.jobs()[0].node, "down")
    flow.finish(process)
    assert flow.outputs() == {"0": "0\n"}
    assert flow.starts() == Counter({"0": 2})
    assert len(slurm.calls("sbatch")) == 1  # SLURM requeues it


def test_a_job_that_slurm_does_not_requeue_after_its_nodes_failure_is_submitted_again(
    slurm_factory: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = slurm_factory(nodes=2)
    flow = Flow(tmp_path / "flow", SHORT, cluster)
    process = flow.start("--config", "jobs=1", "seconds=8")
    flow.wait_for("out/0.starts")
    cluster.run("scontrol", "update", f"JobId={cluster.jobs()[0].id}", "Requeue=0")
    cluster.set_node(cluster.jobs()[0].node, "down")
    flow.finish(process)
    assert flow.outputs() == {"0": "0\n"}
    assert sorted(cluster.states()) == ["COMPLETED", "NODE_FAIL"]


# ------------------------------------------------------------------------------------------ limits and preemption


def ask_to_save(slurm: Cluster) -> None:
    """Send the signal of a near time limit. SLURM refuses it, without a word, until the job's script is set up."""

    def sent() -> bool:
        try:
            slurm.run("scancel", "--signal=USR2", "--batch", slurm.jobs()[0].id)
        except RuntimeError:
            return False
        return True

    slurm.wait(sent)


def test_a_timeout_signal_saves_and_requeues_as_often_as_it_takes(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", RESUMABLE, slurm)
    process = flow.start("--config", "jobs=1", "seconds=6")
    for rounds in (1, 2, 3):
        slurm.wait(lambda: flow.starts()["0"] == rounds)  # noqa: B023
        ask_to_save(slurm)
    output = flow.finish(process)
    assert flow.outputs() == tenths(6, 1)
    assert flow.starts() == Counter({"0": 4})
    assert "Error" not in output
    assert len(slurm.calls("sbatch")) == 1
    assert len({job.id for job in slurm.jobs()}) == 1


def test_the_real_time_limit_is_survived(slurm: Cluster, tmp_path: Path) -> None:
    """SLURM looks at limits every 30 s, so a limit of one minute gives some 60 s at a time."""
    flow = Flow(tmp_path / "flow", RESUMABLE.replace("    shell:", "    resources: runtime=1\n    shell:"), slurm)
    flow.run("--config", "jobs=1", "seconds=45", signal_delay=55)
    assert flow.outputs() == tenths(45, 1)
    assert flow.starts()["0"] >= 2


def test_the_requeue_limit_holds(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", RESUMABLE, slurm)
    process = flow.start("--config", "jobs=1", "seconds=30", requeue_limit=1)
    for rounds in (1, 2):
        slurm.wait(lambda: flow.starts()["0"] == rounds)  # noqa: B023
        ask_to_save(slurm)
    output = flow.finish(process, check=False)
    assert "not finished after 2 rounds (requeue limit 1)" in output


def test_requeue_can_be_off(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", RESUMABLE.replace("    shell:", "    resources: requeue=0\n    shell:"), slurm)
    process = flow.start("--config", "jobs=1", "seconds=30")
    slurm.wait(lambda: flow.starts()["0"] == 1)
    slurm.run("scancel", "--signal=USR2", "--batch", slurm.jobs()[0].id)
    output = flow.finish(process, check=False)
    assert "stopped before it finished, and requeue is off" in output
    assert (flow.folder / "out/0.state").exists()


def test_a_command_that_cannot_save_is_left_to_run(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm, fresh=True)
    process = flow.start("--config", "jobs=1", "seconds=4")
    flow.wait_for("out/0.starts")
    slurm.run("scancel", "--signal=USR2", "--batch", slurm.jobs()[0].id)
    flow.finish(process)
    assert flow.starts() == Counter({"0": 1})


@pytest.mark.large
def test_a_job_over_its_limit_is_reported_as_timed_out(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT.replace("    shell:", "    resources: runtime=1\n    shell:"), slurm)
    output = flow.run("--config", "jobs=1", "seconds=200", check=False)
    assert "rule work, i=0: TIMEOUT" in output
    assert "timed out: the job exceeded its limit" in output


@pytest.mark.parametrize("user_signal", [True, pytest.param(False, marks=pytest.mark.large)])
def test_a_preempted_job_saves_and_goes_on_later(
    slurm_factory: Callable[..., Cluster], tmp_path: Path, user_signal: bool
) -> None:
    seconds = 8 if user_signal else 30  # without it, the jobs go on for the 20 s of grace
    other = {} if user_signal else {"SlurmctldParameters": "idle_on_node_suspend"}
    cluster = slurm_factory(nodes=1, cpus=2, preemption=True, **other)
    flow = Flow(tmp_path / "flow", RESUMABLE, cluster)
    process = flow.start(
        "--default-resources", "slurm_partition=low", "runtime=60", "--config", "jobs=2", f"seconds={seconds}"
    )
    flow.wait_for("out/0.starts", "out/1.starts")
    urgent = cluster.submit("sleep 2", "--partition=high", "--cpus-per-task=2")
    flow.finish(process)
    assert flow.outputs() == tenths(seconds, 2)
    assert max(flow.starts().values()) == 2
    assert next(job for job in cluster.jobs() if job.id == urgent).state == "COMPLETED"


# ------------------------------------------------------------------------------------------ SLURM itself fails


@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.large)])
def test_a_controller_of_slurm_that_is_away_fails_no_job(slurm: Cluster, tmp_path: Path, seconds: int) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    process = flow.start("--jobs", "2", "--config", "jobs=4", "seconds=5")
    slurm.wait(flow.starts)
    slurm.stop_controller()
    slurm.wait(lambda: "jobs are assumed to be running until it answers" in flow.log())
    time.sleep(seconds)
    slurm.start_controller()
    flow.finish(process)
    assert flow.starts() == Counter({str(i): 1 for i in range(4)})
    assert len(flow.outputs()) == 4


def test_an_sbatch_that_fails_for_a_while_is_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    slurm.fail("sbatch", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", 2)
    output = flow.run("--config", "jobs=2")
    assert output.count("sbatch failed (sbatch: error: Batch job submission failed: Socket timed out") == 2
    assert len(slurm.calls("sbatch")) == 3
    assert len(flow.outputs()) == 2


def test_an_sbatch_that_was_accepted_though_it_failed_is_not_repeated(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    slurm.lose_answer("sbatch", "sbatch: error: Socket timed out on send/recv operation")
    flow.run("--config", "jobs=2")
    assert len(slurm.calls("sbatch")) == 1
    assert flow.starts() == Counter({"0": 1, "1": 1})


def test_an_sbatch_that_fails_for_good_fails_its_jobs_and_no_others(slurm: Cluster, tmp_path: Path) -> None:
    snakefile = SHORT.replace(
        "    shell:",
        "    resources: slurm_partition=lambda wildcards: 'nowhere' if wildcards.i == '1' else 'debug'\n    shell:",
    )
    flow = Flow(tmp_path / "flow", snakefile, slurm)
    output = flow.run("--keep-going", "--config", "jobs=3", check=False)
    assert "could not be submitted: sbatch: error: invalid partition specified: nowhere" in output
    assert set(flow.outputs()) == {"0", "2"}
    assert len(slurm.calls("sbatch")) == 2  # this one is not tried again


@pytest.mark.parametrize("accounting", [False, pytest.param(True, marks=pytest.mark.large)])
def test_an_outage_of_the_status_command_fails_no_job(
    accounting: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cluster: Cluster = request.getfixturevalue("slurm_accounting" if accounting else "slurm")
    command = "sacct" if accounting else "squeue"
    flow = Flow(tmp_path / "flow", SHORT, cluster)
    cluster.fail(command, f"{command}: error: slurm_persist_conn_open: Connection refused", 3)
    output = flow.run("--config", "jobs=2", "seconds=8")
    assert "jobs are assumed to be running until it answers" in output
    assert len(flow.outputs()) == 2


def test_each_task_of_an_array_is_known_where_slurm_cuts_its_list_short(
    slurm_accounting: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sacct says 1_[1,3,5-8,10,...%1] of what waits, in so many characters and no more."""
    tasks = [task for task in range(400) if task % 7 not in (2, 4)]
    base = slurm_accounting.submit("sleep 100", f"--array={','.join(map(str, tasks))}%1")
    for name, value in slurm_accounting.environment.items():
        monkeypatch.setenv(name, value)
    wanted = {f"{base}_{task}" for task in tasks}
    for ask in (states.squeue, states.sacct):
        slurm_accounting.wait(lambda ask=ask: ask(sorted(wanted)).get(f"{base}_0", states.State("")).name == "RUNNING")
        answer = ask(sorted(wanted))
        assert answer.keys() == wanted
        assert Counter(state.name for state in answer.values()) == {"RUNNING": 1, "PENDING": len(tasks) - 1}
    assert "..." in slurm_accounting.run("sacct", f"--jobs={base}", "--parsable2", "--format=JobID")


def test_a_job_that_slurm_does_not_know_any_more_is_lost_and_no_success(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    flow.lost_after = 4
    process = flow.start("--config", "jobs=1", "seconds=600")
    flow.wait_for("out/0.starts")
    slurm.fail("squeue", "slurm_load_jobs error: Invalid job id specified", 1000)
    output = flow.finish(process, check=False)
    assert "rule work, i=0: lost" in output
    assert "SLURM no longer knows the job, and it left no outcome" in output
    assert flow.outputs() == {}


def test_an_accounting_that_is_behind_costs_one_more_question_and_loses_no_job(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    flow.lost_after = 1
    (tmp_path / "bin").mkdir()
    sacct = tmp_path / "bin" / "sacct"
    sacct.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/questions\n")  # and knows of no job
    sacct.chmod(0o755)
    flow.outer["PATH"] = f"{sacct.parent}:{flow.environment['PATH']}"
    flow.run("--config", "seconds=10", status_command="sacct", status_interval_max=1)
    assert len(flow.outputs()) == 3
    questions = len((tmp_path / "questions").read_text().splitlines())
    assert 2 < len(slurm.calls("squeue")) <= questions  # about all three at once


def test_jobs_of_unknown_state_are_not_taken_for_successful(slurm: Cluster, tmp_path: Path) -> None:
    """Killed so that nothing is left of it: neither an outcome nor, in the end, a word of SLURM's."""
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    process = flow.start("--config", "jobs=1", "seconds=600")
    flow.wait_for("out/0.starts")
    slurm.set_node(slurm.jobs()[0].node, "down")
    slurm.scancel(slurm.jobs()[0].id)
    output = flow.finish(process, check=False)
    assert "rule work, i=0: CANCELLED" in output
    assert flow.outputs() == {}


def test_a_refused_array_is_one_report_and_is_not_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    snakefile = SHORT.replace("    shell:", "    resources: slurm_partition='nowhere'\n    shell:")
    flow = Flow(tmp_path / "flow", snakefile, slurm)
    output = flow.run("--keep-going", "--retries", "2", "--config", "jobs=12", check=False)
    assert output.count("Error in rule") == 1
    assert (
        len(re.findall(r"invalid partition specified: nowhere .*\(12 jobs: rule work, i=.*; and 9 more\)", output)) == 1
    )
    assert "Trying to restart" not in output
    assert len(slurm.calls("sbatch")) == 1
    rows = (flow.folder / ".snakemake/submitit/map.tsv").read_text().splitlines()
    assert [row.split("\t")[1] for row in rows[1:]] == ["failure"] * 12


@pytest.mark.parametrize("accounting", [False, pytest.param(True, marks=pytest.mark.large)])
def test_what_keeps_jobs_from_starting_is_said_and_what_is_said_helps(
    accounting: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cluster: Cluster = request.getfixturevalue("slurm_accounting" if accounting else "slurm")
    flow = Flow(tmp_path / "flow", SHORT, cluster)
    flow.say_every = 2
    for node in cluster.nodes:
        cluster.set_node(node, "drain")
    process = flow.start("--config", "jobs=3", status_interval_max=2)
    log = flow.folder / "snakemake.log"

    def said(pattern: str) -> str:
        found: re.Match[str] | None = cluster.wait(
            lambda: re.search(pattern, log.read_text()) if log.exists() else None, 100
        )
        assert found
        return found[0]

    base = re.escape(
        said(r"Submitted 3 jobs as array (\d+)_\[0-2\]; ids and logs: \.snakemake/submitit/map\.tsv")
        .split()[5]
        .rstrip(";")
    )
    assert "`sinfo -R` shows why" in said(
        r".*3 jobs do not start: \S+ \(rule work, i=\d; .*DOWN, DRAINED.*|.*3 jobs.*ReqNode.*"
    )
    said(r"jobs: 3 waiting \(3 .*\), 0 running, 0 done, 0 failed")
    cluster.run("scontrol", "uhold", base.partition("_")[0])
    release = said(rf"3 jobs do not start: .*PENDING, .*: held; run `scontrol release {base}`").split("`")[1].split()
    for node in cluster.nodes:
        cluster.set_node(node, "resume")
    cluster.run(*release)
    output = flow.finish(process)
    assert len(flow.outputs()) == 3
    assert output.count(" do not start: ") == 2  # each once


def test_a_damaged_outcome_stops_no_other_job_and_slurms_word_counts(slurm: Cluster, tmp_path: Path) -> None:
    """Two outcomes are overwritten before Snakemake, which is stopped meanwhile, reads them."""
    snakefile = SHORT.replace("sleep {SECONDS};", "until [ -e go ]; do sleep 0.1; done; [ {wildcards.i} != 1 ];")
    flow = Flow(tmp_path / "flow", snakefile, slurm)
    process = flow.start("--keep-going", "--latency-wait", "2", "--config", "jobs=3")
    flow.wait_for("out/0.starts", "out/1.starts", "out/2.starts")
    process.send_signal(signal.SIGSTOP)
    (flow.folder / "go").touch()
    slurm.wait(lambda: sorted(slurm.states()) == ["COMPLETED", "COMPLETED", "FAILED"])
    scripts = list(flow.folder.glob(".snakemake/submitit/*/?.sh"))
    spoiled = [script.with_suffix(".json") for script in scripts if re.search("i=[01]", script.read_text())]
    for path in spoiled:
        assert path.stat().st_size
        path.write_text("torn\n")
    process.send_signal(signal.SIGCONT)
    output = flow.finish(process, check=False)
    assert set(flow.outputs()) == {"0", "2"}
    assert output.count("\nError in rule work") == 1
    assert re.search(r"rule work, i=1: FAILED.*\n.*its outcome file cannot be read: \S+/\d\.json", output)
    named = re.findall(r"(\S+/\d\.json): damaged, not JSON; SLURM's state is used instead", output)
    assert sorted(named) == sorted(map(str, spoiled))
    assert len(spoiled) == 2


# ------------------------------------------------------------------------------------------ disks


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mounts a small file system on a new folder."""
    mounted: list[Path] = []

    def do(folder: Path, option: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(folder)

    yield do
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a file system but for some bytes; the file that does it."""
    file = folder / "filler"
    with suppress(OSError), open(file, "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    if leave:
        os.truncate(file, file.stat().st_size - leave)
    return file


def test_a_full_results_disk_fails_the_job_and_the_next_start_finishes_it(
    slurm: Cluster, tmp_path: Path, mount: Callable[..., None]
) -> None:
    flow = Flow(tmp_path / "flow", SHORT.replace("echo {wildcards.i} >", "seq 20000 >"), slurm)
    mount(flow.folder / "out", "size=256k")
    filler = fill(flow.folder / "out", leave=16384)
    output = flow.run("--config", "jobs=1", check=False)
    assert "No space left on device" in output
    assert flow.outputs() == {}
    filler.unlink()
    flow.run("--config", "jobs=1")
    assert flow.outputs()["0"].endswith("\n20000\n")


def test_a_full_disk_under_the_plugins_own_folder_hangs_nothing(
    slurm: Cluster, tmp_path: Path, mount: Callable[..., None]
) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    own = flow.folder / ".snakemake/submitit"
    mount(own, "size=1m")
    process = flow.start("--keep-going", "--config", "jobs=2", "seconds=5")
    slurm.wait(lambda: len(flow.starts()) == 2)
    filler = fill(own)
    output = flow.finish(process, check=False)
    assert len(re.findall(r"rule work, i=\d: FAILED", output)) == 2
    filler.unlink()
    flow.run("--config", "jobs=2", "seconds=1")
    assert len(flow.outputs()) == 2


def test_a_read_only_log_folder_is_refused_in_one_line(
    slurm: Cluster, tmp_path: Path, mount: Callable[..., None]
) -> None:
    flow = Flow(tmp_path / "flow", SHORT, slurm)
    own = flow.folder / ".snakemake/submitit"
    mount(own, "ro")
    output = flow.run("--config", "jobs=1", check=False)
    assert ".snakemake/submitit: not writable (Read-only file system)" in output
    assert not slurm.calls("sbatch")
    subprocess.run(["mount", "-o", "remount,rw", str(own)], check=True)
    flow.run("--config", "jobs=1")
    assert flow.outputs() == {"0": "0\n"}


# ------------------------------------------------------------------------------------------ the outside


def test_nothing_of_an_outer_allocation_leaks_into_jobs(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT.replace("sleep {SECONDS};", "env > out/{wildcards.i}.env;"), slurm)
    flow.outer = {
        "SLURM_JOB_ID": "999",
        "SLURM_NTASKS": "7",
        "SBATCH_TIMELIMIT": "0",
        "SBATCH_PARTITION": "nowhere",
        "SLURM_MEM_PER_CPU": "77",
        "PMI_RANK": "3",
        "PMIX_RANK": "3",
        "SQUEUE_STATES": "FAILED",
    }
    flow.run("--config", "jobs=1")
    lines = (flow.folder / "out/0.env").read_text().splitlines()
    inside = dict(line.partition("=")[::2] for line in lines)
    assert inside["SLURM_JOB_ID"] == slurm.jobs()[0].id
    assert not {"PMI_RANK", "PMIX_RANK", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION"} & inside.keys()
    assert inside.get("SLURM_NTASKS", "1") == "1"


def test_a_users_defaults_of_sbatch_hold_where_the_workflow_does_not_say(
    slurm_factory: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = slurm_factory(partitions=["users Nodes=ALL", "ours Nodes=ALL"])
    given = "lambda wildcards: {} if wildcards.i == '1' else None"
    snakefile = SHORT.replace(
        "    shell:",
        f"    resources: slurm_partition={given.format(repr('ours'))}, slurm_account={given.format(repr('own'))}, "
        f"runtime={given.format(5)}\n    shell:",
    )
    flow = Flow(
        tmp_path / "flow", snakefile.replace("sleep {SECONDS};", "echo $MARK > out/{wildcards.i}.mark;"), cluster
    )
    flow.outer = {
        "SBATCH_ACCOUNT": "group",
        "SBATCH_PARTITION": "users",
        "SBATCH_TIMELIMIT": "77",
        # what the plugin decides
        "SBATCH_ARRAY_INX": "0-9",
        "SBATCH_EXPORT": "NONE",
        "SBATCH_JOB_NAME": "mine",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_OUTPUT": "/nowhere/%j",
        "SBATCH_SIGNAL": "B:KILL@59",
        "SBATCH_WAIT": "1",
        "MARK": "passed on",
    }
    output = flow.run("--config", "jobs=2")
    assert flow.outputs() == {"0": "0\n", "1": "1\n"}
    assert {(flow.folder / f"out/{i}.mark").read_text() for i in range(2)} == {"passed on\n"}
    lines = cluster.run("squeue", "--states=all", "--noheader", "--array", "--format=%P|%a|%l|%K|%j").splitlines()
    assert sorted(line.rpartition("-")[0] for line in lines) == [
        "ours|own|5:00|N/A|work",
        "users|group|1:17:00|N/A|work",
    ]
    names = (
        "SBATCH_ARRAY_INX, SBATCH_EXPORT, SBATCH_JOB_NAME, SBATCH_NO_REQUEUE, SBATCH_OUTPUT, SBATCH_SIGNAL, SBATCH_WAIT"
    )
    assert output.count(f"ignoring {names}: the plugin sets these options itself") == 1


def test_a_working_directorys_name_is_no_code_on_the_node(slurm: Cluster, tmp_path: Path) -> None:
    flow = Flow(tmp_path / "cmd$(touch pwned)x it's", SHORT, slurm)
    output = flow.run("--config", "jobs=2", check=False)
    assert "cannot be used: it contains an apostrophe beside one of" in output
    assert not slurm.calls("sbatch")
    flow = Flow(tmp_path / 'cmd$(touch pwned)x `touch pwned` "', SHORT, slurm)
    flow.run("--config", "jobs=2", keep_successful=True)
    assert flow.outputs() == {"0": "0\n", "1": "1\n"}
    assert next(flow.folder.glob(".snakemake/submitit/*/*_1_0_log.out")).stat().st_size > 0
    assert not [*tmp_path.rglob("pwned")]


def test_gpus_are_handed_out_without_any_task_geometry(slurm: Cluster, tmp_path: Path) -> None:
    snakefile = SHORT.replace("    shell:", "    resources: gpu=1\n    shell:")
    flow = Flow(
        tmp_path / "flow", snakefile.replace("sleep {SECONDS};", "env > out/{wildcards.i}.env; sleep 2;"), slurm
    )
    flow.run("--config", "jobs=2", keep_successful=True)
    seen = [dict(line.partition("=")[::2] for line in file.read_text().splitlines())
            for file in (flow.folder / "out").glob("*.env")]  # fmt: skip
    assert len({(environment["SLURMD_NODENAME"], environment["SLURM_JOB_GPUS"]) for environment in seen}) == 2
    script = next(flow.folder.glob(".snakemake/submitit/*/*_submission.sh")).read_text()
    assert "--gpus=1" in script
    assert "ntasks" not in script
    assert "srun" not in script
    assert "wckey" not in script


# ------------------------------------------------------------------------------------------ Snakemake's own tests


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pulp", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestPublic(TestWorkflowsLocalStorageBase):  # type: ignore[misc]
    """The workflows that Snakemake ships for executor plugins."""

    __test__ = True
    test_group_workflow = pytest.mark.large(TestWorkflowsLocalStorageBase.test_group_workflow)

    @pytest.fixture(autouse=True)
    def cluster(self, slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in slurm.environment.items():
            monkeypatch.setenv(name, value)

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(backend="slurm", status_interval=1)
