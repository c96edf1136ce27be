"""Fixtures for all tests, their order and their surroundings."""

import os
import signal
import sysconfig
from pathlib import Path

import pytest
import shared

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
    os.environ["COVER_CONFIG"] = str(config.rootpath / "pyproject.toml")
    os.environ.setdefault("COVERAGE_FILE", str(config.rootpath / ".coverage"))


LONG = ({"slurm", "slurm_accounting", "slurm_factory"}, {"finished", "fresh"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with SLURM, which mostly wait, first; then those with Snakemake: a long one at the end would run alone."""

    def place(item: pytest.Item) -> int:
        used = set(getattr(item, "fixturenames", ()))
        return next((i for i, fixtures in enumerate(LONG) if used & fixtures), len(LONG))

    items.sort(key=place)
