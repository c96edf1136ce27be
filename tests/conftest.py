"""Fixtures for all tests, and their order."""

import pytest

pytest_plugins = ["cluster", "sweeps"]

LONG = ({"slurm", "slurm_accounting", "slurm_factory"}, {"finished", "fresh"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with SLURM, which mostly wait, first; then those with Snakemake: a long one at the end would run alone."""

    def place(item: pytest.Item) -> int:
        used = set(getattr(item, "fixturenames", ()))
        return next((i for i, fixtures in enumerate(LONG) if used & fixtures), len(LONG))

    items.sort(key=place)
