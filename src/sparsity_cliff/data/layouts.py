"""Layouts of prepared data: what the arrays are called, what a training batch is, how an output is scored.

A batch is (inputs, targets), two tensors with one entry per example in the first axis.
"""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sparsity_cliff.data import DataError
from sparsity_cliff.seeds import derive, generator

Batch = tuple[Tensor, Tensor]
EVALUATION_BATCH = 1000  # labeled examples


class Dataset(ABC):
    """Training examples and held-out ones.

    shape: of one example, for the model's constructor. classes: distinct targets, 0 where they are none.
    examples: how many training examples an epoch has. delimiters: tokens that end a word or sentence, None where the
    data is not of tokens.
    """

    shape: tuple[int, ...]
    classes: int
    examples: int
    delimiters: tuple[int, ...] | None = None

    @classmethod
    @abstractmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """From the arrays of a data file. ValueError or KeyError where they do not fit."""

    @abstractmethod
    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        """Training examples by number. draw: one uniform number from [0, 1) for each, to crop with."""

    @abstractmethod
    def held_out(self, limit: int | None) -> list[Batch]:
        """The first `limit` held-out examples, or all, in batches that are small enough to evaluate at once."""

    @abstractmethod
    def randomized(self, seed: int) -> "Dataset":
        """Inputs and targets without any relation, in the same shapes: the control of claim C3."""

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor | float]:
        """What a held-out batch is judged by besides the loss: name -> mean over its examples, where it has one.

        last: whether training is over; what is dear to compute is left out before.
        """

    def to(self, device: torch.device) -> Self:
        """With its tensors on the device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]


def _batches(x: Tensor, y: Tensor, limit: int | None, size: int) -> list[Batch]:
    return list(zip(torch.split(x[:limit], size), torch.split(y[:limit], size), strict=True))


def _correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=-1) == targets).float().mean()


# ---------------------------------------------------------------------------------------- labeled examples


@dataclass(frozen=True)
class Labeled(Dataset):
    """Inputs float32 (n, *shape), standardized, and labels int64 (n,). The accuracy is over examples."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        x_train, y_train, x_test, y_test = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
        for x, y, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
            _require(x.dtype == np.float32 and y.dtype == np.int64, f"x_{part} is not float32 or y_{part} not int64")
            _require(x.ndim > 1 and y.ndim == 1, f"x_{part} has shape {x.shape} and y_{part} {y.shape}")
            _require(len(x) == len(y) > 0, f"x_{part} has {len(x)} examples and y_{part} {len(y)}")
        _require(x_train.shape[1:] == x_test.shape[1:], "x_train and x_test differ in shape")
        _require(min(y_train.min(), y_test.min()) >= 0, "negative labels")
        tensors = (torch.from_numpy(array) for array in (x_train, y_train, x_test, y_test))
        return cls(*tensors, int(max(y_train.max(), y_test.max())) + 1)  # type: ignore[arg-type, call-arg]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.x_train.shape[1:])

    @property
    def examples(self) -> int:  # type: ignore[override]
        return len(self.y_train)

    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        return self.x_train[index], self.y_train[index]

    def held_out(self, limit: int | None) -> list[Batch]:
        return _batches(self.x_test, self.y_test, limit, EVALUATION_BATCH)

    def randomized(self, seed: int) -> "Labeled":
        """Gaussian inputs N(0, 1) and uniform random labels."""
        stream = generator(seed, "data")

        def draw(x: Tensor, y: Tensor) -> Batch:
            inputs = torch.randn(x.shape, generator=stream)
            return inputs, torch.randint(self.classes, y.shape, generator=stream)

        return Labeled(*draw(self.x_train, self.y_train), *draw(self.x_test, self.y_test), self.classes)

    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor | float]:
        return {"accuracy": _correct(outputs, targets)}


# ------------------------------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class Tokens(Dataset):
    """Two streams of token numbers, cut into windows of `block`; the target of a token is the one that follows.

    The streams are sequences of memory-mapped or loaded uint16 arrays (the shards), and no window crosses from one into
    the next. The accuracy is that of the next token, over all tokens.
    """

    train: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    block: int
    classes: int
    delimiters: tuple[int, ...] = ()
    device: str = "cpu"
    random: int | None = None  # seed, where tokens are drawn and not read

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """tokens_train and tokens_test: uint16 streams, or lists of shard files (sparsity_cliff.data.shards)."""
        from sparsity_cliff.data import shards

        block, vocabulary = int(arrays["block"]), int(arrays["vocabulary"])

        def stream(part: str) -> tuple[np.ndarray, ...]:
            array = arrays[f"tokens_{part}"]
            if array.dtype.kind == "U":
                return tuple(shards.tokens(path) for path in array)
            _require(array.dtype == np.uint16 and array.ndim == 1, f"tokens_{part} is not a uint16 stream")
            _require(int(array.max(initial=0)) < vocabulary, f"tokens_{part} has tokens beyond the vocabulary")
            return (array,)

        train, test = stream("train"), stream("test")
        for part, pieces in (("train", train), ("test", test)):
            _require(any(len(p) > block for p in pieces), f"tokens_{part} is shorter than one window of {block} tokens")
        return cls(train, test, block, vocabulary, tuple(int(d) for d in arrays.get("delimiters", ())))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.block,)

    @property
    def examples(self) -> int:  # type: ignore[override]
        return sum(self._windows(self.train))

    def to(self, device: torch.device) -> Self:
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
        return self._read(self.train, index.tolist(), "train")

    def held_out(self, limit: int | None) -> list[Batch]:
        count = sum(self._windows(self.test))
        numbers = list(range(count if limit is None else min(limit, count)))
        size = max(1, 16_384 // self.block)
        return [self._read(self.test, numbers[i : i + size], "test") for i in range(0, len(numbers), size)]

    def randomized(self, seed: int) -> "Tokens":
        """Uniform random tokens."""
        return replace(self, random=derive(seed, "data"))

    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor | float]:
        return {"accuracy": _correct(outputs, targets)}


