"""Streams of tokens: language modeling."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sparsity_cliff.data import shards
from sparsity_cliff.data.layouts.base import Batch, Dataset, accuracy, require
from sparsity_cliff.data.seeds import derive, generator


@dataclass(frozen=True)
class Tokens(Dataset):
    """Two streams of token numbers, cut into windows of `block` tokens. The target of a token is the next token.

    A stream is a sequence of uint16 arrays (the shards), in memory or memory-mapped. No window crosses two shards. A
    batch has inputs and targets int64 (N, block). The accuracy is that of the next token, over all tokens.
    """

    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    block: int
    classes: int
    delimiters: tuple[int, ...] = ()
    device: str = "cpu"
    random: int | None = None  # seed of random tokens; None: tokens are read

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """From tokens_train and tokens_test (uint16 (n,), or names of shard files), block, and vocabulary.

        Raises ValueError or KeyError if they do not fit, and DataError for a damaged shard.
        """
        block, vocabulary = int(arrays["block"]), int(arrays["vocabulary"])

        def stream(part: str) -> tuple[np.ndarray, ...]:
            array = arrays[f"tokens_{part}"]
            if array.dtype.kind == "U":
                return tuple(shards.tokens(path) for path in array)
            require(array.dtype == np.uint16 and array.ndim == 1, f"tokens_{part} is not a uint16 stream")
            require(int(array.max(initial=0)) < vocabulary, f"tokens_{part} has tokens beyond the vocabulary")
            return (array,)

        train, test = stream("train"), stream("test")
        for part, pieces in (("train", train), ("test", test)):
            require(any(len(p) > block for p in pieces), f"tokens_{part} is shorter than one window of {block} tokens")
        return cls(train, test, block, vocabulary, tuple(int(d) for d in arrays.get("delimiters", ())))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(block,), the shape of a window."""
        return (self.block,)

    @property
    def examples(self) -> int:  # type: ignore[override]
        """Number of training windows."""
        return sum(self._windows(self.train))

    def to(self, device: torch.device) -> Self:
        """The data set with batches on a device. The streams stay where they are."""
        return replace(self, device=str(device))

    def _windows(self, pieces: tuple[np.ndarray, ...]) -> list[int]:
        return [max(0, len(piece) - 1) // self.block for piece in pieces]

    def _read(self, pieces: tuple[np.ndarray, ...], numbers: list[int], part: str) -> Batch:
        starts = np.cumsum([0, *self._windows(pieces)])
        rows = []
        for number in numbers:
            if self.random is not None:
                stream = generator(self.random, f"data/{part}/{number}")
                rows.append(torch.randint(self.classes, (self.block + 1,), generator=stream))
            else:
                piece = int(np.searchsorted(starts, number, side="right")) - 1
                first = int(number - starts[piece]) * self.block
                rows.append(torch.from_numpy(pieces[piece][first : first + self.block + 1].astype(np.int64)))
        table = torch.stack(rows).to(self.device)
        return table[:, :-1].contiguous(), table[:, 1:].contiguous()

    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        """Inputs and targets (N, block). `draw` is not used."""
        return self._read(self.train, index.tolist(), "train")

    def held_out(self, limit: int | None) -> list[Batch]:
        """Batches of up to 16,384 tokens."""
        count = sum(self._windows(self.test))
        numbers = list(range(count if limit is None else min(limit, count)))
        size = max(1, 16_384 // self.block)
        return [self._read(self.test, numbers[i : i + size], "test") for i in range(0, len(numbers), size)]

    def randomized(self, seed: int) -> "Tokens":
        """Uniform random tokens."""
        return replace(self, random=derive(seed, "data"))

    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor]:
        """The accuracy of logits (N, block, K) against the next tokens (N, block), per window."""
        return {"accuracy": accuracy(outputs, targets)}

    def summary(self, means: Mapping[str, float], in_nats: bool) -> dict[str, float]:
        """The perplexity, e to the mean loss in nats per token."""
        return {"perplexity": float(np.exp(means["loss"]))} if in_nats else {}
