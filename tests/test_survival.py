"""A run that is killed at any moment, or meets a full disk, ends with the trace of one that met nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import arrays, constant, entry, make_spec, needs_pesq
from test_train import at_batch, contents

from sparsity_cliff.traces import schema
from sparsity_cliff.training import checkpoint, stopping
from sparsity_cliff.training.run import train_run

CODE = '{"module":"digest"}'
KILLS = 20

#: Imports torch once and trains in a fork per line: a process of its own for each attempt, without 3 s of imports.
NURSERY = """
import importlib, importlib.util, json, os, signal, sys, traceback
from sparsity_cliff.training.run import train_run
import sparsity_cliff.networks.losses.mpsenet
if importlib.util.find_spec("pesq"):
    import pesq

def kill_in(name, count):
    original, calls = getattr(os, name), []
    def call(*arguments):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    setattr(os, name, call)

for line in sys.stdin:
    arguments, fault = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        status = 1
        try:
            if fault:
                kill_in(*fault)
            train_run(**arguments)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Attempts at a run, each a process of its own."""

    def __init__(self, log: Path):
        self.log = log
        with open(log, "w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", NURSERY],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def start(self, folder: Path, spec: dict[str, Any], fault: tuple[str, int] | None = None) -> int:
        """Start an attempt; its process."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([arguments(folder, spec), fault]) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return int(self._line())

    def run(self, folder: Path, spec: dict[str, Any], fault: tuple[str, int] | None = None) -> int:
        self.start(folder, spec, fault)
        return self.ended()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield made
    made.close()


