"""What was submitted, on disk: written before each submission, so that a new Snakemake finds what a killed one left.

<folder>/
    lock            held by the Snakemake that submits from here
    map.tsv         every job: when, what happened, its id, rule, wildcards and log
    <submission>/   one call of sbatch
        submission.json   its jobs; written before the call
        submitted.pkl     what submitit runs on the node: the same for every task of an array
        id                the id that SLURM gave; written after the call
        <n>.sh            the command of job n
        <n>.log           its standard output and error
        <n>.json          its outcome, written by the job itself
        starts            a line for each time that an allocation began to run
        closed            a line for each job whose end Snakemake knows
"""

import fcntl
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MAP = ("time", "event", "id", "rule", "wildcards", "log")


class LedgerError(ValueError):
    """The folder cannot be used; the message is one line."""


def write(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, also after a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def _append(path: Path, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


@dataclass(frozen=True)
class Entry:
    """One job of Snakemake's."""

    key: str  # of what it would do: its code, params and inputs
    rule: str
    wildcards: str  # "sample=a, unit=1"
    outputs: list[str]
    rounds: int = 0  # that it has had before, in other submissions


@dataclass
class Submission:
    """One call of sbatch: an array of allocations, each of which runs one job, or several where jobs are packed."""

    folder: Path
    name: str  # of the SLURM job: no other submission has it
    backend: str
    entries: list[Entry]
    allocations: list[list[int]]  # numbers of the jobs that each allocation runs
    parallel: bool  # jobs of an allocation run side by side
    gpus: int  # of an allocation
    requeue: bool
    requeue_limit: int
    ids: list[str] = field(default_factory=list)  # of the allocations

    def script(self, number: int) -> Path:
        return self.folder / f"{number}.sh"

    def log(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    @property
    def pickle(self) -> Path:
        return self.folder / "submitted.pkl"

    def save(self) -> None:
        content = {key: value for key, value in asdict(self).items() if key not in ("folder", "ids")}
        write(self.folder / "submission.json", json.dumps(content, indent=1))

    def note_id(self, base: str) -> None:
        """Keep the id that the submission got: an array's, whose tasks are base_0, base_1, ..., or one per process."""
        self.take_id(base)
        with suppress(OSError):  # a full disk; a new Snakemake would ask SLURM for the job's name
            write(self.folder / "id", base)

    def take_id(self, base: str) -> None:
        self.ids = base.split()
        if self.backend == "slurm" and len(self.allocations) > 1:
            self.ids = [f"{base}_{task}" for task in range(len(self.allocations))]

    def id_of(self, number: int) -> str:
        """The id of the allocation that runs a job."""
        return self.ids[next(i for i, jobs in enumerate(self.allocations) if number in jobs)]

    # ---------------------------------------------------------------------------------- what the node writes

    def start(self, allocation: int, job_id: str) -> int:
        """Note that an allocation begins to run; how often it has, this time included."""
        _append(self.folder / "starts", f"{allocation} {job_id} {socket.gethostname()} {time.time():.0f}")
        return self.starts(allocation)

    def starts(self, allocation: int) -> int:
        return sum(line.split()[0] == str(allocation) for line in _lines(self.folder / "starts"))

    @property
    def started_ids(self) -> list[str]:
        return [line.split()[1] for line in _lines(self.folder / "starts")]

    def finish(self, number: int, **outcome: Any) -> None:
        write(self.folder / f"{number}.json", json.dumps(outcome))

    def outcome(self, number: int) -> dict[str, Any] | None:
        try:
            outcome: dict[str, Any] = json.loads((self.folder / f"{number}.json").read_text())
        except FileNotFoundError:
            return None
        return outcome

    def finished_at(self, number: int) -> float | None:
        """When the job's outcome was written."""
        try:
            return (self.folder / f"{number}.json").stat().st_mtime
        except FileNotFoundError:
            return None

    def outcomes(self) -> set[int]:
        """Numbers of the jobs that have an outcome; listing also refreshes what a network file system remembers."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:  # somebody cleaned up too early
            return set()
        return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}

    # ---------------------------------------------------------------------------------- what Snakemake knows

    def close(self, number: int, event: str) -> None:
        with suppress(OSError):  # a full disk; a new Snakemake would look at the outcome
            _append(self.folder / "closed", f"{number} {event}")

    def closed(self) -> dict[int, str]:
        """Event per job whose end Snakemake knows."""
        pairs = (line.partition(" ") for line in _lines(self.folder / "closed"))
        return {int(number): event for number, _, event in pairs}


def read(folder: Path) -> Submission:
    content = json.loads((folder / "submission.json").read_text())
    entries = [Entry(**entry) for entry in content.pop("entries")]
    submission = Submission(folder=folder, entries=entries, **content)
    if base := "".join(_lines(folder / "id")):
        submission.take_id(base)
    return submission


class Ledger:
    """All submissions in a folder. LedgerError where it is not writable, or in use by another Snakemake."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a+")  # noqa: SIM115 - held until the process ends
        except OSError as error:
            raise LedgerError(
                f"{folder}: cannot write there ({error.strerror}); jobs and their logs need it"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise LedgerError(f"{folder}: in use by another Snakemake ({holder}); wait for it or end it") from error
        except OSError:
            pass  # a file system without locks: as safe as Snakemake's own --nolock
        try:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._lock.flush()
        except OSError as error:
            with suppress(OSError):
                self._lock.close()
            raise LedgerError(
                f"{folder}: cannot write there ({error.strerror}); jobs and their logs need it"
            ) from error

    def release(self) -> None:
        self._lock.close()

    def new(self, name: str, **content: Any) -> Submission:
        """A submission, of which nothing is on disk yet."""
        token = secrets.token_hex(4)
        folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{token}"
        return Submission(folder=folder, name=f"{name}-{token}", **content)

    def submissions(self) -> Iterator[Submission]:
        """Those that were saved, oldest first."""
        for path in sorted(self.folder.glob("*/submission.json")):
            yield read(path.parent)

    def tell(self, event: str, submission: Submission, number: int) -> None:
        """A line of the map."""
        entry = submission.entries[number]
        job_id = submission.id_of(number) if submission.ids else ""
        values = (time.strftime("%Y-%m-%d %H:%M:%S"), event, job_id, entry.rule, entry.wildcards)
        path = self.folder / "map.tsv"
        with suppress(OSError):  # a full disk must stop no job
            if not path.exists():
                _append(path, "\t".join(MAP))
            _append(path, "\t".join([*values, str(submission.log(number).relative_to(self.folder))]))

    def clean(self, days: float, keep_successful: bool) -> None:
        """Remove what is over: successful jobs' folders unless they are to be kept, the others' by age."""
        now = time.time()
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            age = now - folder.stat().st_mtime
            if not (folder / "submission.json").exists():
                over = age > 3600  # no more came of it
            else:
                submission = read(folder)
                events = submission.closed()
                if len(events) < len(submission.entries):
                    continue
                successful = set(events.values()) == {"success"}
                # a job still has a few words to write after its outcome
                over = age > days * 86400 or (successful and not keep_successful and age > 30)
            if over:
                shutil.rmtree(folder, ignore_errors=True)
        path = self.folder / "map.tsv"
        lines = _lines(path)
        kept = [line for line in lines[1:] if (self.folder / line.rpartition("\t")[2]).parent.is_dir()]
        if len(kept) < len(lines) - 1:
            with suppress(OSError):  # a full disk: next time
                write(path, "\n".join([lines[0], *kept, ""]))
