"""What every job of the workflow does around its work: output into the log, an error as one clear line."""

import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logged(path: str | Path) -> Iterator[None]:
    """Within: all that this process and its libraries print goes to the log at `path`.

    An exception leaves its traceback in the log, and ends the process with one line on the terminal that says what
    is wrong and names the log.

    The garbage collector is off, for good: collecting while importing is a quarter of the time that importing takes.
    A job that lasts turns it on again once it has imported all that it needs.
    """
    gc.disable()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        os.dup2(terminal, 2)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise SystemExit(f"error: {kind}{' '.join(str(error).split())} (log: {path})") from None
