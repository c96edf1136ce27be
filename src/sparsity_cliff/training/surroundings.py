"""What the training loop needs of its surroundings, as a protocol: job.py has the real ones."""

from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, Protocol

from sparsity_cliff.training.build import Parts
from sparsity_cliff.training.ranks import Ranks

Fact = tuple[int, int, str | None, str | None, int | None, str, float]  # seed, step, and a probe's row
State = dict[str, Any]  # plain containers and tensors


class Wish(IntEnum):
    """What the surroundings want of the loop before its next step."""

    GO_ON = 0
    SAVE = 1
    STOP = 2  # once it has saved


class Surroundings(Protocol):
    """A place for the state of a run, a log, a clock, and the other processes of the run."""

    ranks: Ranks
    first: bool  # whether this is rank 0, the only one that measures

    @property
    def wish(self) -> Wish:
        """What this process wants; the loop follows the highest wish of all ranks."""

    def clock(self, part: str) -> AbstractContextManager[None]:
        """Within: time counts as that of `part`."""

    def tell(self, position: int, step: int, loss: float) -> None:
        """How far the seed at `position` of the run's block is."""

    def restore(self, state: State, parts: Parts) -> None:
        """Put a saved state in place. UnfitError, on every rank, where it does not fit on any."""

    def save(self, parts: Parts, progress: State, stop: bool) -> None:
        """Save the parts with what else the loop needs to go on; with `stop`, end the process then."""

    def keep(self, parts: Parts, seed: int, status: str) -> None:
        """The last word on a seed: its final parts."""
