"""A real SLURM of several nodes on this one machine: its daemons, faults on demand, and a log of every command.

    with Cluster(folder, nodes=2, gpus=2) as cluster:
        subprocess.run(["sbatch", "job.sh"], env=cluster.environment)
        cluster.wait(lambda: cluster.states() == ["COMPLETED"])
        assert len(cluster.calls("sbatch")) == 1

Traps, measured with SLURM 22.05 on two cores:
- A job starts up to 1 s after it is submitted (the scheduler's beat), a requeued one after 6 s (`cred_expire` below).
- Limits are looked at every 30 s: what `--signal` asks for comes up to 60 s early, and a job may outlive its limit.
- A preempted job that exits by itself within its grace is not requeued but FAILED or COMPLETED; one that runs
  `scontrol requeue`, or that stays until it is killed, is requeued.
- Without a controller a client takes 9 s to fail. One that is back knows its jobs, but starts none for 4 s.
- Ids start at 1 in each cluster: a submitit folder must not outlive one, else it holds another job's result by that id.
- `sacct` without -j leaves out jobs of the last seconds; with -j it lags by 0.2 s.
- Nothing pins CPUs or hides GPUs, and all nodes share this machine's hostname; $SLURMD_NODENAME differs.
"""

import os
import pwd
import random
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import pytest

T = TypeVar("T")

CLIENTS = ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel", "sinfo")
FAULTS = ("fail", "hang", "before", "after", "lose")
DAEMONS = ("slurmctld", "slurmd")
ACCOUNTING = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")

#: Where blocks of ports begin: a cluster's own daemons may be 46 nodes.
PORTS: Sequence[int] = range(20000, 32000, 50)

#: What stands in for GPUs. SLURM only asks that each is a character device of its own; without File= it hands out none.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")

#: Goes first on PATH under the name of each client: logs the call, fails or hangs if told to, and else is the real one.
#: A file for each call, since lines that several processes append to one log may tear. SLURM_CONF is set again for
#: callers that drop every SLURM_* variable.
WRAPPER = r"""#!/bin/bash
export SLURM_CONF={folder}/slurm.conf
printf '%s\0' "$0" "$@" > {folder}/calls/${{EPOCHREALTIME/,/.}}-$$-{name}
take() (  # one of "<count> <text>" in the file $1; prints the text
  [ -e "$1" ] || exit 1
  exec 9< {folder}/faults; flock 9
  IFS= read -r -d '' fault < "$1"
  [ "${{fault%% *}}" -gt 0 ] && printf '%s' "$((${{fault%% *}} - 1)) ${{fault#* }}" > "$1" && echo "${{fault#* }}"
)
text=$(take {folder}/fail/{name}) && {{ printf '%s\n' "$text" >&2; exit 1; }}
take {folder}/hang/{name} > /dev/null && exec sleep infinity
seconds=$(take {folder}/before/{name}) && sleep "$seconds"
seconds=$(take {folder}/after/{name}) && {{ {real} "$@"; status=$?; sleep "$seconds"; exit $status; }}
text=$(take {folder}/lose/{name}) && {{ {real} "$@" > /dev/null; printf '%s\n' "$text" >&2; exit 1; }}
exec {real} "$@"
"""

#: Ends the cluster of a test session that was killed and so could not: its standard input closes with the session.
WATCHDOG = """read -r _
for f in $(grep -lszxF "SLURM_CONF=$0" /proc/[0-9]*/environ); do p=${f#/proc/}; kill -9 "${p%/environ}"; done"""


class Job(NamedTuple):
    """A job as squeue shows it, a line for each task of an array (`id` "7_0"); `node` is empty before it starts."""

    id: str
    name: str
    state: str
    node: str


class Call(NamedTuple):
    """A SLURM command that somebody ran in the cluster's environment; `time` is as of time.time()."""

    time: float
    command: str
    arguments: list[str]


