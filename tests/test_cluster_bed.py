"""The test bed is a real SLURM: what other tests rely on, seen once.

These tests are large as long as the bed is the one that they last passed on. After an edit of it they are a part of
every run of the suite, until BED names it.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import cluster as bed
import pytest
from cluster import Cluster, Job, free_ports, skip_without_slurm

Start = Callable[..., Cluster]
INSTALL = Path(__file__).with_name("install_slurm.sh")
BED = "2c0006fe9a9b"
DIGEST = hashlib.sha256(Path(bed.__file__).read_bytes() + INSTALL.read_bytes()).hexdigest()[:12]

pytestmark = [pytest.mark.large] if DIGEST == BED else []


def output(slurm: Cluster, job: str) -> list[str]:
    """What the job wrote, without what SLURM and a shell whose command was killed add."""
    path = slurm.folder / f"log/{job}.out"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.startswith("slurmstepd") and "Terminated" not in line]


def client(slurm: Cluster, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """What a program under test would see."""
    return subprocess.run(command, env=slurm.environment, capture_output=True, text=True, timeout=timeout)


def alive(pid: str) -> bool:
    """False, too, for what is dead but not yet asked for by its parent."""
    path = Path("/proc", pid, "cmdline")
    return path.exists() and path.read_bytes() != b""


def running(slurm: Cluster) -> bool:
    return set(slurm.states()) == {"RUNNING"}


def test_a_job_and_an_array_finish(slurm: Cluster) -> None:
    job = slurm.submit("echo hello from $SLURMD_NODENAME", "--job-name=a|b")
    array = slurm.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1", "--nodelist=n2")
    slurm.wait(lambda: slurm.states() == ["COMPLETED", "COMPLETED", "FAILED"])
    assert slurm.jobs()[0] == Job(job, "a|b", "COMPLETED", "n1")
    assert output(slurm, job) == ["hello from n1"]
    assert [(job.id, job.node) for job in slurm.jobs()[1:]] == [(f"{array}_0", "n2"), (f"{array}_1", "n2")]


def test_sacct_fails_without_accounting(slurm: Cluster) -> None:
    sacct = client(slurm, "sacct", "-j", "1")
    assert (sacct.returncode, sacct.stderr) == (1, "Slurm accounting storage is disabled\n")


def test_sacct_knows_the_jobs_with_accounting(slurm_accounting: Cluster) -> None:
    slurm = slurm_accounting
    job = slurm.submit("exit 3")
    slurm.wait(
        lambda: (
            f"{job}|FAILED|3:0\n" in client(slurm, "sacct", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode").stdout
        )
    )


def test_jobs_on_a_node_are_given_different_gpus(slurm: Cluster) -> None:
    jobs = [
        slurm.submit("echo $CUDA_VISIBLE_DEVICES $SLURM_JOB_GPUS; sleep 60", "--gpus=1", "--nodelist=n1") for _ in "abc"
    ]
    slurm.wait(lambda: output(slurm, jobs[0]) and output(slurm, jobs[1]))
    assert slurm.states() == ["RUNNING", "RUNNING", "PENDING"]
    assert [output(slurm, job) for job in jobs] == [["0 0"], ["1 1"], []]


def test_a_requeued_job_starts_again_within_ten_seconds(slurm: Cluster) -> None:
    job = slurm.submit("echo run ${SLURM_RESTART_COUNT:-0}; sleep 60", "--open-mode=append")
    slurm.wait(lambda: output(slurm, job))
    begin = time.time()
    slurm.run("scontrol", "requeue", job)
    slurm.wait(lambda: slurm.states() == ["PENDING"])
    (due,) = re.findall("EligibleTime=(\\S+)", slurm.run("scontrol", "show", "job", job))
    assert datetime.fromisoformat(due).timestamp() < begin + 8  # and then as soon as this machine finds the time
    slurm.wait(lambda: output(slurm, job) == ["run 0", "run 1"])
    assert slurm.states() == ["RUNNING"]


def test_the_job_of_a_dead_node_runs_again_on_another(slurm: Cluster) -> None:
    job = slurm.submit("echo $SLURMD_NODENAME $$; sleep 60", "--open-mode=append")
    slurm.wait(lambda: output(slurm, job))
    node, pid = output(slurm, job)[0].split()
    slurm.kill_node(node)
    assert not alive(pid)
    slurm.set_node(node, "down")
    slurm.wait(lambda: len(output(slurm, job)) == 2 and running(slurm))
    assert slurm.jobs()[0].node != node
    slurm.restart_node(node)
    assert "idle" in slurm.run("sinfo", "-h", "-n", node, "-o", "%T")


def test_the_signal_before_the_limit_reaches_the_batch_shell(slurm: Cluster) -> None:
    job = slurm.submit(
        "trap 'echo USR2; exit 0' USR2; echo started; while :; do sleep 0.1; done", "--signal=B:USR2@90", "--time=1"
    )
    slurm.wait(lambda: slurm.states() == ["COMPLETED"], 45)  # limits are looked at every 30 s of a controller's life
    assert output(slurm, job) == ["started", "USR2"]


def test_a_job_outlives_its_controller_and_its_slurmd(slurm: Cluster) -> None:
    job = slurm.submit("trap 'echo done; exit' USR1; echo started; while :; do sleep 0.1; done")
    slurm.wait(lambda: output(slurm, job))
    slurm.kill_node("n1", jobs=False)
    slurm.restart_node("n1")
    slurm.stop_controller()
    slurm.start_controller()
    assert slurm.states() == ["RUNNING"]
    slurm.wait(lambda: "idle" in slurm.run("sinfo", "-h", "-n", "n2", "-o", "%T"))
    slurm.scancel("--batch", "--signal=USR1", job)
    slurm.wait(lambda: slurm.states() == ["COMPLETED"])
    assert output(slurm, job) == ["started", "done"]


def test_a_job_of_high_priority_takes_the_place_of_a_low_one_after_its_signal(slurm_factory: Start) -> None:
    slurm = slurm_factory(nodes=1, preemption=True)
    checkpoint = "trap 'echo saved; scontrol requeue $SLURM_JOB_ID' USR2; echo started; while :; do sleep 0.1; done"
    options = ("--exclusive", "--open-mode=append", "--signal=B:USR2@60", "--time=60")
    low = slurm.submit(checkpoint, *options, "--partition=low")
    slurm.wait(lambda: output(slurm, low))
    slurm.submit("true", "--exclusive", "--partition=high")
    slurm.wait(lambda: slurm.states() == ["PENDING", "COMPLETED"])
    assert output(slurm, low) == ["started", "saved"]


def test_what_takes_more_memory_than_it_asked_for_is_killed(slurm_factory: Start) -> None:
    slurm = slurm_factory(nodes=1, memory_mb=2000, memory_limits=True)
    slurm.submit(f"{sys.executable} -c 'import time; x = bytearray(300 << 20); time.sleep(60)'", "--mem=100")
    waiting = slurm.submit("true", "--mem=1950")
    slurm.wait(lambda: slurm.states()[0] in ("FAILED", "OUT_OF_MEMORY"))
    slurm.wait(lambda: slurm.states()[1] == "COMPLETED")
    record = slurm.run("scontrol", "show", "job", waiting)
    assert "mem=1950M" in record


def test_settings_and_partitions_are_those_of_slurm_conf(slurm_factory: Start) -> None:
    slurm = slurm_factory(nodes=3, cpus=2, gpus=0, partitions=["short Nodes=n3 MaxTime=5"], MaxArraySize=5)
    assert slurm.run("sinfo", "-h", "-p", "short", "-o", "%N %l %c %G") == "n3 5:00 2 (null)"
    with pytest.raises(RuntimeError, match=r"sbatch .*--array=0-5.*Invalid job array specification"):
        slurm.submit("true", "--array=0-5")


def test_clusters_live_side_by_side(slurm: Cluster, slurm_factory: Start) -> None:
    other = slurm_factory(nodes=1)
    other.submit("true")
    other.wait(lambda: other.states() == ["COMPLETED"])
    assert slurm.jobs() == []


def test_every_call_is_counted_with_its_arguments(slurm: Cluster) -> None:
    before = time.time()
    client(slurm, "sbatch", "--output=/dev/null", "--wrap", "squeue --me", "--comment=two\nlines", "--comment", "")
    client(slurm, "squeue")
    slurm.wait(lambda: len(slurm.calls()) == 3)  # the job's own, too
    assert [call.arguments for call in slurm.calls("squeue")] == [[], ["--me"]]
    (call,) = slurm.calls("sbatch")
    assert call.arguments == ["--output=/dev/null", "--wrap", "squeue --me", "--comment=two\nlines", "--comment", ""]
    assert before <= call.time <= time.time()


def test_a_command_fails_as_often_as_it_is_told(slurm: Cluster) -> None:
    slurm.fail("squeue", "slurm_load_jobs error: Socket timed out\n(second line)", count=2)
    calls = [subprocess.Popen("squeue", env=slurm.environment, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    errors = [call.communicate()[1] for call in calls]
    assert sorted(call.returncode for call in calls) == [0, 0, 0, 0, 1, 1]
    assert sorted(set(errors)) == ["", "slurm_load_jobs error: Socket timed out\n(second line)\n"]
    assert len(slurm.calls("squeue")) == 6
    assert client(slurm, "sinfo").returncode == 0
    slurm.jobs()  # the test's own question does not fail
    with pytest.raises(ValueError, match="srunn cannot fail on demand, only sbatch, srun,"):
        slurm.fail("srunn", "")


def test_a_command_hangs_as_often_as_it_is_told(slurm: Cluster) -> None:
    slurm.hang("scontrol")
    with pytest.raises(subprocess.TimeoutExpired):
        client(slurm, "scontrol", "ping", timeout=0.5)
    assert client(slurm, "scontrol", "ping", timeout=5).returncode == 0
    slurm.hang("scontrol")
    slurm.heal()
    assert client(slurm, "scontrol", "ping", timeout=5).returncode == 0


def test_after_a_reset_all_is_as_new(slurm: Cluster) -> None:
    slurm.submit("true", "--nodelist=n1")
    slurm.wait(lambda: slurm.states() == ["COMPLETED"])
    slurm.submit("trap '' TERM; sleep 60", "--array=0-3")
    slurm.wait(lambda: "RUNNING" in slurm.states())
    slurm.fail("sbatch", "no")
    client(slurm, "squeue")
    slurm.set_node("n2", "drain")
    slurm.kill_node("n1")
    slurm.stop_controller()
    slurm.reset()
    assert (slurm.jobs(), slurm.calls()) == ([], [])
    assert client(slurm, "sbatch", "--output=/dev/null", "--nodes=2", "--wrap", "true").returncode == 0
    slurm.wait(lambda: slurm.states() == ["COMPLETED"])


def test_a_wait_in_vain_tells_the_jobs(slurm: Cluster) -> None:
    slurm.submit("true", "--begin=now+1hour", "--job-name=later")
    with pytest.raises(TimeoutError, match=r"not so after 0.1 s; jobs: \[Job\(id='\d+', name='later', state='PENDING'"):
        slurm.wait(lambda: False, 0.1)


def test_what_the_environment_of_an_outer_job_says_is_not_handed_on(
    slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    assert {key for key in slurm.environment if key.startswith("S") and "_" in key} >= {"SLURM_CONF"}
    assert "SLURM_JOB_ID" not in slurm.environment
    slurm.submit("true")


def processes_with(text: str) -> list[str]:
    """Command lines and environments that name it, of live processes."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for file in ("cmdline", "environ"):
            try:
                content = Path("/proc", pid, file).read_bytes()
            except OSError:
                continue
            if text.encode() in content and int(pid) != os.getpid():
                found.append(f"{pid} {content[:200]!r}")
    return found


