"""Command lines in the tests without the 1.5 s that a fresh process spends on importing Snakemake.

A server process has imported Snakemake and what a dry run needs, but nothing of this project. For each command it forks
a child, which takes over the command's folder, environment and arguments, runs `python -m <module>` as Python itself
does, and ends as an interpreter ends. So every module of the project is read anew, from where the command finds it.
Not as in a fresh process: children of one server share the seed of `hash`, and what third-party packages read from
the environment while they are imported.

Started as a script, this file is the server: a JSON line for each request on stdin, two for each answer on stdout.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

#: what a dry run imports besides snakemake.cli, a package or module a word
PRELOADED = """
    argparse_dataclass attr charset_normalizer docutils.nodes dpath encodings.unicode_escape fastjsonschema graphlib
    idna jinja2 jsonschema jsonschema.validators mimetypes nbformat numpy optparse packaging.version platformdirs psutil
    pyarrow.parquet pygments.lexers referencing requests rich.progress smart_open snakemake.assets snakemake.profiles
    snakemake.report snakemake.report.html_reporter snakemake.report.rulegraph_spec snakemake.script snakemake.storage
    snakemake_logger_plugin_rich submitit submitit.core.utils yaml yte
"""
OWN = ("gpu_claims", "sparsity_cliff", "snakemake_executor_plugin_submitit")


class Forked:
    """Runs command lines in forked processes. `cpu`: seconds of processor time that the last one took."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self._read = b""  # of the server's answers, and not asked for yet
        self._start()

    def _start(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COVER_CODE")},
        )
        assert self._answer(120) == {"ready": True}

    def run(
        self, folder: Path, *arguments: str, env: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, str]:
        """`python -m snakemake ARGUMENTS` in a folder: (status, stdout and stderr as they came).

        env: added to the environment of the tests. A command that takes longer than `timeout` seconds is killed with
        its children, and its status is -9.
        """
        return self.module("snakemake", folder, *arguments, env=env, timeout=timeout)

    def cli(
        self, folder: Path, *arguments: str, env: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, str]:
        """`sparsity-cliff ARGUMENTS` in a folder, with the package that lies there in src."""
        env = {"PYTHONPATH": str(folder / "src"), **(env or {})}
        return self.module("sparsity_cliff", folder, *arguments, env=env, timeout=timeout)

    def module(
        self, module: str, folder: Path, *arguments: str, env: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, str]:
        """`python -m MODULE ARGUMENTS`, as `run` does it."""
        with tempfile.NamedTemporaryFile() as output:
            request: dict[str, Any] = {"module": module, "arguments": arguments, "folder": str(folder)}
            request |= {"env": {**os.environ, **(env or {})}, "output": output.name}
            print(json.dumps(request), file=self._server.stdin, flush=True)
            pid = self._answer(30)["pid"]
            try:
                done = self._answer(timeout)
            except TimeoutError:
                with suppress(ProcessLookupError):  # it has ended just now
                    os.killpg(pid, signal.SIGKILL)
                done = self._answer(30)
            self.cpu = done["cpu"]
            output.seek(0)
            return done["status"], output.read().decode(errors="replace")

    def _answer(self, timeout: float) -> Any:
        """The server's next line. It may have come with the one before, so what was read is kept."""
        assert self._server.stdout
        while b"\n" not in self._read:
            if not select.select([self._server.stdout], [], [], timeout)[0]:
                raise TimeoutError
            piece = os.read(self._server.stdout.fileno(), 65536)
            assert piece, "the server of forked processes has died"
            self._read += piece
        line, self._read = self._read.split(b"\n", 1)
        return json.loads(line)

    def close(self) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Snakemake's and our own command line in forked processes."""
    made = Forked()
    yield made
    made.close()


# ------------------------------------------------------------------------------------------------- server


def preload() -> Any:
    """Import what all commands need; Snakemake's registry of executors, which each of them fills anew."""
    import importlib

    for module in ("snakemake.cli", *PRELOADED.split()):
        importlib.import_module(module)
    from snakemake.cli import get_argument_parser
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    get_argument_parser()  # which looks for plugins
    for module in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[module]  # ours was among them
    registry = ExecutorPluginRegistry()
    registry.plugins.clear()
    return registry


def serve() -> dict[str, Any]:
    """Answer requests. Returns, in a child, with the request that it is to carry out."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if not pid:
            return request
        print(json.dumps({"pid": pid}), flush=True)
        _, status, used = os.wait4(pid, 0)
        status = os.waitstatus_to_exitcode(status)
        print(json.dumps({"status": status, "cpu": used.ru_utime + used.ru_stime}), flush=True)
    os._exit(0)


def become(request: dict[str, Any], registry: Any) -> None:
    """Make this process what a fresh one of that command is."""
    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    exec(os.environ.get("COVER_CODE", ""), {})  # cover.py, which a fresh process executes when it starts
    output = os.open(request["output"], os.O_RDWR | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((null, 0), (output, 1), (output, 2)):
        os.dup2(old, new)
    os.close(null)
    os.close(output)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(request["folder"])
    own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [os.getcwd(), *own]  # in place of this file's folder
    sys.argv = [request["module"], *request["arguments"]]
    sys.path_importer_cache.clear()
    sys.modules["snakemake.workflow"].Workflow._rundir = os.getcwd()
    if request["module"] == "snakemake":
        registry.collect_plugins()


if __name__ == "__main__":
    import runpy

    executors = preload()
    gc.freeze()  # or each child would look through, and so copy, all of it
    print(json.dumps({"ready": True}), flush=True)
    command = serve()
    become(command, executors)
    runpy.run_module(command["module"], run_name="__main__", alter_sys=True)
