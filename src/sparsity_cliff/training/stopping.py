"""Word from outside that a run should stop, and the exit status of one that wants to come back."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit status of a job that was told to stop, has saved its state and wants to be started again (BSD's EX_TEMPFAIL).
COME_BACK = 75


class Interrupted(SystemExit):
    """Ends the process with COME_BACK after the state was saved, because a signal asked the run to stop."""

    def __init__(self) -> None:
        super().__init__(COME_BACK)


class StopRequest:
    """True once SIGTERM, SIGINT or SIGUSR2 has arrived."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Within: the signals set the request and do nothing else. Main thread only."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.requested = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
