"""Small workflows for the tests of the executor plugin: a Snakefile in a folder, run by the real Snakemake."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cluster import Cluster
from forked import python_of_scripts, server

HEADER = "SECONDS = config.get('seconds', 1)\n"

#: A command that counts tenths of a second, saves its count on SIGTERM and goes on from there.
RESUMABLE = """
import os, pathlib, signal, sys, time
output, wanted = pathlib.Path(sys.argv[1]), int(float(sys.argv[2]) * 10)
state = output.with_suffix(".state")
done, stop = int(state.read_text()) if state.exists() else 0, []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
with open(output.with_suffix(".starts"), "a") as file:
    print(done, os.environ.get("SLURM_JOB_ID"), file=file)
while done < wanted:
    time.sleep(0.1)
    done += 1
    if stop:
        state.write_text(str(done))
        sys.exit(75)
output.write_text("x" * done)
"""


class Flow:
    """A workflow in `folder`. Where a cluster is given, jobs go there.

    fresh: whether the Snakemake of each job is a fresh process, below which signals and memory are looked at.
    """

    def __init__(self, folder: Path, snakefile: str, cluster: Cluster | None = None, fresh: bool = False):
        server()  # started before the test's first job, because it takes longer than some jobs
        self.python = None if fresh or "resumable.py" in snakefile else str(python_of_scripts())
        self.folder, self.cluster = folder, cluster
        self.outer: dict[str, str] = {}  # what else is in Snakemake's environment
        self.lost_after: float | None = None  # seconds, in place of the plugin's own
        self.say_every: float | None = None  # likewise
        (folder / "out").mkdir(parents=True)
        (folder / "Snakefile").write_text(HEADER + snakefile)
        (folder / "resumable.py").write_text(RESUMABLE)

    @property
    def environment(self) -> dict[str, str]:
        environment = dict(self.cluster.environment if self.cluster else os.environ)
        python = {"PYTHON_OF_SCRIPTS": self.python} if self.python else {}
        return environment | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")} | python | self.outer

    def changes(self) -> list[str]:
        """Statements that change the plugin's numbers."""
        numbers = {"watch.LOST_AFTER": self.lost_after, "progress.SAY_EVERY": self.say_every}
        numbers["watch.REASONS_AFTER"] = self.say_every
        return [f"{name} = {value}" for name, value in numbers.items() if value is not None]

    def command(self, *arguments: str, **settings: Any) -> list[str]:
        settings = {"backend": "slurm" if self.cluster else "local", "status_interval": 1, **settings}
        flags = []
        for name, value in settings.items():
            flags += [f"--submitit-{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        own = ["--executor", "submitit", "--seconds-between-status-checks", "1", "--nolock", "--rerun-incomplete"]
        jobs = [] if "--jobs" in arguments else ["--jobs", "20"]
        lines = [f"import sys; sys.executable = {self.python!r}"] if self.python else []
        if changes := self.changes():
            lines += ["from snakemake_executor_plugin_submitit import progress, watch", *changes]
        start = ["-c", "; ".join([*lines, "from snakemake.cli import main; main()"])]
        return [sys.executable, *start, *arguments, *own, *jobs, *flags]

    def run(self, *arguments: str, check: bool = True, timeout: float = 300, **settings: Any) -> str:
        """Run Snakemake; its output. With check, it must succeed, else it must fail."""
        command = self.command(*arguments, **settings)
        if not self.changes():
            status, output = server().run(self.folder, *command[3:], env=self.environment, timeout=timeout)
        else:
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout
            )
            status, output = done.returncode, done.stdout + done.stderr
        assert (status == 0) == check, output + self.logs()
        return output

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        """Start Snakemake; its output goes to snakemake.log."""
        with open(self.folder / "snakemake.log", "a") as log:
            return subprocess.Popen(
                self.command(*arguments, **settings),
                cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], check: bool = True, timeout: float = 300) -> str:
        """Wait for a started Snakemake; what it has said."""
        try:
            process.wait(timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        output = (self.folder / "snakemake.log").read_text()
        assert (process.returncode == 0) == check, output + self.logs()
        return output

    def log(self) -> str:
        """What started Snakemakes have said until now."""
        path = self.folder / "snakemake.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        """What jobs and their nodes have written, for a failed test."""
        files = [*self.folder.glob(".snakemake/submitit/*/*_log.out"), *self.folder.glob(".snakemake/submitit/*/*.log")]
        return "".join(f"\n---- {file.name}\n{file.read_text()[-2000:]}" for file in files)

    def wait_for(self, *names: str, seconds: float = 60) -> None:
        """Wait until these files are there."""
        end = time.monotonic() + seconds
        while missing := [name for name in names if not (self.folder / name).exists()]:
            assert time.monotonic() < end, f"missing: {missing}" + self.logs()
            time.sleep(0.05)

    def starts(self) -> Counter[str]:
        """How often each job's command began: lines of out/<job>.starts."""
        files = (self.folder / "out").glob("*.starts")
        return Counter({file.stem: len(file.read_text().splitlines()) for file in files})

    def outputs(self) -> dict[str, str]:
        return {file.stem: file.read_text() for file in (self.folder / "out").glob("*.txt")}

    def submissions(self) -> list[dict[str, Any]]:
        files = sorted(self.folder.glob(".snakemake/submitit/*/submission.json"))
        return [json.loads(file.read_text()) for file in files]
