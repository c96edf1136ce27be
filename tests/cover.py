"""Measures the coverage of both packages in every process of the tests, and costs next to nothing in the others.

conftest.py has every Python process below `make test` execute this text when it starts. The packages' modules are
instrumented as they are imported (SlipCover), because tracing every line of Snakemake, pandas, and torch would take
half as long again as the tests. The first process that imports a file leaves its instrumented code to the others,
because it takes seconds to instrument all modules. A process that is killed leaves no data.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
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
    import atexit
    import json
    import os
    from functools import partial
    from hashlib import sha256
    from pathlib import Path

    from slipcover import Slipcover
    from slipcover.importer import SlipcoverLoader

    root, folder = Path(os.environ["COVER_ROOT"]), Path(os.environ["COVER_DATA"])
    measured, leave, written = Slipcover(immediate=True, branch=True), os._exit, 0

    class Loader(SlipcoverLoader):
        def get_code(self, name: str) -> CodeType:  # of python -m, too
            return instrumented(measured, self.origin, folder / "code")

        def exec_module(self, module: ModuleType) -> None:
            exec(self.get_code(module.__name__), module.__dict__)

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
        del found["meta"]["timestamp"]  # without it, many processes have found the same and need one file
        text = json.dumps(found)
        replace(folder / f"{sha256(text.encode()).hexdigest()}.json", text.encode())

    def end(status: int) -> None:
        write()
        leave(status)

    atexit.register(write)
    os._exit = end  # forked processes leave so
    return partial(Loader, measured), write


def replace(path: Any, content: bytes) -> None:
    """Write a file as a whole, since several processes may do so at once."""
    import os

    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.rename(path)


def instrumented(measured: Any, path: Any, folder: Any) -> CodeType:
    """The code of a source file with SlipCover's probes, from `folder` if a file with these bytes has been there.

    Probes cannot be written to a file: in it, tuples stand for them. Later versions of Python need no probes.
    """
    import marshal
    from hashlib import sha256

    source = path.read_bytes()
    kept = folder / sha256(source).hexdigest()
    if not kept.exists():
        replace(kept, marshal.dumps(instrument(source)))
    code, lines, branches, offsets = marshal.loads(kept.read_bytes())
    code = restored(code, measured, str(path), offsets)
    if sys.version_info >= (3, 12):
        return measured.instrument(code)  # type: ignore[no-any-return]
    measured.code_lines[str(path)].update(lines)
    measured.code_branches[str(path)].update(branches)
    return code


def instrument(source: bytes) -> tuple[CodeType, set[int], set[tuple[int, int]], dict[int, int]]:
    """(code, its lines, its branches, offset of each probe), with (name, number, line or branch) for a probe."""
    import ast
    from itertools import count
    from types import SimpleNamespace

    from slipcover import Slipcover, slipcover
    from slipcover.branch import preinstrument

    code = compile(preinstrument(ast.parse(source)), "", "exec")
    if sys.version_info >= (3, 12):
        return code, set(), set(), {}
    numbers, offsets, measured = count(), {}, Slipcover(immediate=True, branch=True)
    own, slipcover.probe = (
        slipcover.probe,
        SimpleNamespace(
            signal=("SlipCover signal",),
            new=lambda _, __, line, ___: ("SlipCover probe", next(numbers), line),
            set_immediate=lambda probe, _, offset: offsets.update({probe[1]: offset}),
        ),
    )
    try:
        code = measured.instrument(code)
    finally:
        slipcover.probe = own
    return code, measured.code_lines[""], measured.code_branches[""], offsets


def restored(code: CodeType, measured: Any, name: str, offsets: dict[int, int]) -> CodeType:
    """Code of the file `name`, with probes where tuples stand for them."""
    from slipcover import slipcover

    constants, probes = [], []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constant = restored(constant, measured, name, offsets)
        elif constant == ("SlipCover signal",):
            constant = slipcover.probe.signal
        elif isinstance(constant, tuple) and constant[:1] == ("SlipCover probe",):
            number, line = constant[1:]
            constant = slipcover.probe.new(measured, name, line, measured.d_miss_threshold)
            probes.append((constant, offsets[number]))
        constants.append(constant)
    code = code.replace(co_consts=tuple(constants), co_filename=name)
    for probe, offset in probes:
        slipcover.probe.set_immediate(probe, code.co_code, offset)
    return code


# Snakemake starts another Snakemake for each job, which runs nothing of ours that the first one has not run, and a
# script, whose work other tests do in their own process
if "--target-jobs" not in sys.orig_argv and not any("/.snakemake/scripts/" in word for word in sys.orig_argv):
    sys.meta_path.insert(0, Finder())
