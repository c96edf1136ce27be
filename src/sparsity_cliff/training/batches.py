"""The training batch of each step."""

import torch

from sparsity_cliff.data.layouts.base import Batch, Dataset
from sparsity_cliff.data.seeds import generator


class Batches:
    """The training batch of each step, a pure function of (seed, step).

    Each epoch has a new order, and its incomplete last batch is dropped.
    """

    def __init__(self, data: Dataset, size: int, seed: int):
        self._data, self._size, self._seed = data, min(size, data.examples), seed
        self._per_epoch = data.examples // self._size
        self._epoch = -1

    def __call__(self, step: int) -> Batch:
        epoch, position = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            stream = generator(self._seed, f"order/{epoch}")
            self._order = torch.randperm(self._data.examples, generator=stream)
            self._draws = torch.rand(self._data.examples, generator=stream)
            self._epoch = epoch
        cut = slice(position * self._size, (position + 1) * self._size)
        return self._data.batch(self._order[cut], self._draws[cut])
