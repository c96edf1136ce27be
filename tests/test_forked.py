"""Forked command lines say and return what fresh processes do."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import Forked
from sweeps import Sweep, copy_project

EDITED = "src/sparsity_cliff/study/sections.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A copy of the project whose package is not the one that the tests import: its MLP has another default."""
    made = copy_project(tmp_path_factory.mktemp("project") / "copy")
    made.edit("src/sparsity_cliff/networks/models/mlp.py", ("bias: bool = True", "bias: bool = False"))
    made.edit(EDITED, ("missing; {function} needs it", "MISSING; {function} needs it"))
    (made.folder / "bad.yaml").write_text(made.study.replace("function: topk, sparsity: 0.8", "function: topk"))
    return made


def fresh_process(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    command, env = [sys.executable, "-m", *arguments], {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def lines(output: str) -> list[str]:
    """What is said, without times and ids, and without the order in sets of names."""
    kept = [line for line in output.splitlines() if not line.startswith(("[", "  Date: ", "  Workflow ID: "))]
    return [" ".join(sorted(re.split("[ ,;]+", line))) for line in kept]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--configfile", "study.yaml", "--cores", "2", "--dry-run"),
        ("--configfile", "bad.yaml", "--cores", "2", "--dry-run"),
        ("--configfile", "study.yaml", "--cores", "none"),
        ("--configfile", "study.yaml", "--executor", "submitit", "--jobs", "1", "--dry-run", "--quiet"),
    ],
    ids=["version", "dry run", "refused study", "refused argument", "plugin"],
)
def test_a_forked_snakemake_says_what_a_fresh_one_says(
    project: Sweep, forked: Forked, arguments: tuple[str, ...]
) -> None:
    status, output = forked.run(project.folder, *arguments)
    fresh = fresh_process(project.folder, "snakemake", *arguments)
    assert status == fresh[0]
    assert sorted(lines(output)) == sorted(lines(fresh[1]))  # jobs that are ready come in any order


def test_the_package_is_that_of_the_command_and_of_this_moment(project: Sweep, forked: Forked) -> None:
    for status, output in (
        forked.run(project.folder, "--configfile", "bad.yaml", "--dry-run"),
        forked.cli(project.folder, "runs", "bad.yaml"),
    ):
        assert (status, "sparsity: MISSING; topk needs it" in output) == (1, True), output
    project.edit(EDITED, ("MISSING; {function} needs it", "absent; {function} needs it"))
    assert "sparsity: absent; topk needs it" in forked.cli(project.folder, "runs", "bad.yaml")[1]
    project.edit(EDITED, ("absent; {function} needs it", "MISSING; {function} needs it"))


def test_a_forked_command_has_its_own_environment_status_and_end(tmp_path: Path, forked: Forked) -> None:
    code = (
        "import atexit, os, sys\natexit.register(print, 'at exit')\n"
        "print(os.environ['A'], os.getcwd(), sys.argv[1:], flush=True)\n"
    )
    (tmp_path / "text.py").write_text(f"{code}sys.exit('a text')\n")
    (tmp_path / "number.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "error.py").write_text("1 / 0\n")
    status, output = forked.module("text", tmp_path, "x", env={"A": "B"})
    assert (status, output) == (1, f"B {tmp_path} ['x']\na text\nat exit\n")
    assert (status, output) == fresh_process(tmp_path, "text", "x", env={"A": "B"})
    assert forked.module("number", tmp_path) == (7, "")
    status, output = forked.module("error", tmp_path)
    assert (status, output.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path, forked: Forked) -> None:
    (tmp_path / "slow.py").write_text(
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nprint(child.pid, flush=True)\nchild.wait()\n"
    )
    status, output = forked.module("slow", tmp_path, timeout=0.5)
    assert status == -9
    end = time.monotonic() + 5
    while Path(f"/proc/{output.strip()}").exists() and time.monotonic() < end:
        if "Z" in Path(f"/proc/{output.strip()}/stat").read_text().split(")")[1]:
            break  # dead, and waiting for a parent
        time.sleep(0.01)
    else:
        assert not Path(f"/proc/{output.strip()}").exists()
    assert forked.run(tmp_path, "--version")[0] == 0


def test_answers_that_come_at_once_are_all_heard(forked: Forked, tmp_path: Path) -> None:
    # the second line of a command that ends at once was read with the first, and then waited for
    request = {"module": "json.tool", "arguments": ["--help"], "folder": str(tmp_path), "env": dict(os.environ)}
    (tmp_path / "output").touch()
    for _ in range(3):
        print(json.dumps({**request, "output": str(tmp_path / "output")}), file=forked._server.stdin, flush=True)
    time.sleep(2)
    answers = [forked._answer(20) for _ in range(6)]
    assert ["pid" in answer for answer in answers] == [True, False] * 3
    assert [answer["status"] for answer in answers[1::2]] == [0, 0, 0]
