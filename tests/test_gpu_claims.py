"""GPUs for one process at a time: with names of devices that need not exist, and processes that are real."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import gpu_claims

SLURM = ("SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE")


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SLURM, no claim of before, locks of one's own."""
    for name in (*SLURM, gpu_claims.CLAIMED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu_claims, "LOCKS", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,9")


class Holder:
    """A process that claims, says so, and lives until it is told to end."""

    def __init__(self, folder: Path, arguments: str, then: str = "", **environment: str):
        code = f"""
import os, subprocess, sys
from pathlib import Path
import gpu_claims
gpu_claims.LOCKS = Path({str(folder)!r})
print("got", *gpu_claims.claim({arguments}, log=lambda line: print(line, flush=True)), flush=True)
assert {arguments.split(",")[0]} == len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
{then}
sys.stdin.read()
"""
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "7,9", **environment},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def got(self) -> list[str]:
        """Its devices; what it says before is skipped."""
        while not (line := self.line()).startswith("got"):
            assert line, "the process ended"
        return line.split()[1:]

    def end(self) -> None:
        self.process.communicate("")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_two_processes_get_two_devices_and_the_third_waits_and_says_so(tmp_path: Path) -> None:
    first, second = Holder(tmp_path, "1"), Holder(tmp_path, "1")
    assert sorted(first.got() + (second_got := second.got())) == ["7", "9"]
    third = Holder(tmp_path, "1")
    assert third.line() == "waiting for 1 of the GPUs 7, 9: all are in use"
    second.end()
    assert third.got() == second_got
    first.end()
    third.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_frees_its_device_at_once(tmp_path: Path, number: signal.Signals) -> None:
    holder = Holder(tmp_path, "2")
    assert holder.got() == ["7", "9"]
    waiting = Holder(tmp_path, "2")
    assert waiting.line() == "waiting for 2 of the GPUs 7, 9: all are in use"
    holder.process.send_signal(number)
    assert waiting.got() == ["7", "9"]
    holder.kill()
    waiting.end()


@pytest.mark.parametrize(
    "start",
    [
        "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL).pid",
        "child = os.fork()\nif not child:\n    os.close(0); os.close(1)\n    import time; time.sleep(60); os._exit(0)",
    ],
    ids=["exec", "fork"],
)
def test_a_child_that_outlives_a_killed_process_holds_nothing(tmp_path: Path, start: str) -> None:
    holder = Holder(tmp_path, "2", f"{start}\nprint(child, flush=True)")
    assert holder.got() == ["7", "9"]
    child = int(holder.line())
    try:
        holder.kill()
        os.kill(child, 0)  # it lives
        following = Holder(tmp_path, "2")
        assert following.line() == "got 7 9"
        following.end()
    finally:
        os.kill(child, signal.SIGKILL)


def test_with_two_to_a_device_jobs_spread_before_they_share(tmp_path: Path) -> None:
    holders = []
    for expected in (["7"], ["9"], ["7"], ["9"]):
        holders.append(Holder(tmp_path, "1, 2"))
        assert holders[-1].got() == expected
    fifth = Holder(tmp_path, "1, 2")
    assert fifth.line() == "waiting for 1 of the GPUs 7, 9: all are in use"
    holders[1].kill()
    assert fifth.got() == ["9"]
    for holder in (*holders, fifth):
        holder.kill()


def test_two_devices_are_distinct_where_each_has_two_slots(tmp_path: Path) -> None:
    holder = Holder(tmp_path, "1, 2")
    assert holder.got() == ["7"]
    both = Holder(tmp_path, "2, 2")
    assert both.line() == "got 7 9"
    holder.end()
    both.end()


def test_who_asks_for_many_is_not_passed_by_who_asks_for_few(tmp_path: Path) -> None:
    first, second = Holder(tmp_path, "1"), Holder(tmp_path, "1")
    first.got()
    second.got()
    many = Holder(tmp_path, "2")
    assert "waiting for 2" in many.line()
    few = Holder(tmp_path, "1")
    assert few.line() == "waiting for 1 of the GPUs 7, 9: other processes are already waiting"
    first.end()
    time.sleep(3 * gpu_claims.LOOK_EVERY)
    second.end()
    assert many.got() == ["7", "9"]
    many.end()
    assert few.got() == ["7"]
    few.end()


