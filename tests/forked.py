"""Command lines and scripts in the tests without the seconds that a fresh process spends on imports.

A server process has imported Snakemake and what a dry run needs, but nothing of this project. For each command it forks
a child, which takes over the command's folder, environment and arguments, runs `python -m <module>` as Python itself
does, and ends as an interpreter ends. So every module of the project is read anew, from where the command finds it.
Not as in a fresh process: children of one server share the seed of `hash`, and what third-party packages read from
the environment while they are imported.

A second server has imported torch, pandas, and matplotlib as well, and forks the children that execute the scripts of a
workflow, and those that are the Snakemake inside a job of the executor plugin. They are started through a program that
stands in for Python and hands every other command to Python. A child is killed if what stands in for it ends. It is no
descendant of that, so tests that send signals to a job's command have fresh processes.

Started as a script, this file is the first server (a JSON line for each request on stdin, two for each answer on
stdout), or with the path of a socket, the second.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import shared
from filelock import FileLock

#: what a dry run imports besides snakemake.cli, a package or module a word
PRELOADED = """
    argparse_dataclass attr charset_normalizer docutils.nodes dpath encodings.unicode_escape fastjsonschema graphlib
    idna jinja2 jsonschema jsonschema.validators mimetypes nbformat numpy optparse packaging.version platformdirs psutil
    pyarrow.parquet pygments.lexers referencing requests rich.progress smart_open snakemake.assets snakemake.profiles
    snakemake.report snakemake.report.html_reporter snakemake.report.rulegraph_spec snakemake.script snakemake.storage
    snakemake_logger_plugin_rich submitit submitit.core.utils yaml yte
"""
#: what the workflow's scripts import
OF_SCRIPTS = """
    matplotlib.backends.backend_agg matplotlib.backends.backend_pdf matplotlib.figure mnist1d.data numpy pandas
    pyarrow.parquet pystoi scipy.optimize scipy.signal scipy.stats seaborn sklearn.datasets torch
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

    def workflow(self, folder: Path, *arguments: str, timeout: float = 1500) -> tuple[int, str]:
        """As `run`, with all scripts in forked processes, too."""
        return self.run(folder, *arguments, env={"PYTHON_OF_SCRIPTS": str(python_of_scripts())}, timeout=timeout)

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


@cache
def server() -> Forked:
    """The one of this process."""
    made = Forked()
    atexit.register(made.close)
    return made


@pytest.fixture(scope="session")
def forked() -> Forked:
    """Snakemake's and our own command line in forked processes."""
    return server()


STAND_IN = """#!{python} -IS
import json, os, socket, sys
words = sys.argv[1:]
if len(words) == 1 and "/.snakemake/scripts/" in words[0]:
    request = {{"script": words[0]}}
elif words[:2] == ["-m", "snakemake"] and "--target-jobs" in words:
    request = {{"module": words[1], "arguments": words[2:]}}
else:
    os.execv({python!r}, [{python!r}, *words])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    socket.send_fds(server, [b"\\n"], [0, 1, 2])
    server.sendall(json.dumps({{**request, "folder": os.getcwd(), "env": dict(os.environ)}}).encode() + b"\\n")
    sys.exit(int(server.recv(16)))
"""


def python_of_scripts() -> Path:
    """The program that stands in for Python. Its server is started once for all workers, and ends with their folder."""
    program, path = shared.folder() / "python", shared.folder() / "scripts.socket"
    with FileLock(f"{program}.lock"):
        if not path.exists():
            program.write_text(STAND_IN.format(python=sys.executable, path=str(path)))
            program.chmod(0o755)
            dropped = ("PYTHONPATH", "COVER_CODE")
            env = {key: value for key, value in os.environ.items() if key not in dropped}
            subprocess.run([sys.executable, __file__, str(path)], env=env, check=True)  # returns once it answers
    return program


# ------------------------------------------------------------------------------------------------- server


def preload(modules: str) -> None:
    """Import modules, but nothing of this project that they import."""
    import importlib

    for module in modules.split():
        importlib.import_module(module)
    for module in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[module]
    gc.freeze()  # or each child would look through, and so copy, all of it


def executors() -> Any:
    """Snakemake's registry of executors, emptied, because each command fills it anew."""
    from snakemake.cli import get_argument_parser
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    get_argument_parser()  # which looks for plugins
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


def serve_scripts(path: str) -> dict[str, Any]:
    """Answer the program that stands in for Python. Returns, in a child, with the request that it is to carry out."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        listener.settimeout(5)
        os.rename(f"{path}.new", path)
        if os.fork():  # who has started the server waits for this
            os._exit(0)
        os.setsid()
        for stream in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies
        while os.path.exists(path):
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                if not os.fork():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return answer(connection)
                connection.close()
    os._exit(0)


def answer(connection: socket.socket) -> dict[str, Any]:
    """Wait for a child and send its status. Returns, in this child, with the request."""
    connection.settimeout(None)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as text:
        request: dict[str, Any] = json.loads(text.readline())
    pid = os.fork()
    if pid:
        ended = os.pidfd_open(pid)
        if ended not in select.select([ended, connection], [], [])[0]:
            with suppress(ProcessLookupError):  # it has ended just now
                os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(status)
        with suppress(OSError):  # who asked may be gone
            connection.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    os.setsid()
    connection.close()
    return request | {"streams": streams}


def become(request: dict[str, Any]) -> None:
    """Make this process what a fresh one of that command is."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    for new, old in enumerate(request["streams"]):
        os.dup2(old, new)
        os.close(old)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(request["folder"])
    own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = os.path.dirname(request["script"]) if "script" in request else os.getcwd()
    sys.path[:1] = [first, *own]  # in place of this file's folder
    sys.path_importer_cache.clear()


def execute_module(request: dict[str, Any], registry: Any) -> None:
    """`python -m MODULE ARGUMENTS`."""
    if "output" in request:
        output = os.open(request["output"], os.O_RDWR | os.O_APPEND)
        request = request | {"streams": [os.open(os.devnull, os.O_RDONLY), output, os.dup(output)]}
    become(request)
    sys.orig_argv = [sys.executable, "-m", request["module"], *request["arguments"]]
    exec(os.environ.get("COVER_CODE", ""), {})  # cover.py, which a fresh process executes when it starts
    sys.argv = [request["module"], *request["arguments"]]
    sys.modules["snakemake.workflow"].Workflow._rundir = os.getcwd()
    sys.executable = os.environ.get("PYTHON_OF_SCRIPTS", sys.executable)
    if request["module"] == "snakemake":
        registry.collect_plugins()
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def execute_script(request: dict[str, Any]) -> None:
    """`python SCRIPT`."""
    become(request)
    sys.argv = [request["script"]]
    runpy.run_path(request["script"], run_name="__main__")


if __name__ == "__main__":
    registry_of_executors = executors()
    preload(PRELOADED)
    if len(sys.argv) > 1:
        preload(OF_SCRIPTS)
        asked = serve_scripts(sys.argv[1])
    else:
        print(json.dumps({"ready": True}), flush=True)
        asked = serve()
    if "script" in asked:
        execute_script(asked)
    else:
        execute_module(asked, registry_of_executors)
