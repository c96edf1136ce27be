"""Fixtures for all tests, their order and their surroundings."""

import json
import os
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

import pytest
import shared
from slipcover import Slipcover

os.environ["OMP_NUM_THREADS"] = "1"  # workers are as many as cores: threads would only wait for each other
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no command of a test would hear a Ctrl-C

pytest_plugins = ["cluster", "forked", "sweeps"]


def pytest_configure(config: pytest.Config) -> None:
    if shared.open_folder():
        config.add_cleanup(shared.close_folder)
        if "COVER" in os.environ:
            cover(config)


def cover(config: pytest.Config) -> None:
    """Let every Python process from now on, workers first, execute cover.py when it starts."""
    starter = Path(sysconfig.get_path("purelib")) / "sparsity_cliff_tests.pth"
    starter.write_text('import os; exec(os.environ.get("COVER_CODE", ""), {})\n')
    config.add_cleanup(lambda: starter.unlink(missing_ok=True))
    os.environ["COVER_CODE"] = Path(__file__).with_name("cover.py").read_text()
    data = config.rootpath / ".slipcover"
    shutil.rmtree(data, ignore_errors=True)
    (data / "code").mkdir(parents=True)
    os.environ |= {"COVER_ROOT": str(config.rootpath), "COVER_DATA": str(data)}
    nothing = Slipcover(branch=True, source=["src"]).get_coverage()  # of every module, imported or not
    (data / "nothing.json").write_text(json.dumps(nothing))


def pytest_sessionfinish() -> None:
    """Write the coverage of a worker now: once it has said that it is done, it has little time to exit."""
    for finder in sys.meta_path:
        getattr(finder, "write", lambda: None)()


SLURM = {"slurm", "slurm_accounting", "slurm_factory"}
SWEEPS = {"finished", "fresh"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Half of the workers begin with the tests of SLURM, which mostly wait, and another one with the sweeps.

    At first, pytest-xdist gives each worker an equal part of the list. Later, idle workers take over others' tests.
    """

    def those_with(fixtures: set[str]) -> list[pytest.Item]:
        return [item for item in items if fixtures & set(getattr(item, "fixturenames", ()))]

    sweeps = those_with(SWEEPS)
    slurm = [item for item in those_with(SLURM) if item not in sweeps]
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    waiting = max(1, workers // 2)
    parts = [*(slurm[i::waiting] for i in range(waiting)), *([] for _ in range(workers - waiting - 1)), sweeps]
    others = [item for item in items if item not in {*sweeps, *slurm}]
    for part in parts[:-1]:
        missing = len(items) // workers - len(part)
        part += others[:missing]
        del others[:missing]
    items[:] = [item for part in [*parts, others] for item in part]
