"""Training: against an independent loop, reproducible to the bit, and the same after any interruption."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small import (
    BLOCK,
    constant,
    data_of,
    dataset,
    entry,
    make,
    make_model,
    make_spec,
    names,
    nearest_to_zero,
    needs_pesq,
    planned,
    rounding,
    run,
    train,
    valid_pairs,
    value,
)
from torch import Tensor

from sparsity_cliff.data.layouts.labeled import Labeled
from sparsity_cliff.data.loading import load
from sparsity_cliff.data.seeds import random_state
from sparsity_cliff.probes.rows import schedule
from sparsity_cliff.study.spec import Spec
from sparsity_cliff.traces import reader
from sparsity_cliff.training import checkpoint, environment, states, stopping
from sparsity_cliff.training.batches import Batches
from sparsity_cliff.training.build import Parts, build, build_loss, build_parts
from sparsity_cliff.training.environment import pick_device
from sparsity_cliff.training.job import Job, state_of
from sparsity_cliff.training.progress import Progress
from sparsity_cliff.training.run import train_run
from sparsity_cliff.training.surroundings import Wish

GROUPS = ["activations", "weights", "gradients", "histograms"]


def small_parts() -> tuple[Spec, Parts]:
    plan = planned(make_spec())
    return plan, build_parts(plan, data_of("mlp"), 0, torch.device("cpu"))


# ------------------------------------------------------------------------------------------ an independent loop


def plain_loop(spec: dict[str, Any], lr: Any, stop_at: int) -> tuple[torch.nn.Module, list[float]]:
    """The weights after `stop_at` steps of plain gradient descent, and the loss of each step; lr: step -> rate."""
    data, losses = data_of(spec["model"]["function"]), []
    model = make_model(spec["model"]["function"], seed=spec["seeds"][0], loss=spec["loss"])
    batches, loss_of = (
        Batches(data, spec["training"]["batch_size"], spec["seeds"][0]),
        build_loss(planned(spec), 0),
    )
    for step in range(stop_at):
        x, y = batches(step)
        loss = loss_of(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        losses.append(loss.item())
        with torch.no_grad():
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.sub_(lr(step) * gradient)
    return model, losses


@pytest.mark.parametrize(("model", "loss"), [(m, loss) for m in names("model") for loss in constant(m, "LOSSES")])
def test_the_loop_is_gradient_descent(model: str, loss: str) -> None:
    # Where phases wrap, a disturbance of the weights in the last bit becomes one of 1e-5 in a loss: ten times that.
    lr, tolerance = (3e-4, 2e-4) if model == "mpsenet" else (0.1, rounding(16 * 64, 12))
    spec = make_spec(
        model,
        loss=entry("loss", loss),
        optimizer=entry("optimizer", "sgd", lr=lr),
        schedule=entry("schedule", "cosine", warmup=3),
        steps=12,
    )

    def rate(step: int) -> float:
        warm = min(1, (step + 1) / 4)
        return lr * warm * 0.5 * (1 + math.cos(math.pi * max(0, step - 3) / 9))

    facts, losses = train(spec)["facts"], plain_loop(spec, rate, 12)[1]
    measured = [0, 1, 2, 4, 8, 12]
    for before, step in pairwise(measured):
        mean = sum(losses[before:step]) / (step - before)
        assert value(facts, "loss@train", None, step) == pytest.approx(mean, rel=tolerance)
    for step in measured:
        network, data = plain_loop(spec, rate, step)[0].eval(), data_of(model)
        with torch.no_grad():
            batches = data.held_out(None)
            total = sum(len(x) * build_loss(planned(spec), 0)(network(x), y).item() for x, y in batches)
            expected = total / sum(len(x) for x, _ in batches)
        assert value(facts, "loss@test", None, step) == pytest.approx(expected, rel=tolerance)


#: No optimizer knows the architecture, so each run of the suite has every one of both, and the other pairs are large.
PAIRS = [
    pytest.param(model, optimizer, marks=[] if model == "mlp" or optimizer == "adamw" else [pytest.mark.large])
    for model, optimizer in valid_pairs()
]


@pytest.mark.parametrize(("model", "optimizer"), PAIRS)
def test_training_learns(model: str, optimizer: str) -> None:
    options = {"lr": 0.01} if optimizer != "sgd" else {"lr": 0.05, "momentum": 0.9}
    spec = make_spec(model, steps=60, every=60, measure=[], optimizer=entry("optimizer", optimizer, **options))
    facts = train(spec)["facts"]
    assert value(facts, "loss@train", None, 1) > 1.05 * value(facts, "loss@train", None, 60)


def test_a_run_whose_last_update_diverges_is_diverged() -> None:
    spec = diverging("mse", 1)
    done = train(
        {**spec, "training": {**spec["training"], "steps": 1, "optimizer": entry("optimizer", "sgd", lr=1e30)}}
    )
    assert done["status"] == "diverged at step 1"


@pytest.mark.numerical
@pytest.mark.parametrize("model", ["mlp", "vit", "gpt"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(model: str) -> None:
    assert nearest_to_zero(model, Batches(data_of(model), 16, 1)(0)[0], 1) > 5e-5  # so that all see the same signs
    runs = [train(make_spec(model, microbatch=size, seeds=[1])) for size in (None, 5)]  # 16 = 4 + 4 + 4 + 4
    whole, parts = (run["facts"] for run in runs)
    for facts in zip(whole, parts, strict=True):
        assert facts[0][:6] == facts[1][:6]
    for metric in ("loss@train", "loss@test"):
        assert value(parts, metric, step=12) == pytest.approx(
            value(whole, metric, step=12), rel=rounding(16 * BLOCK, 12)
        )
    first = [[fact[6] for fact in facts if fact[1] == 0 and fact[5].startswith("gradient")] for facts in (whole, parts)]
    assert first[0]
    assert first[1] == pytest.approx(first[0], rel=1e-3, abs=1e-7)


# ------------------------------------------------------------------------------------------ batches


def test_every_epoch_shows_every_example_once_in_a_new_order() -> None:
    data = dataset(train=20)
    batches = Batches(data, 5, seed=0)
    epochs = [torch.cat([batches(step)[0] for step in range(4 * epoch, 4 * epoch + 4)]) for epoch in range(3)]
    for x in epochs:
        assert torch.equal(x[x[:, 0].argsort()], data.x_train[data.x_train[:, 0].argsort()])
    assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    data = dataset(train=20)
    forward, backward = Batches(data, 6, seed=0), Batches(data, 6, seed=0)
    expected = {step: forward(step) for step in range(9)}
    for step in reversed(range(9)):
        assert all(torch.equal(old, new) for old, new in zip(expected[step], backward(step), strict=True))
    assert not torch.equal(expected[0][0], Batches(data, 6, seed=1)(0)[0])


def test_inputs_and_labels_stay_together_and_the_rest_is_dropped() -> None:
    x = torch.arange(20.0).view(20, 1)
    data = Labeled(x, x[:, 0].long(), x, x[:, 0].long(), 20)
    batches = Batches(data, 6, seed=0)
    for step in range(9):
        inputs, labels = batches(step)
        assert inputs[:, 0].tolist() == labels.tolist()
        assert len(labels) == 6


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert len(Batches(dataset(train=20), 50, seed=0)(3)[1]) == 20


# ------------------------------------------------------------------------------------------ the same again


def contents(path: Path) -> list[Any]:
    """Rows and statuses of a trace; what tells of the time is left out."""
    table, about = reader.read(path)
    rows = [{**row, "value": repr(row["value"])} for row in table.to_pylist()]  # repr: every bit, and NaN equals itself
    return [rows, about["status"], about["spec"]]


@pytest.mark.parametrize("model", names("model"))
def test_the_same_run_gives_the_same_trace(tmp_path: Path, model: str) -> None:
    spec = make_spec(model, seeds=[0, 1])
    torch.manual_seed(1)
    first = contents(run(tmp_path / "first", spec))
    torch.manual_seed(2)
    assert contents(run(tmp_path / "second", spec)) == first


@pytest.mark.parametrize("axis", ["real", "random"])
def test_a_block_of_seeds_equals_its_seeds_alone(axis: str) -> None:
    spec = make_spec(seeds=[3, 5]) | {"data": {"name": "small", "function": "small", "axis": axis}}
    alone = [train({**spec, "seeds": [seed]}) for seed in (3, 5)]
    assert [train(spec, position=position) for position in (0, 1)] == alone
    assert alone[0]["facts"] != alone[1]["facts"]


SLOWEST = "mpsenet"


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        pytest.param(model, precision, marks=[pytest.mark.large] if model == SLOWEST else [])
        for model in names("model")
        for precision in ("float32", "bfloat16")
    ],
)
def test_what_is_measured_changes_no_other_number(model: str, precision: str) -> None:
    def facts(groups: list[str], every: int = 4) -> set[Any]:
        return set(train(make_spec(model, measure=groups, every=every, precision=precision))["facts"])

    everything = facts(GROUPS)
    for group in GROUPS:
        fewer = facts([other for other in GROUPS if other != group])
        assert fewer < everything
        assert {fact[5] for fact in everything - fewer}.isdisjoint(fact[5] for fact in fewer)
    seldom = {fact for fact in facts(GROUPS, every=12) if fact[2] != "train" or fact[5] != "loss"}
    assert seldom - everything == set()  # the mean loss since the last measurement has another span
    assert {fact for fact in everything if fact[1] in (0, 12) and fact[2] != "train"} <= seldom


def test_random_data_is_drawn_from_each_seed_and_knows_the_shape_of_the_data_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Labeled] = []
    original = Labeled.randomized

    def spy(self: Labeled, seed: int) -> Labeled:
        drawn.append(original(self, seed))
        return drawn[-1]

    monkeypatch.setattr(Labeled, "randomized", spy)
    spec = make_spec(seeds=[0, 1], data={"name": "small", "function": "small", "axis": "random"})
    results = [train(spec, position=position) for position in (0, 1)]
    assert not torch.equal(drawn[0].x_train, drawn[1].x_train)
    data = data_of("mlp")
    other = Labeled(data.x_train + 1, 2 - data.y_train, data.x_test - 1, 2 - data.y_test, data.classes)
    assert train(spec, other) == results[0]


# ------------------------------------------------------------------------------------------ interruptions


@contextlib.contextmanager
def at_batch(number: int, do: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within: call `do` when the run draws its batch of this number, counting over seeds."""
    original, drawn = Batches.__call__, []

    def watched(self: Batches, step: int) -> tuple[Tensor, Tensor]:
        drawn.append(step)
        if len(drawn) == number:
            do()
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", watched)
        yield
    assert len(drawn) >= number


