"""Streams of randomness: each consumer's own, the same everywhere, and nobody else's business."""

import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsity_cliff.data.seeds import derive, generator

streams = st.tuples(st.integers(0, 10**6), st.sampled_from(["weights", "data", "noise"]) | st.text("order/0123456789"))


@given(streams)
def test_a_stream_is_the_first_63_bits_of_a_sha256(stream: tuple[int, str]) -> None:
    seed, name = stream
    digest = hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
    assert derive(seed, name) == int(digest, 16) >> (256 - 63)  # the same on every machine, in every process
    assert 0 <= derive(seed, name) < 2**63


@given(streams, streams)
def test_streams_are_distinct(one: tuple[int, str], other: tuple[int, str]) -> None:
    assert (derive(*one) == derive(*other)) == (one == other)


def test_no_two_of_many_streams_begin_alike() -> None:
    names = ["weights", "data", "noise", *(f"order/{epoch}" for epoch in range(50))]
    firsts = {tuple(torch.rand(2, generator=generator(seed, name)).tolist()) for seed in range(10) for name in names}
    assert len(firsts) == 10 * len(names)


def test_streams_are_not_correlated() -> None:
    draws = [torch.randn(1000, generator=generator(s, n)) for s in range(5) for n in ("weights", "data", "noise")]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / 1000**0.5  # five standard errors


def test_a_stream_neither_reads_nor_moves_the_global_generators() -> None:
    torch.manual_seed(1)
    before = torch.rand(3, generator=generator(0, "weights"))
    torch.manual_seed(2)
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002 (the global generator is what is looked at)
    state = torch.get_rng_state()
    assert torch.equal(torch.rand(3, generator=generator(0, "weights")), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()  # noqa: NPY002
