"""Requests to stop a run, and the exit status of a run that can be resumed."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Exit status of a job that saved its state on request and can be resumed (BSD's EX_TEMPFAIL).
COME_BACK = 75


class Interrupted(SystemExit):
    """Ends the process with COME_BACK after a signal requested a stop and the state was saved."""

    def __init__(self) -> None:
        super().__init__(COME_BACK)


class StopRequest:
    """True once SIGTERM, SIGINT, or SIGUSR2 has arrived."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Within the context, the signals only set the request. Works only in the main thread."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.requested = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
