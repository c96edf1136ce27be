"""Fixtures for all tests."""

pytest_plugins = ["sweeps"]
