"""Lines of progress in a run's log."""

import time
from collections.abc import Callable, Sequence


class Progress:
    """Logs a line every two seconds: percentage, loss, steps per second, and remaining time."""

    def __init__(self, log: Callable[[str], None], seeds: Sequence[int], steps: int):
        self._log, self._seeds, self._steps = log, seeds, steps
        self._told = self._started = time.monotonic()
        self._begun: int | None = None

    def __call__(self, position: int, step: int, loss: float) -> None:
        now, total, done = time.monotonic(), len(self._seeds) * self._steps, position * self._steps + step
        self._begun = done if self._begun is None else self._begun
        if now - self._told < 2 and step < self._steps:
            return
        self._told = now
        rate = (done - self._begun) / max(now - self._started, 1e-9)
        minutes, seconds = divmod(round((total - done) / rate) if rate else 0, 60)
        self._log(
            f"{100 * done / total:3.0f} %  seed {self._seeds[position]}  step {step}/{self._steps}  loss {loss:.4g}  "
            f"{rate:.0f} steps/s  remaining {minutes}:{seconds:02d}"
        )
