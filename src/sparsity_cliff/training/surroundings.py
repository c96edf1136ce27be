"""The protocol through which the training loop uses its surroundings. job.py implements it."""

from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, Protocol

from sparsity_cliff.probes.rows import ExampleRow, Row
from sparsity_cliff.training.build import Parts
from sparsity_cliff.training.ranks import Ranks

Fact = tuple[int, int, *Row] | tuple[int, int, *ExampleRow]  # seed, step, and the row of a probe
State = dict[str, Any]  # plain containers and tensors


class Wish(IntEnum):
    """What the loop has to do before its next step."""

    GO_ON = 0
    SAVE = 1
    STOP = 2  # save, then stop


class Surroundings(Protocol):
    """Checkpoints, log, clock, and the other processes of a run."""

    ranks: Ranks
    first: bool  # whether this is rank 0, the only one that measures

    @property
    def wish(self) -> Wish:
        """The wish of this process. The loop follows the highest wish of all ranks."""

    def clock(self, part: str) -> AbstractContextManager[None]:
        """Within the context, time counts for `part`."""

    def tell(self, position: int, step: int, loss: float) -> None:
        """Report the progress of the seed at `position` of the run's block."""

    def restore(self, state: State, parts: Parts) -> None:
        """Put a saved state in place. Raises UnfitError on every rank if it does not fit on any."""

    def save(self, parts: Parts, progress: State, stop: bool) -> None:
        """Save the parts and the progress of the loop. With `stop`, then end the process."""

    def keep(self, parts: Parts, seed: int, status: str) -> None:
        """Receive the final parts of a seed."""
