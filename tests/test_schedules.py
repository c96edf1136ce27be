"""Learning-rate schedules against their closed forms."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsity_cliff.study.options import options_of
from sparsity_cliff.training.schedules import SCHEDULES, constant, cosine, linear

STEPS = st.integers(1, 5000)
OPTIONS = {
    "warmup": st.integers(0, 6000),
    "warmdown": st.floats(0, 1, exclude_max=True),
    "final": st.floats(0, 1, exclude_max=True),
}


def drawn(data: st.DataObject, name: str) -> dict[str, Any]:
    return {option: data.draw(OPTIONS[option], option) for option in options_of("schedule", name)}


@pytest.mark.parametrize("name", SCHEDULES)
@given(data=st.data(), steps=STEPS)
def test_every_factor_of_a_training_step_is_above_0_and_at_most_1(name: str, data: st.DataObject, steps: int) -> None:
    step = data.draw(st.integers(0, steps - 1), "step")
    assert 0 < SCHEDULES[name](**drawn(data, name))(step, steps) <= 1


@pytest.mark.parametrize("name", SCHEDULES)
@given(data=st.data(), steps=STEPS)
def test_the_end_is_reached_after_the_last_step(name: str, data: st.DataObject, steps: int) -> None:
    chosen = drawn(data, name)
    assume(chosen["warmup"] < steps)
    assert SCHEDULES[name](**chosen)(steps, steps) == pytest.approx(chosen.get("final", 1.0), abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_linearly_and_reaches_1_at_its_step(name: str) -> None:
    factor = SCHEDULES[name](warmup=4)
    assert [factor(step, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warm_up_the_first_step_has_the_peak_rate(name: str) -> None:
    assert SCHEDULES[name]()(0, 100) == 1


def test_constant_is_1() -> None:
    assert {constant()(step, 10) for step in range(11)} == {1.0}


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=final)
    ours = cosine(final=final)
    for step in range(50):
        assert ours(step, 50) == pytest.approx(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()


def test_cosine_falls_over_the_steps_after_warm_up() -> None:
    factor = cosine(warmup=20)
    assert factor(60, 100) == pytest.approx(0.5)
    assert factor(40, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_linear_is_constant_then_falls_by_equal_steps() -> None:
    factor = linear(warmdown=0.5, final=0.2)
    assert [factor(step, 8) for step in range(9)] == pytest.approx([1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_linear_without_warm_down_is_constant() -> None:
    assert {linear(warmdown=0.0)(step, 8) for step in range(8)} == {1.0}
