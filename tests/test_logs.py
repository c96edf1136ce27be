"""What every job does around its work, as a process of its own: output into the log, an error as one clear line."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsity_cliff.training.stopping import COME_BACK


def job(folder: Path, work: str) -> tuple[int, str, str]:
    """(exit status, terminal output, log) of a job that does `work`."""
    code = f"from sparsity_cliff.logs import logged\nwith logged('logs/deep/a.log'):\n    {work}\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, (folder / "logs" / "deep" / "a.log").read_text()


def test_all_output_goes_to_the_log(tmp_path: Path) -> None:
    status, terminal, log = job(
        tmp_path,
        "import os, subprocess, sys; print('printed'); print('to stderr', file=sys.stderr); "
        "os.write(1, b'from C\\n'); subprocess.run(['sh', '-c', 'echo child; echo complaint >&2'])",
    )
    assert (status, terminal) == (0, "")
    assert set(log.splitlines()) == {"printed", "to stderr", "from C", "child", "complaint"}


def test_an_error_of_ours_is_one_line_that_names_the_log(tmp_path: Path) -> None:
    status, terminal, log = job(tmp_path, "print('before'); raise ValueError('a.b: 3 is\\nnot valid')")
    assert (status, terminal) == (1, "error: a.b: 3 is not valid (log: logs/deep/a.log)\n")
    assert "Traceback" in log
    assert "before" in log
    assert "ValueError: a.b: 3 is\nnot valid" in log


@pytest.mark.parametrize(("error", "named"), [("KeyError('x')", "KeyError: 'x'"), ("OSError('full')", "OSError: full")])
def test_other_errors_name_their_type(tmp_path: Path, error: str, named: str) -> None:
    status, terminal, log = job(tmp_path, f"raise {error}")
    assert (status, terminal) == (1, f"error: {named} (log: logs/deep/a.log)\n")
    assert "Traceback" in log


def test_come_back_passes_with_its_status(tmp_path: Path) -> None:
    status, terminal, log = job(tmp_path, "from sparsity_cliff.training.stopping import Interrupted; raise Interrupted")
    assert (status, terminal, log) == (COME_BACK, "", "")


def test_a_log_of_before_is_replaced(tmp_path: Path) -> None:
    job(tmp_path, "print('a long line of the first time')")
    assert job(tmp_path, "print('second')")[2] == "second\n"
