"""Measures the coverage of both packages in every process of the tests, and costs next to nothing in the others.

conftest.py has every Python process below `make test` execute this text when it starts. The packages' modules are
instrumented as they are imported (SlipCover), because tracing every line of Snakemake, pandas, and torch would take
half as long again as the tests. A process that is killed leaves no data.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any

PACKAGES = ("sparsity_cliff", "snakemake_executor_plugin_submitit", "gpu_claims")


class Finder:
    """Finds the packages' modules for the import system, and starts the measurement with the first one."""

    def __init__(self) -> None:
        self.loader: Any = None
        self.write: Callable[[], None] = lambda: None

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            if self.loader is None:
                self.loader, self.write = start()
            spec.loader = self.loader(spec.loader, spec.origin)
        return spec


def start() -> tuple[Any, Callable[[], None]]:
    """Begin to measure, and write what has run when this process exits.

    Returns what makes loaders that instrument, and the function that writes. Only its first call counts.
    """
    import ast
    import atexit
    import json
    import os
    import tempfile
    from functools import partial
    from pathlib import Path

    from slipcover import Slipcover
    from slipcover.branch import preinstrument
    from slipcover.importer import SlipcoverLoader

    root, folder = Path(os.environ["COVER_ROOT"]), os.environ["COVER_DATA"]
    measured, leave, written = Slipcover(immediate=True, branch=True), os._exit, 0

    class Loader(SlipcoverLoader):
        def get_code(self, name: str) -> CodeType:  # of python -m, which SlipCover's own loader does not instrument
            tree = preinstrument(ast.parse(self.origin.read_bytes()))
            return measured.instrument(compile(tree, str(self.origin), "exec"))

    def unedited(copy: Path, own: Path) -> bool:
        return copy.exists() and copy.read_bytes() == own.read_bytes()

    def write() -> None:
        nonlocal written
        if written == os.getpid():
            return
        written = os.getpid()
        os.chdir("/")  # the working directory may be gone
        found = measured.get_coverage()
        own = {name: root / "src" / name.rpartition("src/")[2] for name in found["files"]}
        same = [name for name in own if unedited(Path("/", name), own[name])]  # a test's copy of the project counts
        found["files"] = {str(own[name].relative_to(root)): found["files"][name] for name in same}
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".json", delete=False) as file:
            json.dump(found, file)

    def end(status: int) -> None:
        write()
        leave(status)

    atexit.register(write)
    os._exit = end  # forked processes leave so
    return partial(Loader, measured), write


# Snakemake starts another Snakemake for each job, which runs nothing of ours that the first one has not run, and a
# script, whose work other tests do in their own process
if "--target-jobs" not in sys.orig_argv and not any("/.snakemake/scripts/" in word for word in sys.orig_argv):
    sys.meta_path.insert(0, Finder())