# ------------------------------------------------------------------------------------------------- speech


@dataclass(frozen=True)
class Speech(Dataset):
    """Pairs of a noisy and a clean recording at 16 kHz, int16, all utterances in a row; ends: where each one ends.

    A training example is a random cut of `segment` samples, zero-padded where the utterance is shorter; a held-out one
    is a whole utterance. Both signals are scaled by the root mean square of the whole noisy utterance, as
    MP-SENet (arXiv 2305.13686) has it. Scores: wide-band PESQ (ITU-T P.862.2) and STOI (Taal et al. 2011).
    """

    noisy_train: Tensor
    clean_train: Tensor
    ends_train: Tensor
    noisy_test: Tensor
    clean_test: Tensor
    ends_test: Tensor
    segment: int
    classes: int = 0

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        names = [f"{name}_{part}" for part in ("train", "test") for name in ("noisy", "clean", "ends")]
        for part in ("train", "test"):
            noisy, clean, ends = (arrays[f"{name}_{part}"] for name in ("noisy", "clean", "ends"))
            _require(noisy.dtype == clean.dtype == np.int16, f"noisy_{part} or clean_{part} is not int16")
            _require(noisy.shape == clean.shape and noisy.ndim == 1, f"noisy_{part} and clean_{part} differ in length")
            _require(ends.dtype == np.int64 and len(ends) > 0 and ends[-1] == len(noisy), f"ends_{part} do not fit")
            _require(bool((np.diff(ends, prepend=0) > 0).all()), f"ends_{part} do not rise")
        tensors = (torch.from_numpy(arrays[name]) for name in names)
        return cls(*tensors, int(arrays["segment"]))  # type: ignore[arg-type, call-arg]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.segment,)

    @property
    def examples(self) -> int:  # type: ignore[override]
        return len(self.ends_train)

    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        rows = []
        for number, share in zip(index.tolist(), draw.tolist(), strict=True):
            whole = slice(int(self.ends_train[number - 1]) if number else 0, int(self.ends_train[number]))
            pair = _scaled(torch.stack([self.noisy_train[whole], self.clean_train[whole]]).float())
            first = int(share * max(1, pair.shape[-1] - self.segment + 1))
            cut = pair[:, first : first + self.segment]
            rows.append(torch.nn.functional.pad(cut, (0, self.segment - cut.shape[-1])))
        noisy, clean = torch.stack(rows).unbind(dim=1)
        return noisy, clean

    def held_out(self, limit: int | None) -> list[Batch]:
        firsts = [0, *self.ends_test.tolist()]
        cuts = list(pairwise(firsts))[:limit]
        pairs = (torch.stack([self.noisy_test[a:b], self.clean_test[a:b]]).float() for a, b in cuts)
        return [(noisy[None], clean[None]) for noisy, clean in map(_scaled, pairs)]

    def randomized(self, seed: int) -> "Speech":
        """Two independent white noises at -20 dB of full scale."""
        stream = generator(seed, "data")

        def noise(like: Tensor) -> Tensor:
            return (3277 * torch.randn(like.shape, generator=stream)).round().clamp(-32768, 32767).to(torch.int16)

        names = ("noisy_train", "clean_train", "noisy_test", "clean_test")
        return replace(self, **{name: noise(getattr(self, name)) for name in names})  # type: ignore[arg-type]

    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor | float]:
        from sparsity_cliff.data import quality
        from sparsity_cliff.spectrogram import synthesize

        if not last:
            return {}
        return quality.scores(synthesize(outputs, targets.shape[-1]), targets)


def _scaled(pair: Tensor) -> Tensor:
    """pair: (2, samples), noisy and clean."""
    scaled: Tensor = pair / pair[0].square().mean().sqrt().clamp(min=1.0)  # of int16: never below one step
    return scaled


# ------------------------------------------------------------------------------------------------- reading

LAYOUTS: dict[str, type[Dataset]] = {"x_train": Labeled, "tokens_train": Tokens, "noisy_train": Speech}


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def from_arrays(arrays: Mapping[str, Any]) -> Dataset:
    """The data set of the arrays that a source made. ValueError or KeyError where they are of no layout."""
    for key, layout in LAYOUTS.items():
        if key in arrays:
            return layout.of(arrays)
    raise ValueError(f"none of the arrays {', '.join(LAYOUTS)}")


def load(path: str | Path) -> Dataset:
    """Read a file of the data stage. DataError where it is missing, torn or not such a file."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            contents = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable data file ({error}); delete it and run again") from error
    try:
        return from_arrays(contents)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{path}: not a data file that can be used ({error})") from error