def test_a_stopped_cluster_leaves_no_process(slurm_factory: Start) -> None:
    slurm = slurm_factory(accounting=True)
    job = slurm.submit("env -i sleep 4321 & echo $!; trap '' TERM; wait")
    slurm.hang("squeue")
    with subprocess.Popen("squeue", env=slurm.environment) as hung:
        slurm.wait(lambda: output(slurm, job))
        (nameless,) = output(slurm, job)
        before = processes_with(str(slurm.folder))
        assert alive(nameless)
        slurm.stop()
    assert len(before) > 8
    assert processes_with(str(slurm.folder)) == []
    assert not alive(nameless)
    assert hung.returncode == -signal.SIGKILL


def test_a_cluster_ends_when_its_session_is_killed(tmp_path: Path) -> None:
    skip_without_slurm()
    code = (
        "import sys, time; from cluster import *; Cluster(Path(sys.argv[1]) / 'bed').start(); print(1); time.sleep(60)"
    )
    command = [sys.executable, "-u", "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=INSTALL.parent, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"1\n"
        assert len(processes_with(f"SLURM_CONF={tmp_path}")) >= 4
        session.kill()
    deadline = time.monotonic() + 10
    while processes_with(f"SLURM_CONF={tmp_path}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cluster_that_does_not_start_tells_why_and_leaves_nothing(tmp_path: Path) -> None:
    skip_without_slurm()
    with pytest.raises(RuntimeError, match=r"slurmctld ended by itself[^$]*unrecognized key: NoSuchKey"):
        Cluster(tmp_path / "bed", NoSuchKey=1).start()
    assert processes_with(f"SLURM_CONF={tmp_path}") == []


def test_more_gpus_than_can_be_faked_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gpus=8: at most 7 a node can be faked"):
        Cluster(tmp_path, gpus=8)


def test_where_no_port_is_free_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bed, "PORTS", range(1, 1))
    with pytest.raises(RuntimeError, match="no 3 free ports in a row"):
        free_ports(3)


def test_a_block_of_ports_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lock = free_ports(3)
    with lock:
        monkeypatch.setattr(bed, "PORTS", [lock.getsockname()[1]])
        with pytest.raises(RuntimeError, match="no 3 free ports in a row"):
            free_ports(3)
    free_ports(3)[1].close()


def test_where_slurm_is_missing_tests_are_skipped_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bed, "DAEMONS", ("slurmctld", "no-such-daemon"))
    with pytest.raises(pytest.skip.Exception, match=r"NO SLURM HERE: .*no-such-daemon missing"):
        skip_without_slurm()