def killed() -> None:
    raise KeyboardInterrupt("as if the machine had gone")


def interrupted(folder: Path, spec: dict[str, Any], number: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trace of a run that got SIGTERM at its batch of this number and was started again."""
    with at_batch(number, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit) as end:
        run(folder, spec)
    assert end.value.code == stopping.COME_BACK
    assert not (folder / "traces").exists()
    assert list((folder / "checkpoints" / "small").rglob("state.pt"))
    path = run(folder, spec)
    assert not (folder / "checkpoints").exists()
    return path


@pytest.mark.parametrize("number", range(1, 12))
def test_an_interrupted_run_ends_with_the_same_trace(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the step: measured ones (1, 2, 4, 8) and others."""
    spec = make_spec(optimizer=entry("optimizer", "adam"))
    expected = contents(run(tmp_path / "whole", spec))
    assert contents(interrupted(tmp_path / "parts", spec, number, monkeypatch)) == expected


@pytest.mark.parametrize(("model", "optimizer"), PAIRS)
def test_every_optimizer_and_architecture_resumes(
    tmp_path: Path, model: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    normalization = entry("normalization", "batch_norm")
    schedule = entry("schedule", "cosine")
    spec = make_spec(
        model, optimizer=entry("optimizer", optimizer, **options), normalization=normalization, schedule=schedule
    )
    expected = contents(run(tmp_path / "whole", spec))
    assert contents(interrupted(tmp_path / "parts", spec, 6, monkeypatch)) == expected


@pytest.mark.parametrize("number", [12, 13, 14, 19])  # last of the first seed, first of the second, later
def test_a_run_resumes_in_any_seed_of_its_block(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(seeds=[0, 1])
    expected = contents(run(tmp_path / "whole", spec))
    assert contents(interrupted(tmp_path / "parts", spec, number, monkeypatch)) == expected


def test_a_killed_run_resumes_from_its_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(seeds=[0, 1])
    expected = contents(run(tmp_path / "whole", spec))
    monkeypatch.setattr(Job, "wish", property(lambda self: Wish.SAVE))  # as if a minute went by at every step
    for number in (7, 3, 9):  # killed three times, each time somewhat further
        with at_batch(number, killed, monkeypatch), pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", spec)
    assert contents(run(tmp_path / "parts", spec)) == expected


def test_a_signal_may_arrive_at_any_point_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at it, too: the request is there at the second only, the losses must not be lost."""
    spec = make_spec()
    expected = contents(run(tmp_path / "whole", spec))
    for look in range(1, 40):
        looks: list[int] = []

        def wish(self: Job, look: int = look, looks: list[int] = looks) -> Wish:
            looks.append(1)
            self.stop.requested |= len(looks) == look
            return Wish.STOP if self.stop else Wish.GO_ON

        with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(Job, "wish", property(wish))
            run(tmp_path / "parts", spec)
        assert contents(run(tmp_path / "parts", spec)) == expected
        if len(looks) < look:
            return
    pytest.fail("the run looks oftener than expected")


@pytest.mark.parametrize("damage", ["torn", "foreign"])
def test_a_checkpoint_that_must_not_be_used_is_told_and_left(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec()
    expected = contents(run(tmp_path / "whole", spec))
    with at_batch(6, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
        run(tmp_path / "parts", spec)
    (path,) = (tmp_path / "parts" / "checkpoints").rglob("state.pt")
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        checkpoint.save(path, "another's", {"done": [], "current": {"step": 11}})
    assert contents(run(tmp_path / "parts", spec)) == expected
    assert re.search(
        f"{re.escape(str(path))}: {damage} checkpoint .*: not used, starting from scratch", capsys.readouterr().out
    )


def truncated(state: dict[str, Any], *path: Any) -> None:
    """Takes the last entry off the first axis of the tensor at `path`."""
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = state[path[-1]][:-1].clone()


OPTIMIZER = ("current", "optimizers", 0)
#: What was done to a state: a change of it, and a part of the reason that is told.
DAMAGES: dict[str, tuple[Any, str]] = {
    "a weight of another shape": (lambda s: truncated(s, "current", "model", "head.weight"), "head.weight"),
    "the last weight missing": (lambda s: s["current"]["model"].popitem(), "Missing key"),
    "a weight too many": (lambda s: s["current"]["model"].update(more=torch.zeros(1)), "Unexpected key"),
    "a weight of another precision": (
        lambda s: s["current"]["model"].update({"head.bias": s["current"]["model"]["head.bias"].double()}),
        "head.bias is torch.float64",
    ),
    "a weight that is a number": (lambda s: s["current"]["model"].update({"head.bias": 1.0}), "head.bias"),
    "an optimizer less": (lambda s: s["current"]["optimizers"].pop(), "ValueError"),
    "a parameter less": (lambda s: s["current"]["optimizers"][0]["param_groups"][0]["params"].pop(), "groups"),
    "an option less": (lambda s: s["current"]["optimizers"][0]["param_groups"][0].pop("betas"), "groups"),
    "a moment of another shape": (lambda s: truncated(s, *OPTIMIZER, "state", 0, "exp_avg"), "exp_avg of parameter 0"),
    "a moment missing": (lambda s: s["current"]["optimizers"][0]["state"][1].pop("exp_avg_sq"), "exp_avg_sq"),
    "no loss": (lambda s: s["current"].pop("loss"), "KeyError"),
    "no random state": (lambda s: s["current"].pop("random"), "KeyError"),
    "a short random state": (lambda s: truncated(s, "current", "random", 0, "cpu"), "RNG state"),
    "random states of two processes": (lambda s: s["current"]["random"].append({}), "2 processes instead of 1"),
    "a step beyond the run": (lambda s: s["current"].update(step=13), "step 13 of 12"),
    "a step of another kind": (lambda s: s["current"].update(step="5"), "step 5"),
    "losses of other steps": (lambda s: s["current"]["losses"].append(0.1), "losses"),
    "facts of other steps": (lambda s: s["current"].update(step=9, losses=[0.1]), "facts of the measurements"),
    "facts of another seed": (lambda s: s["done"][0]["facts"].append(s["current"]["facts"][0]), "fact of seed 0"),
    "a fact of another form": (lambda s: s["done"][0]["facts"].append((0, 1, None)), "fact of seed 0"),
    "all seeds done": (lambda s: s["done"].append(s["done"][0]), "2 finished seeds of 2"),
    "a status of another kind": (lambda s: s["done"][0].update(status="fine"), "status 'fine'"),
    "nothing under way": (lambda s: s.update(current=None), "TypeError"),
    "nothing at all": (lambda s: s.clear(), "KeyError"),
}


def noisy_spec(**parts: Any) -> dict[str, Any]:
    """A run that draws numbers and has running means, so that no part of its state can be wrong unseen."""
    normalization, activation = entry("normalization", "batch_norm"), entry("activation", "noisy_relu")
    return make_spec(
        seeds=[0, 1], optimizer=entry("optimizer", "adam"), normalization=normalization, activation=activation, **parts
    )


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder with a run that was stopped in its second seed, and what its trace would hold."""
    folder, spec = tmp_path_factory.mktemp("half_way"), noisy_spec()
    patch = pytest.MonkeyPatch()
    with at_batch(18, lambda: os.kill(os.getpid(), signal.SIGTERM), patch), pytest.raises(SystemExit):
        run(folder, spec)
    return folder, contents(run(folder / "whole", spec))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_of_the_right_name_and_another_form_is_told_and_the_run_starts_afresh(
    tmp_path: Path, damage: str, half_way: tuple[Path, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the trace of an uninterrupted run: nothing of what was restored before the damage was met may stay."""
    shutil.copytree(half_way[0] / "checkpoints", tmp_path / "checkpoints")
    (path,) = tmp_path.rglob("state.pt")
    change, reason = DAMAGES[damage]
    damaged(path, change)
    assert contents(run(tmp_path, noisy_spec())) == half_way[1]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if str(path) in line)
    assert line.startswith(f"small  {path}: not a state of this run (")
    assert reason in line
    assert line.endswith("): not used, starting from scratch")
    assert not (tmp_path / "checkpoints").exists()


def damaged(path: Path, change: Any) -> None:
    """The state is changed, and saved as its own run would save it."""
    saved = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    change(saved["state"])
    checkpoint.save(path, saved["identity"], saved["state"])


def test_an_undamaged_state_that_is_saved_again_is_used(
    tmp_path: Path, half_way: tuple[Path, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(half_way[0] / "checkpoints", tmp_path / "checkpoints")
    (path,) = tmp_path.rglob("state.pt")
    damaged(path, lambda state: None)
    assert contents(run(tmp_path, noisy_spec())) == half_way[1]
    assert "small  resuming at seed 1, step 6" in capsys.readouterr().out.splitlines()


def test_both_optimizers_of_muon_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec("gpt", optimizer=entry("optimizer", "muon", lr=0.01, adamw_lr=0.003))
    expected = contents(run(tmp_path / "whole", spec))
    for number, key in ((0, "momentum_buffer"), (1, "exp_avg")):
        parts = tmp_path / key
        with at_batch(6, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
            run(parts, spec)
        (path,) = parts.rglob("state.pt")
        damaged(path, lambda s, number=number, key=key: truncated(s, "current", "optimizers", number, "state", 0, key))
        assert contents(run(parts, spec)) == expected
        assert f"{key} of parameter 0 is torch.float32" in capsys.readouterr().out


@needs_pesq
def test_the_discriminators_optimizer_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = entry("loss", "mpsenet", metric=0.05, width=2)
    spec = make_spec("mpsenet", loss=loss, steps=3, every=3, batch_size=2, optimizer=entry("optimizer", "sgd", lr=1e-3))
    expected = contents(run(tmp_path / "whole", spec))
    with at_batch(3, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
        run(tmp_path / "parts", spec)
    (path,) = (tmp_path / "parts").rglob("state.pt")
    keys = ("current", "loss", "discriminator._extra_state", "state", 2, "exp_avg")
    damaged(path, lambda state: truncated(state, *keys))
    assert contents(run(tmp_path / "parts", spec)) == expected
    assert "exp_avg of parameter 2 is torch.float32" in capsys.readouterr().out


def test_a_parameter_without_a_gradient_has_no_state_and_needs_none(tmp_path: Path) -> None:
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    first, second = (torch.optim.Adam([used, unused]) for _ in range(2))
    used.grad = torch.ones(2)
    first.step()
    states.restore_optimizer(second, first.state_dict())
    assert list(second.state_dict()["state"]) == [0]


def test_a_full_device_is_no_fault_of_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    plan, parts = small_parts()
    state = {**state_of(parts), "step": 1, "random": [random_state(parts.device)]}
    monkeypatch.setattr("sparsity_cliff.training.job.restore_module", full)
    with pytest.raises(torch.OutOfMemoryError):
        Job(plan, Path("state.pt"), "").restore(state, parts)


@pytest.mark.parametrize("filled", [True, False])
def test_a_folder_in_place_of_the_checkpoint_is_set_aside_and_never_deleted(
    tmp_path: Path, filled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec()
    expected = contents(run(tmp_path / "whole", spec))
    with at_batch(6, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
        run(tmp_path / "parts", spec)
    (path,) = (tmp_path / "parts").rglob("state.pt")
    path.unlink()
    path.mkdir()
    if filled:
        (path / "thesis.tex").write_text("years of work")
    capsys.readouterr()
    with at_batch(6, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit) as end:
        run(tmp_path / "parts", spec)  # can save
    assert end.value.code == stopping.COME_BACK
    assert f"small  {path}: not a checkpoint (not a file): not used, starting from scratch" in capsys.readouterr().out
    assert path.is_file()
    assert contents(run(tmp_path / "parts", spec)) == expected  # and go on from there
    assert "resuming at seed 0, step 6" in capsys.readouterr().out
    assert os.listdir(path.parent) == ["state.pt.1"]
    assert os.listdir(path.with_name("state.pt.1")) == ["thesis.tex"] * filled


def test_a_folder_in_place_of_the_checkpoint_stays_where_nothing_is_saved(tmp_path: Path) -> None:
    spec = make_spec()
    expected = contents(run(tmp_path, spec))
    identity = hashlib.sha256(f'{json.dumps(spec, sort_keys=True)}\n{{"module":"digest"}}'.encode()).hexdigest()
    folder = tmp_path / "checkpoints" / "small" / identity[:16] / "state.pt"
    folder.mkdir(parents=True)
    assert contents(run(tmp_path, spec)) == expected
    assert folder.is_dir()


def test_another_spec_or_other_code_does_not_see_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_batch(6, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
        run(tmp_path / "parts", make_spec())
    other = make_spec(optimizer=entry("optimizer", "sgd", lr=0.2))
    assert contents(run(tmp_path / "parts", other)) == contents(run(tmp_path / "whole", other))
    run(tmp_path / "parts", make_spec(), code='{"module":"other"}')
    assert "resuming" not in capsys.readouterr().out


def resaved(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Saving fails from now on."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_save_that_fails_is_told_once_and_training_goes_on(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    plan, parts = small_parts()
    job = Job(plan, tmp_path / "state.pt", "mine", lines.append, save_every=0)
    with monkeypatch.context() as patch:
        resaved(patch, OSError(number, os.strerror(number)))
        job.save(parts, {"step": 1}, stop=False)
        job.save(parts, {"step": 2}, stop=False)
        expected = f"{tmp_path}/state.pt: state not saved ({os.strerror(number)})"
        assert lines == [f"{expected}; training continues, and the previous checkpoint remains"]
        with pytest.raises(checkpoint.CheckpointError) as caught:
            job.save(parts, {"step": 3}, stop=True)
        assert str(caught.value) == f"{expected} after a request to stop"
    job.save(parts, {"step": 4}, stop=False)
    saved = checkpoint.load(tmp_path / "state.pt", "mine")
    assert saved is not None
    assert saved["current"]["step"] == 4
    with monkeypatch.context() as patch:
        resaved(patch, OSError(number, os.strerror(number)))
        job.save(parts, {"step": 5}, stop=False)  # again, after one that succeeded: told again
    assert len([line for line in lines if "not saved" in line]) == 2


def kept_run(folder: Path, spec: dict[str, Any], keep: bool = True, **how: Any) -> Path:
    """As `run`, once that has made the data."""
    output = folder / "traces" / "small.parquet"
    canonical = json.dumps(spec, sort_keys=True)
    train_run("small", canonical, '{"module":"digest"}', folder / "data.npz", output, keep=keep, **how)
    return output


def test_what_is_kept_holds_the_final_weights_of_every_seed(tmp_path: Path) -> None:
    spec = make_spec(seeds=[3, 5], optimizer=entry("optimizer", "adam"))
    expected = contents(run(tmp_path, spec))
    table, _ = reader.read(kept_run(tmp_path, spec))
    files = sorted((tmp_path / "checkpoints").rglob("*"))
    assert [file.name for file in files if file.is_file()] == ["seed-3.pt", "seed-5.pt"]
    for path in (file for file in files if file.is_file()):
        state = checkpoint.load(path)  # as the docstring of train_run says
        assert state is not None
        data = load(tmp_path / "data.npz")
        model = build(Spec.of_text(state["spec"]), data, state["seed"])
        model.load_state_dict(state["model"])
        own = [row for row in table.to_pylist() if row["seed"] == state["seed"] and row["example"] is None]
        facts = [list(row.values())[6:13] for row in own]
        x, y = data.held_out(None)[0]
        with torch.no_grad():
            loss = build_loss(planned(spec), 0)(model.eval()(x), y).item()
        assert loss == pytest.approx(value(facts, "loss@test"), rel=1e-6)
        assert state["status"] == "finished"
    # a finished run that is made to train again starts afresh, and what is kept stays where nothing new is asked for
    assert contents(kept_run(tmp_path, spec)) == contents(kept_run(tmp_path, spec, keep=False)) == expected
    assert sorted(file.name for file in (tmp_path / "checkpoints").rglob("*.pt")) == ["seed-3.pt", "seed-5.pt"]


def test_a_state_that_cannot_be_kept_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    run(tmp_path, spec)
    resaved(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(
        checkpoint.CheckpointError, match=r"seed-0\.pt: final state not kept \(No space left on device\)"
    ):
        kept_run(tmp_path, spec)


def test_by_default_nothing_is_kept_and_a_minute_lies_between_saves(tmp_path: Path) -> None:
    run(tmp_path, make_spec())
    assert not (tmp_path / "checkpoints").exists()
    job = Job(planned(make_spec()), tmp_path / "state.pt", "mine")
    wishes = [job.wish]
    job._saved -= 60
    wishes.append(job.wish)
    job.stop.requested = True
    assert [*wishes, job.wish] == [Wish.GO_ON, Wish.SAVE, Wish.STOP]


class Noisy(torch.nn.Module):
    """ReLU with noise on what it passes, in training."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.relu(z + 0.1 * torch.randn_like(z)) if self.training else torch.relu(z)


def noisy() -> torch.nn.Module:
    return Noisy()


def test_noise_goes_on_where_it_was_and_measuring_draws_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(activation={"name": "noisy", "function": "test_train:noisy"})
    expected = contents(run(tmp_path / "whole", spec))
    assert contents(interrupted(tmp_path / "parts", spec, 6, monkeypatch)) == expected
    plans = [{**spec, "probes": {**spec["probes"], "every": every}} for every in (1, 12)]
    last = [value(train(plan)["facts"], "loss@test") for plan in plans]
    assert last[0] == last[1]
    assert last[0] != value(train(make_spec())["facts"], "loss@test")


# ------------------------------------------------------------------------------------------ divergence


def diverging(loss: str, every: int, steps: int = 300) -> dict[str, Any]:
    optimizer = entry("optimizer", "sgd", lr=2.0)
    return make_spec(
        loss=entry("loss", loss), optimizer=optimizer, every=every, steps=steps, activation=entry("activation", "relu2")
    )


@pytest.mark.parametrize("every", [1, 7, 300])
def test_a_diverged_run_says_at_which_step(tmp_path: Path, every: int) -> None:
    spec = diverging("mse", every)
    data, model, loss_of = data_of("mlp"), make_model("mlp", activation=spec["activation"]), make("loss", "mse")
    batches = Batches(data, 16, 0)
    for step in range(300):
        x, y = batches(step)
        model.zero_grad()
        loss = loss_of(model(x), y)
        if not loss.isfinite():
            break
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(2.0 * p.grad)  # type: ignore[operator]
    assert 0 < step < 299
    table, about = reader.read(run(tmp_path, spec))
    assert about["status"] == {"0": f"diverged at step {step}"}
    rows = table.to_pylist()
    losses = [row["value"] for row in rows if (row["split"], row["metric"]) == ("train", "loss")]
    assert all(math.isfinite(loss) for loss in losses)
    assert {row["step"] for row in rows} == {s for s in schedule(300, every) if s <= step}


def test_the_seeds_after_a_diverged_one_are_trained(tmp_path: Path) -> None:
    table, about = reader.read(run(tmp_path, {**diverging("mse", 100), "seeds": [0, 1]}))
    assert [status.split(" at ")[0] for status in about["status"].values()] == ["diverged", "diverged"]
    assert set(table["seed"].to_pylist()) == {0, 1}


# ------------------------------------------------------------------------------------------ surroundings


def test_a_trace_says_where_it_comes_from(tmp_path: Path) -> None:
    spec = make_spec(seeds=[4, 2])
    table, about = reader.read(run(tmp_path, spec), run="small")
    row = table.to_pylist()[0]
    labels = {"run": "small", "architecture": "mlp", "activation": "relu", "loss": "cross_entropy"}
    labels |= {"normalization": "default", "data": "real"}
    assert {key: row[key] for key in labels} == labels
    assert about["status"] == {"4": "finished", "2": "finished"}
    assert (about["device"], about["threads"], about["code"]) == ("cpu", 1, {"module": "digest"})
    assert about["processor"]
    assert about["instruction_set"].split()[0] == torch.backends.cpu.get_cpu_capability()
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    environment = {key: about[key] for key in ("device", "processor", "instruction_set", "threads", "versions")}
    assert about["environments"] == [environment]
    seconds = about["seconds"]
    assert seconds["training"] > 0
    assert seconds["training"] + seconds["probes"] + seconds["saving"] <= seconds["wall"]


def test_the_settings_that_restrict_instructions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    level = torch.backends.cpu.get_cpu_capability()
    assert environment.environment(torch.device("cpu"), 1)["instruction_set"] == f"{level} MKL_CBWR=COMPATIBLE"


def test_a_run_that_went_on_elsewhere_names_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped on processor A, on B, on B again, and finished on A: last comes the one that finished it."""
    spec = make_spec(seeds=[0, 1])
    for number, name in ((4, "A"), (5, "B"), (6, "B"), (0, "A")):
        monkeypatch.setattr(environment, "processor", lambda name=name: name)
        if number:
            with at_batch(number, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
                run(tmp_path, spec)
    _, about = reader.read(run(tmp_path, spec))
    assert about["processor"] == "A"
    assert [environment["processor"] for environment in about["environments"]] == ["B", "A"]


def test_a_run_that_starts_afresh_forgets_the_places_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "processor", lambda: "A")
    with at_batch(4, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch), pytest.raises(SystemExit):
        run(tmp_path, make_spec())
    (path,) = tmp_path.rglob("state.pt")
    damaged(path, lambda state: truncated(state, "current", "model", "head.weight"))
    monkeypatch.setattr(environment, "processor", lambda: "B")
    assert [place["processor"] for place in reader.read(run(tmp_path, make_spec()))[1]["environments"]] == ["B"]


def test_progress_tells_percent_loss_speed_and_remaining_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, make_spec(seeds=[0, 1]))
    lines = capsys.readouterr().out.splitlines()
    pattern = r"small  ( 50|100) %  seed [01]  step 12/12  loss \d\.\d+  \d+ steps/s  remaining \d+:\d\d"
    assert len([line for line in lines if re.fullmatch(pattern, line)]) == 2
    assert [line for line in lines if "finished" in line] == ["small  seed 0: finished", "small  seed 1: finished"]


def test_progress_is_told_every_two_seconds_and_counts_from_where_it_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [100.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tell = Progress(lines.append, [7, 8], steps=100)
    tell(1, 40, 0.5)  # resumed in the second seed
    for step in (50, 60, 70):
        now[0] += 1
        tell(1, step, 0.5)
    assert lines == [" 80 %  seed 8  step 60/100  loss 0.5  10 steps/s  remaining 0:04"]


@pytest.mark.parametrize("model", names("model"))
def test_bfloat16_trains_and_differs(model: str) -> None:
    wide, narrow = (train(make_spec(model, precision=precision)) for precision in ("float32", "bfloat16"))
    assert narrow["status"] == "finished"
    for metric in ("loss@test", "loss@train"):
        a, b = (value(result["facts"], metric) for result in (wide, narrow))
        assert a != b
        assert b == pytest.approx(a, rel=0.1)


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, False, "cuda"), (False, True, "mps"), (True, True, "cuda"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device(cuda: bool, mps: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(device)
    assert pick_device("cpu") == torch.device("cpu")
