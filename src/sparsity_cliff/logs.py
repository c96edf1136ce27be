"""The context of every job of the workflow: output goes to its log, and an error becomes one line."""

import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logged(path: str | Path) -> Iterator[None]:
    """Redirect everything that this process and its libraries print to the log at `path`.

    An exception writes its traceback to the log and ends the process with one line on the terminal, which states the
    error and names the log.

    The garbage collector stays off, because it takes a quarter of the time of imports. A long job turns it on again
    after its imports.
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
