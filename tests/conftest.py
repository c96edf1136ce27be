"""Fixtures for all tests."""

pytest_plugins = ["cluster", "sweeps"]
