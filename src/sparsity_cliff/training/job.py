"""The surroundings of training: checkpoints, log, clock, and requests to stop."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sparsity_cliff.data.seeds import random_state, set_random_state
from sparsity_cliff.probes.rows import schedule
from sparsity_cliff.study.spec import Spec
from sparsity_cliff.training import checkpoint
from sparsity_cliff.training.build import Parts
from sparsity_cliff.training.checkpoint import CheckpointError, UnfitError
from sparsity_cliff.training.progress import Progress
from sparsity_cliff.training.ranks import ALONE, Ranks
from sparsity_cliff.training.states import restore_module, restore_optimizer
from sparsity_cliff.training.stopping import Interrupted, StopRequest
from sparsity_cliff.training.surroundings import State, Wish


class Job:
    """The surroundings of the loop (see Surroundings) for every seed of a run. Only rank 0 writes files and logs."""

    def __init__(
        self,
        spec: Spec,
        checkpoint_path: Path,
        identity: str,
        log: Callable[[str], None] = print,
        save_every: float = 60.0,  # seconds
        keep: bool = False,
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
        self.first = self.ranks.rank == 0
        self.log: Callable[[str], None] = log if self.first else lambda text: None
        self.stop = StopRequest()
        self.seconds: dict[str, float] = defaultdict(float)
        self.done: list[State] = []  # finished seeds
        self.environments: list[State] = []  # of all parts of the run; the last is this process's
        self._spec, self._path, self._identity = spec, checkpoint_path, identity
        self._save_every, self._keep = save_every, keep
        self._saved = time.monotonic()
        self._troubled = False  # whether the last save failed, which was logged
        self._progress: dict[int, Progress] = {}  # position -> progress of the current seed

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Within the context, add the elapsed time to the seconds of `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @property
    def wish(self) -> Wish:
        """STOP after a request to stop, SAVE if a checkpoint is due, else GO_ON."""
        if self.stop:
            return Wish.STOP
        return Wish.SAVE if time.monotonic() - self._saved >= self._save_every else Wish.GO_ON

    def tell(self, position: int, step: int, loss: float) -> None:
        """Log the progress of the seed at `position` of the run's block."""
        if position not in self._progress:  # one per seed, because time between seeds is not training
            self._progress = {position: Progress(self.log, self._spec.seeds, self._spec.training.steps)}
        self._progress[position](position, step, loss)

    def save(self, parts: Parts, progress: State, stop: bool) -> None:
        """Save a checkpoint. With `stop`, raise Interrupted afterwards.

        A failed save is only logged, and the previous checkpoint remains. With `stop`, it raises CheckpointError.
        """
        current = {**progress, "random": self.ranks.all_of(random_state(parts.device)), **state_of(parts)}
        with self.clock("saving"):
            self._saved = time.monotonic()
            try:
                if self.first:
                    state = {"done": self.done, "current": current, "environments": self.environments}
                    checkpoint.save(self._path, self._identity, state)
                self._troubled = False
            except OSError as error:
                problem = f"{self._path}: state not saved ({error.strerror or error})"
                if stop:
                    raise CheckpointError(f"{problem} after a request to stop") from error
                if not self._troubled:
                    self.log(f"{problem}; training continues, and the previous checkpoint remains")
                self._troubled = True
        if stop:
            self.log(f"stopped on request: state saved in {self._path}")
            raise Interrupted

    def keep(self, parts: Parts, seed: int, status: str) -> None:
        """Save the final state of a seed if the study requests it, under a name from which no run resumes.

        Raises CheckpointError if that fails.
        """
        path = self._path.with_name(f"seed-{seed}.pt")
        if self._keep and self.first:
            final = {"spec": self._spec.text, "seed": seed, "status": status, **state_of(parts)}
            try:
                with self.clock("saving"):
                    checkpoint.save(path, self._identity, final)
            except OSError as error:
                raise CheckpointError(f"{path}: final state not kept ({error.strerror or error})") from error

    def resume(self) -> State | None:
        """The saved state of the seed that was in progress; None if there is none. Sets `done` to the earlier seeds."""
        state, problem = None, ""
        try:
            state = checkpoint.load(self._path, self._identity)
            if state is not None:
                check_progress(state, self._spec, self.ranks.size)
        except Exception as error:  # of many types, depending on the state's contents
            problem = self._unfit(error)
        try:
            self._agree(problem)
        except UnfitError as error:
            self.start_afresh(error)
            return None
        if state is None:
            return None
        self.done = state["done"]
        earlier = [environment for environment in state["environments"] if environment not in self.environments]
        self.environments = earlier + self.environments
        return state["current"]  # type: ignore[no-any-return]

    def restore(self, state: State, parts: Parts) -> None:
        """Put a saved state in place. Raises UnfitError on every rank if that failed on any, possibly halfway."""
        problem = ""
        try:
            restore_module(parts.model, state["model"])
            for optimizer, kept in zip(parts.optimizers, state["optimizers"], strict=True):
                restore_optimizer(optimizer, kept)
            restore_module(parts.loss, state["loss"])
            set_random_state(parts.device, state["random"][self.ranks.rank])
        except torch.OutOfMemoryError:
            raise  # not the checkpoint's fault
        except Exception as error:
            problem = self._unfit(error)
        self._agree(problem)
        self.log(f"resuming at seed {self._spec.seeds[len(self.done)]}, step {state['step']}")

    def start_afresh(self, error: UnfitError) -> None:
        """Log that a checkpoint cannot be used, and forget what was read from it."""
        self.log(f"{error}: not used, starting from scratch")
        self.done, self.environments = [], self.environments[-1:]

    def _unfit(self, error: Exception) -> str:
        if isinstance(error, CheckpointError):
            return str(error)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{self._path}: not a state of this run ({reason if len(reason) < 200 else reason[:200] + '...'})"

    def _agree(self, problem: str) -> None:
        """Raise UnfitError on every rank if any rank has a problem, with the problem of the first such rank."""
        for found in self.ranks.all_of(problem):
            if found:
                raise UnfitError(found)