def install(folder: Path, **tools: str) -> str:
    """What the script says where PATH has no more than these tools, shell lines that stand in for real ones."""
    tools = {"sh": 'exec /bin/sh "$@"', **tools}
    for name, line in tools.items():
        tool = folder / name.replace("_", "-")
        tool.write_text(f"#!/bin/sh\n{line}\n")
        tool.chmod(0o755)
    environment = {"PATH": str(folder), "ASKED": str(folder / "asked")}
    done = subprocess.run(["/bin/sh", INSTALL], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    return done.stderr


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ({}, "only apt-get is known to install it"),
        ({"apt_get": "", "id": "echo 1000"}, "installing needs root"),
        (
            {"apt_get": "", "id": "echo 1000", "sudo": "echo a password is required >&2; exit 1"},
            "installing needs root",
        ),
        ({"apt_get": "", "sbatch": "", "dpkg": "exit 1"}, "the SLURM here is a site's own"),
    ],
)
def test_where_slurm_cannot_be_installed_one_line_says_so(tools: dict[str, str], reason: str, tmp_path: Path) -> None:
    (line,) = install(tmp_path, **tools).splitlines()
    assert line.startswith("SLURM tests will be skipped: missing ")
    assert line.endswith(reason)


def test_slurm_is_installed_by_root_and_a_failure_is_one_line(tmp_path: Path) -> None:
    asked = '/bin/cat > "$ASKED"'
    (line,) = install(
        tmp_path, apt_get="", id="echo 1000", sudo='[ "$1" = -n ] || exec "$@"', timeout=asked
    ).splitlines()
    assert line.startswith("installing SLURM for its tests (missing sbatch ")
    assert "apt-get -qq --yes --no-install-recommends install" in (tmp_path / "asked").read_text()
    lines = install(tmp_path, apt_get="", id="echo 0", sudo="exit 1", timeout=f"{asked}; exit 100").splitlines()
    assert lines[1:] == ["SLURM tests will be skipped: apt-get could not install it"]


def test_where_slurm_is_installed_nothing_is_done() -> None:
    skip_without_slurm(accounting=True)
    done = subprocess.run([INSTALL], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