class Cluster:
    """SLURM in `folder`, which must be new and its path short (a socket's path has at most 108 characters).

    `gpus` a node are fake, at most 7. `accounting` adds MariaDB and slurmdbd; without it the real `sacct` fails, as it
    does on such sites. `memory_limits` makes memory a resource, and kills what takes more than it asked for.
    `preemption` adds the partitions `low` and `high`: a job in high requeues jobs in low, after the signal that their
    --signal names and 20 s of grace. `partitions` are further lines of slurm.conf after "PartitionName=", `settings`
    any of its other keys: `MaxArraySize=5`, `SlurmdTimeout=5`, `SelectTypeParameters="CR_Core_Memory"`.

    Raises ValueError for more GPUs than can be faked, RuntimeError with the last lines of the logs where SLURM does not
    start, FileNotFoundError where it is not installed.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 2,
        memory_mb: int = 32000,
        accounting: bool = False,
        memory_limits: bool = False,
        preemption: bool = False,
        partitions: Sequence[str] = (),
        **settings: str | int,
    ) -> None:
        if gpus > len(DEVICES):
            raise ValueError(f"gpus={gpus}: at most {len(DEVICES)} a node can be faked")
        self.folder, self.accounting = folder.resolve(), accounting
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.conf = self.folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._first_job = 1

        options: dict[str, str | int] = {}
        if memory_limits:
            options |= {"SelectTypeParameters": "CR_Core_Memory", "JobAcctGatherType": "jobacct_gather/linux"}
            options |= {"JobAcctGatherFrequency": 1, "JobAcctGatherParams": "OverMemoryKill"}
        if preemption:
            options |= {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}
            # without it, preemption sends CONT and TERM, and never what --signal names
            options |= {"SlurmctldParameters": "preempt_send_user_signal"}
            low = "low Nodes=ALL PriorityTier=1 GraceTime=20"
            partitions = [*partitions, low, "high Nodes=ALL PriorityTier=2 PreemptMode=OFF"]
        self._options = options | settings
        self._partitions = partitions
        self._shape = f"CPUs={cpus} RealMemory={memory_mb}" + (f" Gres=gpu:{gpus}" if gpus else "")
        self._gpus = gpus

    # ---- life

    def start(self) -> Self:
        for name in ("bin", "calls", *FAULTS, "log", "state", *(f"spool/{n}" for n in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "faults").touch()  # a lock: of two calls at once, one takes the last fault
        for name in CLIENTS:
            wrapper = self.folder / "bin" / name
            wrapper.write_text(
                WRAPPER.format(folder=shlex.quote(str(self.folder)), name=name, real=shlex.quote(find(name)))
            )
            wrapper.chmod(0o755)
        self._ports, self._reserved = free_ports(3 + len(self.nodes))
        self._write_conf()
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG, self.conf], stdin=subprocess.PIPE, start_new_session=True, env=clean_environment()
        )
        try:
            if self.accounting:
                self._start_database()
            self._start_controller("-c")
            for node in self.nodes:
                self._start_node(node)
            self.wait(lambda: self._ready(self.nodes))
        except BaseException as error:
            self.stop()
            if isinstance(error, TimeoutError):
                raise RuntimeError(f"SLURM did not start in {self.folder}\n{self._logs()}") from error
            raise
        return self

    def stop(self) -> None:
        """End the jobs, the daemons and whatever else has this cluster's SLURM_CONF; return when they are gone."""
        deadline = time.monotonic() + 20
        while pids := self._processes():
            for pid in pids:
                kill(pid)
            for daemon in self._daemons.values():
                daemon.poll()  # a child that was killed is there until it is asked for
            if time.monotonic() > deadline:
                raise TimeoutError(f"these processes of {self.folder} do not end: {pids}")
            time.sleep(0.01)
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        self._watchdog.kill()
        self._watchdog.communicate()
        self._reserved.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def reset(self) -> None:
        """As new for the next test: no jobs, not even ended ones, no faults, every node idle, an empty log."""
        self.heal()
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for node in self.nodes:
            if node not in self._daemons:
                self._start_node(node)
        self.scancel("--user", self.user)
        self.wait(lambda: not self.run("squeue", "--noheader", "--all"), 60)
        self.wait(self._resume)
        self._first_job = max((number(job.id) + 1 for job in self.jobs()), default=self._first_job)
        for call in (self.folder / "calls").iterdir():
            call.unlink()

    # ---- use

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall use this cluster: SLURM_CONF, and PATH with the commands that count and can fail."""
        clean = clean_environment()
        return clean | {"SLURM_CONF": str(self.conf), "PATH": f"{self.folder / 'bin'}:{clean['PATH']}"}

    def run(self, command: str, *arguments: str) -> str:
        """Standard output of a real SLURM command, which is not logged and does not fail on demand.

        Raises RuntimeError with its message where it fails, subprocess.TimeoutExpired after 30 s.
        """
        environment = clean_environment() | {"SLURM_CONF": str(self.conf)}
        done = subprocess.run(
            [find(command), *arguments], env=environment, capture_output=True, text=True, timeout=30, cwd=self.folder
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join([command, *arguments])}: {done.stderr.strip()}")
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """The id of a batch job of these shell lines. It writes to <folder>/log/<id>.out, unless `options` say else."""
        output = f"--output={self.folder}/log/%j.out"
        return self.run("sbatch", "--parsable", output, *options, "--wrap", script)

    def jobs(self) -> list[Job]:
        """The jobs since the last reset, ended ones too, in the order of their ids."""
        lines = self.run("squeue", "-a", "-r", "-h", "-t", "all", "-S", "i", "-o", "%i|%T|%N|%j").splitlines()
        jobs = [Job(id, name, state, node) for id, state, node, name in (line.split("|", 3) for line in lines)]
        return [job for job in jobs if number(job.id) >= self._first_job]

    def states(self) -> list[str]:
        return [job.state for job in self.jobs()]

    def wait(self, condition: Callable[[], T], seconds: float = 30) -> T:
        """What `condition` returns once that is true. Raises TimeoutError, which lists the jobs."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                try:
                    seen = str(self.jobs())
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    seen = str(error)
                raise TimeoutError(f"not so after {seconds} s; jobs: {seen}")
            time.sleep(0.05)
        return value

    def calls(self, command: str | None = None) -> list[Call]:
        """What ran in the cluster's environment since the last reset, in the jobs too, in the order of time."""
        calls = []
        for path in (self.folder / "calls").iterdir():
            when, _, name = path.name.split("-", 2)
            if command in (None, name):
                calls.append(Call(float(when), name, path.read_text().split("\0")[1:-1]))
        return sorted(calls)

    # ---- faults

    def fail(self, command: str, text: str, count: int = 1) -> None:
        """The next `count` calls of this command print `text` to standard error and exit with 1."""
        self._fault("fail", command, f"{count} {text}")

    def hang(self, command: str, count: int = 1) -> None:
        """The next `count` calls of this command do not end by themselves."""
        self._fault("hang", command, f"{count} ")

    def slow(self, command: str, moment: str, seconds: float, count: int = 1) -> None:
        """The next `count` calls of this command take so long "before" or "after" they do their work."""
        self._fault(moment, command, f"{count} {seconds}")

    def lose_answer(self, command: str, text: str, count: int = 1) -> None:
        """The next `count` calls of this command do their work, then fail with `text`: its answer was lost."""
        self._fault("lose", command, f"{count} {text}")

    def heal(self) -> None:
        """No command fails, hangs or is slow any more."""
        for fault in (file for kind in FAULTS for file in (self.folder / kind).iterdir()):
            fault.unlink()

    def stop_controller(self) -> None:
        """Jobs go on running, and clients fail after 9 s."""
        controller = self._daemons.pop("slurmctld")
        controller.terminate()  # after kill -9 it may not know the jobs of the last 5 s
        controller.wait(30)

    def start_controller(self) -> None:
        """Its clients work at once; it starts jobs when the nodes have answered it, after 4 s."""
        self._start_controller()

    def kill_node(self, name: str, jobs: bool = True) -> None:
        """Kill -9 of a node's slurmd and, as when the power goes, of its jobs. SLURM notices after SlurmdTimeout
        (300 s) or when told by `set_node(name, "down")`. With `jobs=False` they outlive it, and are found by a new one.
        """
        slurmd = self._daemons.pop(name)
        slurmd.kill()
        slurmd.wait()
        if jobs:
            while pids := self._processes(name):
                for pid in pids:
                    kill(pid)
                time.sleep(0.01)

    def restart_node(self, name: str) -> None:
        self._start_node(name)
        self.wait(lambda: self._ready([name]))

    def set_node(self, name: str, state: str, reason: str = "test") -> None:
        """`state` as of scontrol: down (requeues its jobs), drain (after its jobs), resume."""
        self.run("scontrol", "update", f"NodeName={name}", f"State={state}", f"Reason={reason}")

    def scancel(self, *arguments: str) -> None:
        self.run("scancel", *arguments)

    # ---- inside

    def _write_conf(self) -> None:
        controller, dbd, *_ = self._ports
        host = socket.gethostname().split(".")[0]
        settings: dict[str, object] = {
            "ClusterName": "bed",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmUser": self.user,
            "SlurmdUser": self.user,
            # without munge: a daemon less, and nothing to steal here
            "AuthType": "auth/none",
            "CredType": "cred/none",
            # how long a requeued job must wait; the default is 120 s, and below 5 it is refused and 120 s again
            "AuthInfo": "cred_expire=5",
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool/%n",
            "SlurmctldPidFile": self.folder / "state/slurmctld.pid",
            "SlurmdPidFile": self.folder / "spool/%n.pid",
            "SlurmctldLogFile": self.folder / "log/slurmctld.log",
            "SlurmdLogFile": self.folder / "log/%n.log",
            "PlugStackConfig": self.folder / "plugstack.conf",  # else that of /etc/slurm
            "ProctrackType": "proctrack/linuxproc",  # the usual one needs cgroups of its own, hence root
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "MailProg": "/bin/true",
            "GresTypes": "gpu",
            "ReturnToService": 2,  # a node that was down is idle when its slurmd is back
            "JobRequeue": 1,
            "KillWait": 2,  # between TERM and KILL
            "MinJobAge": 3600,  # squeue shows an ended job for so long
            "PropagateResourceLimits": "NONE",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            # as soon as something is submitted or ends, and else every second
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
            "SlurmdParameters": "config_overrides",  # more CPUs and memory than there are
            "AccountingStorageType": "accounting_storage/none",
        }
        if self.accounting:
            settings |= {"AccountingStorageType": "accounting_storage/slurmdbd"}
            settings |= {"AccountingStorageHost": "127.0.0.1", "AccountingStoragePort": dbd}
        lines = [f"{key}={value}" for key, value in (settings | self._options).items()]
        for node, port in zip(self.nodes, self._ports[3:], strict=True):
            lines.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {self._shape}")
        lines += [f"PartitionName={p}" for p in ("debug Nodes=ALL Default=YES", *self._partitions)]
        self.conf.write_text("\n".join([*lines, ""]))
        (self.folder / "plugstack.conf").touch()
        devices = [f"NodeName={','.join(self.nodes)} Name=gpu File={file}\n" for file in DEVICES[: self._gpus]]
        (self.folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(devices))

    def _start_database(self) -> None:
        _, dbd, database, *_ = self._ports
        log = self.folder / "log/mariadb.log"
        (self.folder / "init.sql").write_text(
            "CREATE USER 'slurm'@'%' IDENTIFIED BY 'slurm';\nGRANT ALL ON *.* TO 'slurm'@'%';\n"
        )
        conf = f"""DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={dbd}\nSlurmUser={self.user}\nAuthType=auth/none
PidFile={self.folder}/state/slurmdbd.pid\nLogFile={self.folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort={database}\nStorageUser=slurm\nStoragePass=slurm\n"""
        secret = self.folder / "slurmdbd.conf"  # found beside slurm.conf, and refused if others could read it
        secret.touch(0o600)
        secret.write_text(conf)
        common = ("--no-defaults", f"--user={self.user}", f"--datadir={self.folder}/database")
        install = self._spawn(
            "mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"
        )
        install.wait(60)
        del self._daemons["mariadb-install-db"]
        self._spawn(
            "mariadbd",
            *(*common, "--bind-address=127.0.0.1", f"--port={database}", f"--socket={self.folder}/state/mariadb.sock"),
            *(f"--pid-file={self.folder}/state/mariadb.pid", f"--init-file={self.folder}/init.sql"),
            *(f"--log-error={log}", "--skip-name-resolve", "--innodb-buffer-pool-size=64M"),
            *("--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"),  # slurmdbd warns of the usual 50
        )
        self.wait(lambda: log.exists() and "ready for connections" in log.read_text(), 60)
        self._spawn("slurmdbd", "-D")
        self.wait(self._registered, 60)

    def _registered(self) -> bool:
        try:
            self.run("sacctmgr", "--immediate", "add", "cluster", "bed")
        except RuntimeError:
            return False  # slurmdbd is not there yet
        return True

    def _spawn(self, program: str, *arguments: str, name: str = "") -> subprocess.Popen[bytes]:
        """A daemon in the foreground, as a child. Its environment is how `stop` knows it and what comes of it."""
        name = name or program
        mark = {"SLURM_CONF": str(self.conf)} | ({"SLURMD_NODENAME": name} if name in self.nodes else {})
        with open(self.folder / f"log/{name}.err", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                [find(program), *arguments],
                env=clean_environment() | mark,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests, which then stop it
            )
        return self._daemons[name]

    def _start_controller(self, *options: str) -> None:
        controller = self._spawn("slurmctld", "-D", *options)
        # who asks before it listens would ask again only a second later
        self.wait(lambda: listens(self._ports[0]) or controller.poll() is not None)

    def _start_node(self, name: str) -> None:
        self._spawn("slurmd", "-D", "-N", name, name=name)

    def _node_states(self) -> dict[str, str]:
        """Long names of the nodes' states, none where the controller does not answer. Raises RuntimeError with the logs
        where a daemon ended by itself: a state will not come then."""
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} ended by itself\n{self._logs()}")
        try:
            return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines())
        except RuntimeError:
            return {}

    def _ready(self, nodes: Sequence[str]) -> bool:
        """True if the nodes would take jobs or run some; * is for those that do not answer."""
        states = self._node_states()
        return all(states.get(node) in ("idle", "mixed", "allocated", "completing", "planned") for node in nodes)

    def _resume(self) -> bool:
        for node, state in self._node_states().items():
            if state.startswith(("down", "drain")):
                with suppress(RuntimeError):  # refused as long as a new controller has not heard of the node
                    self.set_node(node, "resume")
        return self._ready(self.nodes)

    def _fault(self, kind: str, command: str, text: str) -> None:
        if command not in CLIENTS:
            raise ValueError(f"{command} cannot {kind} on demand, only {', '.join(CLIENTS)}")
        (self.folder / kind / command).write_text(text)

    def _processes(self, node: str | None = None) -> list[int]:
        """Processes of this cluster, or of a node's jobs and slurmd: known by their environment, which daemons, steps
        and jobs hand on, or by a parent that is one (a job may clear its environment)."""
        mark = f"SLURM_CONF={self.conf}".encode()
        parents: dict[int, int] = {}
        found: set[int] = set()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (path / "environ").read_bytes().split(b"\0")
            except OSError:  # ended meanwhile, or another user's
                continue
            if mark in environment and (node is None or f"SLURMD_NODENAME={node}".encode() in environment):
                found.add(int(path.name))
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found - {os.getpid()})

    def _logs(self) -> str:
        logs = sorted(path for path in (self.folder / "log").iterdir() if path.stat().st_size)
        return "\n".join(
            "\n".join([f"{log.name}:", *log.read_text(errors="replace").splitlines()[-8:]]) for log in logs
        )


