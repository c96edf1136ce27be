"""Several processes that share each batch train what one does, and survive what one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from small import (
    BLOCK,
    arrays,
    constant,
    data_of,
    entry,
    make_model,
    make_spec,
    nearest_to_zero,
    planned,
    rounding,
    train,
)
from test_train import contents, damaged, truncated

from sparsity_cliff.training import launch, ranks, stopping
from sparsity_cliff.training.batches import Batches
from sparsity_cliff.training.build import build_loss
from sparsity_cliff.training.launch import RankError
from sparsity_cliff.training.ranks import Ranks
from sparsity_cliff.training.run import train_run

#: With 0.05, the ViT's twelve steps turn a disturbance of its weights in the last bit into one of 1e-3 in a loss.
SGD = entry("optimizer", "sgd", lr=0.02, momentum=0.9)


def spec_of(model: str, processes: int, **parts: Any) -> dict[str, Any]:
    spec = make_spec(model, **parts)
    spec["training"]["processes"] = processes
    return spec


def arguments(folder: Path, spec: dict[str, Any], **how: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **arrays(constant(spec["model"]["function"], "ACCEPTS")[0]))  # type: ignore[arg-type]
    text = json.dumps(spec, sort_keys=True)
    files = {"data": str(folder / "data.npz"), "output": str(folder / "traces" / "small.parquet")}
    return {"run": "small", "spec": text, "code": '{"module":"digest"}', "threads": 2, **files, **how}


def run(folder: Path, spec: dict[str, Any], **how: Any) -> list[Any]:
    train_run(**arguments(folder, spec, **how))
    return contents(folder / "traces" / "small.parquet")


def ranks_below(process: int) -> list[psutil.Process]:
    children = psutil.Process(process).children()
    return [child for child in children if "sparsity_cliff.training.rank" in " ".join(child.cmdline())]


def once_saved(folder: Path, do: Callable[[], None]) -> threading.Thread:
    """A thread that calls `do` some steps after the run in `folder` has saved for the first time."""

    def watch() -> None:
        for _ in range(6000):
            if list(folder.rglob("state.pt")):
                time.sleep(0.1)
                return do()
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


# ------------------------------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize(
    ("model", "microbatch"),
    [
        pytest.param("mlp", None, marks=pytest.mark.large),
        pytest.param("vit", None, marks=[pytest.mark.numerical, pytest.mark.large]),
        ("gpt", 3),
    ],
)
def test_two_processes_train_what_one_trains(tmp_path: Path, model: str, microbatch: int | None) -> None:
    # 15 examples: shares of 8 and 7, whose gradients must not count the same
    parts: dict[str, Any] = {"optimizer": SGD, "batch_size": 15, "seeds": [1, 3], "microbatch": microbatch}
    for seed in parts["seeds"]:  # a rank's sums are others than a whole batch's: no sign may hang on their last bit
        assert nearest_to_zero(model, Batches(data_of(model), 15, seed)(0)[0], seed) > 5e-5
    one, status, _ = run(tmp_path / "one", spec_of(model, 1, **parts))
    two, status_of_two, _ = run(tmp_path / "two", spec_of(model, 2, **parts))
    assert status == status_of_two == {"1": "finished", "3": "finished"}
    assert [{**row, "value": None} for row in one] == [{**row, "value": None} for row in two]
    losses = gradients = 0
    for a, b in zip(one, two, strict=True):
        if a["metric"] == "loss":
            assert float(b["value"]) == pytest.approx(float(a["value"]), rel=rounding(15 * BLOCK, 12))
            losses += 1
        if a["metric"].startswith("gradient_") and a["step"] == 0:
            assert float(b["value"]) == pytest.approx(float(a["value"]), rel=1e-3, abs=1e-6)  # means of unlike signs
            gradients += 1
    assert losses == 2 * 11
    assert gradients


@pytest.mark.large  # what goes on after a death below is the same noise, too
def test_noise_is_drawn_by_each_rank_and_repeats(tmp_path: Path) -> None:
    spec = spec_of("mlp", 2, activation=entry("activation", "noisy_relu"))
    assert run(tmp_path / "first", spec) == run(tmp_path / "second", spec)


def test_one_process_is_a_group_of_its_own_that_changes_nothing() -> None:
    alone = Ranks()
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)]
    alone.add(tensors)
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 2.0], 3.0]
    assert (alone.highest(2), alone.all_of("x"), list(alone.share("abc"))) == (2, ["x"], ["a", "b", "c"])
    assert train(spec_of("mlp", 1))["facts"] == train(make_spec())["facts"]
    assert not torch.distributed.is_initialized()


# ------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize("deaths", [[1], pytest.param([1, 0], marks=pytest.mark.large)], ids=str)
def test_stops_and_deaths_of_ranks_change_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], deaths: list[int]
) -> None:
    """With noise, so that each rank's stream must go on where it was; a stop, and a kill of each of these ranks."""
    noisy = entry("activation", "noisy_relu")
    spec = spec_of("mlp", 2, activation=noisy, optimizer=entry("optimizer", "adam"), steps=80, every=40)
    expected = run(tmp_path / "whole", spec)
    parts = tmp_path / "parts"
    thread = once_saved(parts, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        run(parts, spec, every_seconds=0)
    thread.join()
    assert end.value.code == stopping.COME_BACK
    assert "stopped on request: state saved in" in capfd.readouterr().out
    assert not ranks_below(os.getpid())

    for rank in deaths:
        thread = once_saved(parts, lambda rank=rank: _rank(rank).kill())  # type: ignore[misc]
        with pytest.raises(RankError) as died:
            run(parts, spec, every_seconds=0)
        thread.join()
        assert str(died.value) == (
            f"rank {rank} of 2 was killed (SIGKILL), so the others were ended; "
            "the next attempt resumes from the last checkpoint"
        )
        assert not ranks_below(os.getpid())
        assert list(parts.rglob("state.pt"))
    shutil.copytree(parts / "checkpoints", tmp_path / "damaged" / "checkpoints")
    capfd.readouterr()
    assert run(parts, spec) == expected
    assert "resuming at seed 0, step " in capfd.readouterr().out
    assert not (parts / "checkpoints").exists()

    # what one rank cannot use, none does: rank 0 alone would resume and wait for the other's earlier steps
    (path,) = (tmp_path / "damaged").rglob("state.pt")
    damaged(path, lambda state: truncated(state, "current", "random", 1, "cpu"))
    assert run(tmp_path / "damaged", spec) == expected
    assert f"small  {path}: not a state of this run (" in (told := capfd.readouterr().out)
    assert "resuming" not in told


def _rank(number: int) -> psutil.Process:
    while True:  # until it is there: a resumed run has its checkpoint before it has its ranks
        for process in ranks_below(os.getpid()):
            if process.environ()["SUBMITIT_LOCAL_GLOBALID"] == str(number):
                return process
        time.sleep(0.05)


def test_no_rank_outlives_its_job(tmp_path: Path) -> None:
    spec = spec_of("mlp", 2, steps=100_000, every=100_000)
    given = arguments(tmp_path, spec, every_seconds=0)
    code = f"from sparsity_cliff.training.run import train_run; train_run(**{given!r})"
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        once_saved(tmp_path, lambda: None).join()
        ranks = ranks_below(job.pid)
        assert len(ranks) == 2
    finally:
        job.kill()
        job.wait()
    left = psutil.wait_procs(ranks, timeout=5)[1]
    for process in left:
        process.kill()
    assert not left


def test_an_error_of_a_rank_is_that_of_the_job(tmp_path: Path) -> None:
    spec = spec_of("mlp", 2)
    given = arguments(tmp_path, spec)
    (tmp_path / "data.npz").write_bytes(b"torn")
    with pytest.raises(RankError, match=r"data\.npz: not a readable data file") as caught:
        train_run(**given)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ how ranks end


class Store:
    def __init__(self, error: str = ""):
        self.error = error

    def check(self, keys: list[str]) -> bool:
        return bool(self.error)

    def get(self, key: str) -> bytes:
        return self.error.encode()


@pytest.mark.parametrize(
    ("ended", "stop", "error", "result"),
    [
        ([0, 0], False, "", None),
        ([75, 75], True, "", "come back"),
        ([75, 75], False, "", "come back"),  # told to the ranks themselves
        ([-15, None], True, "", "come back"),  # before it could listen
        ([-15, None], False, "", r"^rank 0 of 2 was killed \(SIGTERM\), so the others were ended; the next attempt"),
        ([1, -9], False, "rank 0: RuntimeError: connection closed", r"^rank 1 of 2 was killed \(SIGKILL\)"),
        ([1, 75], True, "state.pt: state not saved", "^state.pt: state not saved$"),
        ([1, None], False, "", "^rank 0 of 2 ended with status 1, so the others were, too; the next attempt resumes"),
    ],
)
def test_what_the_ends_of_ranks_mean(ended: list[int | None], stop: bool, error: str, result: str | None) -> None:
    if result == "come back":
        with pytest.raises(stopping.Interrupted):
            launch._judge(ended, stop, Store(error))
    elif result:
        with pytest.raises(RankError, match=result):
            launch._judge(ended, stop, Store(error))
    else:
        launch._judge(ended, stop, Store(error))


# ------------------------------------------------------------------------------------------ what is refused


def test_each_rank_sees_one_of_the_devices_that_the_job_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-9")
    assert launch._devices(2, cuda) == [{"CUDA_VISIBLE_DEVICES": "7"}, {"CUDA_VISIBLE_DEVICES": "GPU-9"}]
    with pytest.raises(RankError, match=r"^processes=3: 2 GPUs are visible here \(7, GPU-9\)$"):
        launch._devices(3, cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [found["CUDA_VISIBLE_DEVICES"] for found in launch._devices(2, cuda)] == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RankError, match=r"^processes=2: 0 GPUs are visible here \(none\)$"):
        launch._devices(2, cuda)


def test_a_device_that_shares_nothing_is_refused() -> None:
    with pytest.raises(RankError, match=r"^processes=2: training in several processes needs device cpu or cuda"):
        launch._devices(2, torch.device("mps"))


def test_a_network_that_needs_the_whole_batch_is_refused_whoever_wrote_it() -> None:
    two, loss = Ranks(0, 2), build_loss(planned(make_spec()), 0)
    ranks.check(two, 2, make_model("mlp"), loss)
    with pytest.raises(ValueError, match=r"^a batch of 1 examples is too small for processes=2$"):
        ranks.check(two, 1, make_model("mlp"), loss)
    with pytest.raises(ValueError, match="the model has a batch norm, which would see only part of the batch"):
        ranks.check(two, 2, make_model("resnet"), loss)
    with pytest.raises(ValueError, match="the loss learns from the batch, but would see"):
        ranks.check(two, 2, make_model("mlp"), torch.nn.Linear(1, 1))
    ranks.check(Ranks(), 1, make_model("resnet"), torch.nn.Linear(1, 1))