def state_of(parts: Parts) -> State:
    """The state that `Job.restore` puts in place."""
    states = [optimizer.state_dict() for optimizer in parts.optimizers]
    return {"model": parts.model.state_dict(), "optimizers": states, "loss": parts.loss.state_dict()}


def check_progress(state: State, spec: Spec, ranks: int) -> None:
    """Raise an error (of any type) if `state` is not an intermediate state of a run of `spec`."""
    seeds, steps, done, current = spec.seeds, spec.training.steps, state["done"], state["current"]
    step, losses, random = current["step"], current["losses"], current["random"]
    if len(done) >= len(seeds):
        raise ValueError(f"{len(done)} finished seeds of {len(seeds)}")
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError(f"step {step} of {steps}")
    measured = [measured for measured in schedule(steps, spec.probes.every) if measured < step]
    if len(losses) != step - (measured[-1] if measured else step) or not all(type(loss) is float for loss in losses):
        raise ValueError(f"not the losses since the last measurement before step {step}")
    if {fact[1] for fact in current["facts"]} != set(measured):
        raise ValueError(f"not the facts of the measurements before step {step}")
    if len(random) != ranks:
        raise ValueError(f"random states of {len(random)} processes instead of {ranks}")
    if not all(isinstance(environment, dict) for environment in state["environments"]):
        raise ValueError("environments are not mappings")
    kinds = (int, int, str | None, str | None, int | None, str, float | int)  # types of a fact's values
    for seed, part in zip(seeds, [*done, current], strict=False):  # the seeds that have started
        if part is not current and not re.fullmatch(r"finished|diverged at step \d+", part["status"]):
            raise ValueError(f"status {part['status']!r} of seed {seed}")
        for fact in part["facts"]:
            own = (*kinds, int) if len(fact) > len(kinds) else kinds  # of a single example, with its number
            if fact[0] != seed or not all(map(isinstance, fact, own)) or len(fact) != len(own):
                raise ValueError(f"not a fact of seed {seed}: {fact!r}")