def test_a_claim_below_a_claim_does_nothing(tmp_path: Path) -> None:
    code = "import gpu_claims; from pathlib import Path; "
    code += f"gpu_claims.LOCKS = Path({str(tmp_path)!r}); print(gpu_claims.claim(1))"
    below = f"subprocess.run([sys.executable, '-c', {code!r}], timeout=10, check=True)"
    holder = Holder(tmp_path, "1", below)
    assert holder.got() == ["7"]
    assert holder.line() == "['7']"
    other = Holder(tmp_path, "1")
    assert other.line() == "got 9"
    holder.end()
    other.end()


@pytest.mark.parametrize("name", SLURM[1:])
def test_jobs_of_one_allocation_share_out_its_devices_and_not_those_of_another(tmp_path: Path, name: str) -> None:
    environment = {name: "2", "SLURM_JOB_ID": "41"}
    holders = [Holder(tmp_path, "1", **environment) for _ in range(2)]
    assert sorted(holders[0].got() + holders[1].got()) == ["7", "9"]
    # in each allocation of SLURM's the devices may be numbered from 0: another one's 7 is not this one's
    other = Holder(tmp_path, "2", **{**environment, "SLURM_JOB_ID": "42"})
    assert other.line() == "got 7 9"
    for holder in (*holders, other):
        holder.end()


@pytest.mark.parametrize(
    ("visible", "offered"),
    [
        ("7,9", ["7", "9"]),
        (" 1 , 0 ,", ["1", "0"]),
        ("GPU-8f2a,MIG-77", ["GPU-8f2a", "MIG-77"]),
        ("3,3", ["3"]),
        ("2,-1,3", ["2"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_what_is_visible_is_on_offer(monkeypatch: pytest.MonkeyPatch, visible: str, offered: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_claims.offered() == offered


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-1)
  MIG 1g.5gb      Device  0: (UUID: MIG-1111)
  MIG 1g.5gb      Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-2)
"""


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_where_nothing_is_said_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, f"[ $1 = -L ] && cat <<'X'\n{LISTED}X")
    assert gpu_claims.offered() == ["MIG-1111", "MIG-2222", "GPU-bbbb-2"]


def test_no_devices_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "exit 9")
    with pytest.raises(gpu_claims.DeviceError, match=r"^no GPUs: CUDA_VISIBLE_DEVICES is not set, and nvidia-smi -L "):
        gpu_claims.claim(1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(gpu_claims.DeviceError, match=r"nvidia-smi -L failed \(.*No such file"):
        gpu_claims.claim(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(gpu_claims.DeviceError, match=r"^1 GPUs requested, but this machine offers 0 \(CUDA_VISIBLE_"):
        gpu_claims.claim(1)


def test_more_than_there_are_is_one_clear_line() -> None:
    with pytest.raises(gpu_claims.DeviceError, match=r"^3 GPUs requested, but this machine offers 2: 7, 9$"):
        gpu_claims.claim(3)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"gpu-slots-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(gpu_claims.DeviceError, match="not a folder owned by this user; the locks on GPUs need one"):
        gpu_claims.claim(1)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"gpu-slots-{os.getuid()}").touch()
    with pytest.raises(gpu_claims.DeviceError, match="not a folder owned by this user"):
        gpu_claims.claim(1)


# ------------------------------------------------------------------------------------------ with Snakemake

SNAKEFILE = """
rule all:
    input: expand("{n}.txt", n=range(6))

rule job:
    output: "{n}.txt"
    resources: gpu=1
    script: "job.py"
"""
JOB = """
import os, time
from pathlib import Path
import gpu_claims
gpu_claims.LOCKS = Path(LOCKS)
(device,) = gpu_claims.claim(snakemake.resources.gpu, PER_DEVICE)
began = time.time()
time.sleep(0.7)
Path(snakemake.output[0]).write_text(f"{device} {began} {time.time()}")
"""


@pytest.mark.parametrize("per_device", [1, 2])
def test_jobs_of_a_sweep_share_the_devices_of_the_machine(tmp_path: Path, per_device: int) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "job.py").write_text(
        JOB.replace("LOCKS)", f"{str(tmp_path)!r})").replace("PER_DEVICE", str(per_device))
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--quiet", "all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [(tmp_path / f"{n}.txt").read_text().split() for n in range(6)]
    most = 0
    for device in ("7", "9"):
        moments = [(float(began), 1) for name, began, _ in found if name == device]
        moments += [(float(ended), -1) for name, _, ended in found if name == device]
        at_once = [sum(change for _, change in sorted(moments)[: i + 1]) for i in range(len(moments))]
        assert 0 < max(at_once, default=0) <= per_device
        most = max(most, *at_once)
    assert most == per_device  # four jobs at a time, two devices
    assert all(re.fullmatch(r"[79]", name) for name, *_ in found)