def number(job: str) -> int:
    """The number in a job's id, "7" or "7_0" or "7+1"."""
    return int(re.split(r"\D", job, maxsplit=1)[0])


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def find(program: str) -> str:
    """Path of a program. Daemons are where PATH of an ordinary user does not look. Raises FileNotFoundError."""
    if path := shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        return path
    raise FileNotFoundError(program)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def clean_environment() -> dict[str, str]:
    """This process's without what an outer SLURM says, in which the tests may themselves be a job."""
    outer = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SCANCEL|SINFO|SCONTROL)_")
    return {key: value for key, value in os.environ.items() if not outer.match(key)}


def free_ports(count: int) -> tuple[list[int], socket.socket]:
    """Consecutive free ports below those that the kernel hands out, and a socket on the one before them. While it is
    open, no other cluster takes this block, even if a daemon that is restarted leaves its port free for a moment."""
    for base in random.SystemRandom().sample(PORTS, len(PORTS)):
        lock = socket.socket()
        try:
            lock.bind(("0.0.0.0", base))
            for port in range(base + 1, base + 1 + count):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", port))
        except OSError:
            lock.close()
            continue
        return list(range(base + 1, base + 1 + count)), lock
    raise RuntimeError(f"no {count} free ports in a row from {PORTS}")


