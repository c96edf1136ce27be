"""What benchmarks write into README and docs, between two markers of a page."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from sparsity_cliff.training.environment import processor

PROJECT = Path(__file__).parents[1]


def publish(page: Path, begin: str, end: str, parts: list[str]) -> None:
    """Replace what stands between two markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text("\n\n".join([before + begin, *parts, end + rest.partition(end)[2]]), encoding="utf-8")


def machine() -> str:
    """Where and when something was measured: date, commit, processor, and Python."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, {processor()} ({psutil.cpu_count()} cores), "
        f"Python {platform.python_version()}"
    )