def arguments(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Of train_run, with a save at every step; the data lies beside the folder, where there is room for it."""
    data = folder.parent / "data.npz"
    if not data.exists():
        np.savez(data, **arrays(constant(spec["model"]["function"], "ACCEPTS")[0]))  # type: ignore[arg-type]
    output = str(folder / "traces" / "small.parquet")
    return {"run": "small", "spec": json.dumps(spec, sort_keys=True), "code": CODE, "data": str(data)} | {
        "output": output,
        "every_seconds": 0,
    }


def trace(folder: Path) -> Path:
    return folder / "traces" / "small.parquet"


# ------------------------------------------------------------------------------------------ kill -9

MUON = entry("optimizer", "muon", lr=0.01, adamw_lr=0.003)  # muon for the blocks, AdamW for the rest
RUNS = [
    pytest.param(make_spec("gpt", optimizer=MUON, steps=90, every=45, seeds=[0, 1]), id="muon and adamw"),
    pytest.param(
        make_spec(
            "mpsenet",
            optimizer=entry("optimizer", "adamw", lr=1e-3),
            loss=entry("loss", "mpsenet", metric=0.05, width=2),
            steps=30,
            every=30,
            batch_size=2,
        ),
        id="a discriminator",
        marks=needs_pesq,
    ),
]


@pytest.mark.parametrize(
    "spec", [RUNS[0], pytest.param(*RUNS[1].values, id=RUNS[1].id, marks=[*RUNS[1].marks, pytest.mark.large])]
)
def test_kills_at_saves_change_nothing(tmp_path: Path, nursery: Nursery, spec: dict[str, Any]) -> None:
    spec = spec | {"training": spec["training"] | {"steps": 12}}
    assert nursery.run(tmp_path / "whole", spec) == 0
    parts = tmp_path / "parts"
    for fault in (("fsync", 2), ("replace", 5), ("unlink", 1), ("fsync", 4)):
        assert nursery.run(parts, spec, fault) == -signal.SIGKILL
        assert list(parts.rglob("state.pt"))
    assert nursery.run(parts, spec) == 0
    assert contents(trace(parts)) == contents(trace(tmp_path / "whole"))
    assert not (parts / "checkpoints").exists()


@pytest.mark.large
@pytest.mark.parametrize("spec", RUNS)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path, nursery: Nursery, spec: dict[str, Any]) -> None:
    """Half of the kills come at a random moment after a start, half at one after the first save of an attempt."""

    def saved() -> int:
        """When the last save was, in nanoseconds; 0 if there is none."""
        with suppress(FileNotFoundError):  # removed meanwhile, at the end of the run
            return max((path.stat().st_mtime_ns for path in parts.rglob("state.pt")), default=0)
        return 0

    began = time.monotonic()
    assert nursery.run(tmp_path / "whole", spec) == 0
    took = time.monotonic() - began
    expected = contents(trace(tmp_path / "whole"))
    moments, parts = random.Random(0), tmp_path / "parts"
    kills = resumed = torn = 0
    while kills < KILLS:
        before = saved()
        process = nursery.start(parts, spec)
        while kills % 2 == 0 and saved() in (0, before) and not trace(parts).exists():
            assert time.monotonic() < began + 20 * KILLS * took, "no attempt saves"
            time.sleep(0.001)
        time.sleep(moments.uniform(0, took / 12))
        if not trace(parts).exists():
            os.kill(process, signal.SIGKILL)
        if nursery.ended() == 0:  # it was faster than before: once more from the start
            assert contents(trace(parts)) == expected
            shutil.rmtree(parts)
        else:
            kills += 1
            torn += len(list(parts.rglob(".*.state.pt")))
            resumed += len(list(parts.rglob("state.pt")))
    assert nursery.run(parts, spec) == 0
    assert contents(trace(parts)) == expected
    assert not (parts / "checkpoints").exists()
    assert resumed > KILLS / 2
    print(f"{kills} kills, {resumed} after a save, {torn} files of interrupted saves seen; a run takes {took:.1f} s")


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_a_kill_inside_a_save_changes_nothing(tmp_path: Path, nursery: Nursery, call: str, count: int) -> None:
    spec = make_spec(optimizer=entry("optimizer", "adam"))
    assert nursery.run(tmp_path / "whole", spec) == 0
    parts = tmp_path / "parts"
    assert nursery.run(parts, spec, (call, count)) == -signal.SIGKILL
    assert len(list(parts.rglob(".*.state.pt"))) == (call != "unlink")
    assert nursery.run(parts, spec) == 0
    assert contents(trace(parts)) == contents(trace(tmp_path / "whole"))
    assert not (parts / "checkpoints").exists()  # nor what the killed save left


@pytest.mark.parametrize("damage", ["torn", "foreign"])
def test_a_damaged_checkpoint_is_named_and_the_run_starts_afresh(tmp_path: Path, nursery: Nursery, damage: str) -> None:
    spec = make_spec(optimizer=entry("optimizer", "adam"))
    assert nursery.run(tmp_path / "whole", spec) == 0
    parts = tmp_path / "parts"
    assert nursery.run(parts, spec, ("fsync", 7)) == -signal.SIGKILL
    (path,) = parts.rglob("state.pt")
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        checkpoint.save(path, "another's", {"done": [], "current": {"step": 11}})
    before = nursery.log.read_text()
    assert nursery.run(parts, spec) == 0
    (line,) = (line for line in nursery.log.read_text().removeprefix(before).splitlines() if str(path) in line)
    assert f"{path}: {damage} checkpoint" in line
    assert line.endswith("not used, starting from scratch")
    assert contents(trace(parts)) == contents(trace(tmp_path / "whole"))


# ------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def asked_to_stop(folder: Path, spec: dict[str, Any], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_batch(number, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch):
        train_run(**{**arguments(folder, spec), "every_seconds": 60})


def test_a_full_disk_ends_no_run_that_can_go_on_and_loses_nothing(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(optimizer=entry("optimizer", "adam"))
    train_run(**arguments(tmp_path / "whole", spec))
    with pytest.raises(stopping.Interrupted):
        asked_to_stop(disk, spec, 6, monkeypatch)
    (path,) = disk.rglob("state.pt")
    before = path.read_bytes()

    filler = fill(disk)
    capsys.readouterr()
    with pytest.raises(schema.TraceError) as error:  # trained to the end with no save; the trace itself needs room
        train_run(**arguments(disk, spec))
    assert str(error.value).startswith(f"{trace(disk)}: trace not written (")
    assert "No space left on device" in str(error.value)
    assert str(error.value).endswith("; the next attempt resumes")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "not saved" in line] == [  # once, and not at every step
        f"small  {path}: state not saved (No space left on device); "
        "training continues, and the previous checkpoint remains"
    ]
    assert any("seed 0: finished" in line for line in lines)
    assert path.read_bytes() == before
    assert sorted(file.name for file in disk.rglob("*") if file.is_file()) == ["filler", "state.pt"]

    with pytest.raises(checkpoint.CheckpointError) as stopped:  # nothing could go on after this one
        asked_to_stop(disk, spec, 3, monkeypatch)
    assert str(stopped.value) == f"{path}: state not saved (No space left on device) after a request to stop"
    assert path.read_bytes() == before

    filler.unlink()
    capsys.readouterr()
    train_run(**arguments(disk, spec))
    assert "resuming at seed 0, step 6" in capsys.readouterr().out
    assert contents(trace(disk)) == contents(trace(tmp_path / "whole"))