# ---- fixtures


def skip_without_slurm(accounting: bool = False) -> None:
    missing = []
    for program in (*CLIENTS, *DAEMONS, *(ACCOUNTING if accounting else ())):
        try:
            find(program)
        except FileNotFoundError:
            missing.append(program)
    if missing:
        pytest.skip(
            f"NO SLURM HERE: {', '.join(missing)} missing; tests/install_slurm.sh installs it on Debian and Ubuntu"
        )


@pytest.fixture(scope="session")
def shared_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with 4 CPUs and 2 fake GPUs each, without accounting; one for each xdist worker."""
    skip_without_slurm()
    with Cluster(tmp_path_factory.mktemp("slurm") / "bed") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def shared_slurm_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same with accounting, hence with a sacct that works."""
    skip_without_slurm(accounting=True)
    with Cluster(tmp_path_factory.mktemp("slurm") / "bed", accounting=True) as cluster:
        yield cluster


@pytest.fixture
def slurm(shared_slurm: Cluster) -> Iterator[Cluster]:
    """`shared_slurm`, as new for each test."""
    yield shared_slurm
    shared_slurm.reset()


@pytest.fixture
def slurm_accounting(shared_slurm_accounting: Cluster) -> Iterator[Cluster]:
    """`shared_slurm_accounting`, as new for each test."""
    yield shared_slurm_accounting
    shared_slurm_accounting.reset()


@pytest.fixture
def slurm_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster with the options of Cluster, for one test."""
    skip_without_slurm()
    clusters: list[Cluster] = []

    def start(**options: Any) -> Cluster:
        if options.get("accounting"):
            skip_without_slurm(accounting=True)
        cluster = Cluster(tmp_path_factory.mktemp("slurm") / "bed", **options)
        clusters.append(cluster.start())
        return cluster

    yield start
    for cluster in clusters:
        cluster.stop()
