"""What is costly to make is made once per test run, by whichever worker needs it first."""

import hashlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock

P = ParamSpec("P")
T = TypeVar("T")
VARIABLE = "SPARSITY_CLIFF_TESTS"  # workers and other children inherit the folder from the first process


def open_folder() -> bool:
    """Make the folder, unless this is a child of the process that has made it. Whether it was made."""
    if VARIABLE in os.environ:
        return False
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix="sparsity-cliff-tests-")
    return True


def folder() -> Path:
    """Where the workers of this test run keep what they share."""
    return Path(os.environ[VARIABLE])


def close_folder() -> None:
    shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)


def shared(function: Callable[P, T]) -> Callable[P, T]:
    """A cache of a function's results that all workers share. Arguments need a `repr` that tells them apart."""

    @cache
    @wraps(function)
    def get(*arguments: P.args, **options: P.kwargs) -> T:
        called = repr((function.__module__, function.__qualname__, arguments, sorted(options.items())))
        path = folder() / f"{function.__name__}-{hashlib.sha256(called.encode()).hexdigest()[:16]}"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                made = function(*arguments, **options)
                path.write_bytes(pickle.dumps(made))
        result: T = pickle.loads(path.read_bytes())
        return result

    return get
