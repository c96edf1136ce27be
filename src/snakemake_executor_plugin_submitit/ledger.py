"""The record of submissions on disk, written before sbatch is called so that no job is lost if Snakemake is killed.

<folder>/
    lock            held by the Snakemake that uses the folder
    map.tsv         a line for each event of a job: time, event, id, rule, wildcards, log
    <submission>/   one call of sbatch
        submission.json   its jobs; written before the call
        submitted.pkl     what submitit runs on the node, the same for every task of an array
        id                the id that SLURM gave; written after the call
        <n>.sh            the command of job n
        <n>.log           its standard output and error
        <n>.json          its outcome, written by the job itself
        starts            a line for each start of an allocation
        closed            a line for each job whose end Snakemake knows

The folder may hold foreign files, and the ledger's own files may be damaged. The ledger reads, changes, and removes
only files that it created. It follows no links, except for the folder itself.
"""

import fcntl
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

MAP = ("time", "event", "id", "rule", "wildcards", "log")
FOLDER = re.compile(r"[0-9]{8}-[0-9]{6}-([0-9a-f]{8})")  # name of a submission's folder; the group is its token
HOLDER = re.compile(r"(process( \d+( on( \S+)?)?)?)?\s*")  # the text of a lock, possibly incomplete
START = r"(\d+) (\w+) \S+ \d+"  # a line of the file `starts`
OUTCOMES = ("success", "failure", "come back")
#: Events after which a job is no longer watched.
CLOSED = (*OUTCOMES, "back to the queue", "cancelled", "gone", "lost")
#: Files in a submission's folder: the ledger's, submitit's, and unfinished copies of both.
OWN_FILES = re.compile(
    r"(submission\.json|submitted\.pkl|id|starts|closed|\d+\.(sh|log|json|files)"
    r"|\w+_submission\.sh|\w+_submitted\.pkl|\w+_result\.pkl(\.save_tmp)?|\w+_log\.(out|err)"
    r"|\.submission_file_[0-9a-f]+\.sh|\.(submission\.json|id|\d+\.json)\.\d+)",
    re.ASCII,
)


class LedgerError(ValueError):
    """A folder, or a file in it, cannot be used. The message is one line that names it."""


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # nor block on a pipe


def write(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, even after a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "x", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(path: Path) -> list[str]:
    """Lines of a file, which may hold any bytes; empty if there is none. Raises LedgerError if it cannot be read."""
    try:
        with open(path, errors="surrogateescape", newline="\n", opener=_no_link) as file:
            return [line.removesuffix("\n") for line in file]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from error


def _append(path: Path, line: str) -> None:
    with open(path, "a", errors="surrogateescape", opener=_no_link) as file:
        file.write(f"{line}\n")


def _is_folder(path: Path) -> bool:
    """Whether the path is a folder and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


@dataclass(frozen=True)
class Entry:
    """A Snakemake job."""

    key: str  # digest of its code, params, and inputs
    rule: str
    wildcards: str  # "sample=a, unit=1"
    outputs: list[str]
    rounds: int = 0  # starts in earlier submissions


@dataclass
class Submission:
    """One call of sbatch: an array of allocations, each of which runs one job or a pack of jobs."""

    folder: Path
    name: str  # of the SLURM job, unique to this submission
    backend: str
    entries: list[Entry]
    allocations: list[list[int]]  # numbers of the jobs in each allocation
    parallel: bool  # jobs of an allocation run side by side
    gpus: int  # per allocation
    requeue: bool
    requeue_limit: int
    ids: list[str] = field(default_factory=list)  # one per allocation
    warn: Callable[[str], None] = field(default=print, compare=False, repr=False)  # logs damaged files

    def script(self, number: int) -> Path:
        """The path of a job's script."""
        return self.folder / f"{number}.sh"

    def log(self, number: int) -> Path:
        """The path of a job's log."""
        return self.folder / f"{number}.log"

    @property
    def pickle(self) -> Path:
        """The path of the pickle that submitit runs on the node."""
        return self.folder / "submitted.pkl"

    def save(self) -> None:
        """Write submission.json, which holds everything but the id."""
        content = {name: getattr(self, name) for name in SAVED}
        content["entries"] = [asdict(entry) for entry in self.entries]
        write(self.folder / "submission.json", json.dumps(content, indent=1))

    def note_id(self, base: str) -> None:
        """Save the submission's id: that of its job or array (tasks base_0, base_1, ...), or one per local process."""
        self.take_id(base)
        with suppress(OSError):  # disk full: a new Snakemake finds the job by its name
            write(self.folder / "id", base)

    def take_id(self, base: str) -> None:
        """Set the ids of the allocations from the submission's id."""
        self.ids = base.split()
        if self.backend == "slurm" and len(self.allocations) > 1:
            self.ids = [f"{base}_{task}" for task in range(len(self.allocations))]

    def id_of(self, number: int) -> str:
        """The id of the allocation that runs a job."""
        return self.ids[next(i for i, jobs in enumerate(self.allocations) if number in jobs)]

    # ---------------------------------------------------------------------------------- what the node writes

    def start(self, allocation: int, job_id: str) -> int:
        """Record that an allocation starts. Returns how often it has started, including this time."""
        _append(self.folder / "starts", f"{allocation} {job_id} {socket.gethostname()} {time.time():.0f}")
        return self.starts(allocation)

    def starts(self, allocation: int) -> int:
        """How often an allocation has started."""
        return sum(match[1] == str(allocation) for match in self._matches("starts", START))

    @property
    def started_ids(self) -> list[str]:
        """Ids of the allocations that have started, once per start."""
        return [match[2] for match in self._matches("starts", START)]

    def finish(self, number: int, **outcome: Any) -> None:
        """Write the outcome of a job."""
        write(self.folder / f"{number}.json", json.dumps(outcome))

    def outcome(self, number: int) -> dict[str, Any] | None:
        """A job's outcome; None if there is none yet, or, with a warning, if it cannot be read."""
        path = self.folder / f"{number}.json"
        if not os.path.lexists(path):
            return None
        try:
            outcome: dict[str, Any] = _json(path)
            if not _is_outcome(outcome):
                raise LedgerError(f"{path}: damaged, not an outcome")
        except LedgerError as error:
            self.warn(f"{error}; SLURM's state is used instead")
            return None
        return outcome

    def finished_at(self, number: int) -> float | None:
        """When the job's outcome was written, in Unix time; None if there is no readable outcome."""
        if self.outcome(number) is None:
            return None
        try:
            return (self.folder / f"{number}.json").lstat().st_mtime
        except OSError:
            return None

    def outcomes(self) -> set[int]:
        """Numbers of the jobs that wrote an outcome, including damaged ones.

        Listing the folder also refreshes the cache of a network file system.
        """
        try:
            names = os.listdir(self.folder)
        except OSError:  # the folder was removed
            return set()
        return {int(name[:-5]) for name in names if re.fullmatch(r"\d+\.json", name, re.ASCII)}

    # ---------------------------------------------------------------------------------- what Snakemake knows

    def close(self, number: int, event: str) -> None:
        """Record that Snakemake knows of a job's end. `event` is one of CLOSED."""
        with suppress(OSError):  # disk full: a new Snakemake reads the outcome
            _append(self.folder / "closed", f"{number} {event}")

    def closed(self) -> dict[int, str]:
        """Job number -> event, for the jobs whose end Snakemake knows."""
        pairs = self._matches("closed", rf"(\d+) ({'|'.join(CLOSED)})")
        return {int(match[1]): match[2] for match in pairs if int(match[1]) < len(self.entries)}

    def _matches(self, name: str, pattern: str) -> list[re.Match[str]]:
        """Lines of an append-only file that match a pattern. Warns of other lines."""
        path = self.folder / name
        try:
            lines = _lines(path)
        except LedgerError as error:
            self.warn(f"{error}; treated as empty")
            return []
        found = [re.fullmatch(pattern, line, re.ASCII) for line in lines]
        if bad := found.count(None):
            self.warn(f"{path}: {bad} of {len(lines)} lines are damaged; they are skipped")
        return [match for match in found if match]


SAVED = tuple(each.name for each in fields(Submission) if each.name not in ("folder", "ids", "warn"))


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises LedgerError if the file does not hold one."""
    try:
        with open(path, "rb", opener=_no_link) as file:
            content = json.loads(file.read())
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}: damaged, not JSON") from error
    if not isinstance(content, dict):
        raise LedgerError(f"{path}: damaged, not a JSON object")
    return content


def _is_outcome(content: dict[str, Any]) -> bool:
    texts = [content.get(name, "") for name in ("outcome", "reason", "node", "id")]
    return (
        all(isinstance(text, str) for text in texts)
        and content.get("outcome") in OUTCOMES
        and isinstance(content.get("exit", 0), int)
        and (content["outcome"] != "come back" or _is_count(content.get("rounds")))
    )


def is_number(word: str) -> bool:
    """Whether a word can be the id of a job or a process. With one impossible id, squeue refuses the whole query."""
    return re.fullmatch("[0-9]{1,10}", word) is not None and 0 < int(word) < 2**31


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read(folder: Path, warn: Callable[[str], None] = print) -> Submission:
    """The submission that was saved in a folder. Raises LedgerError if it is damaged."""
    path = folder / "submission.json"
    content = _json(path)
    try:
        unknown = sorted(content.keys() - set(SAVED))
        known = {key: value for key, value in content.items() if key in SAVED}
        entry_fields = {each.name for each in fields(Entry)}
        unknown += sorted({key for entry in content["entries"] for key in entry} - entry_fields)
        known["entries"] = [
            Entry(**{key: value for key, value in entry.items() if key in entry_fields}) for entry in content["entries"]
        ]
        submission = Submission(folder=folder, warn=warn, **known)
    except (TypeError, KeyError, AttributeError) as error:
        raise LedgerError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if not _is_sound(submission):
        raise LedgerError(f"{path}: damaged (a value has the wrong type)")
    if unknown:
        warn(f"{path}: written by another version; ignoring {', '.join(map(repr, unknown))}")
    if base := _id(submission):
        submission.take_id(base)
    return submission


def _is_sound(made: Submission) -> bool:
    """Whether every field has its type, and each job is in exactly one allocation."""
    texts = [made.name, made.backend]
    for entry in made.entries:
        if not (isinstance(entry.outputs, list) and _is_count(entry.rounds)):
            return False
        texts += [entry.key, entry.rule, entry.wildcards, *entry.outputs]
    if not (isinstance(made.allocations, list) and all(isinstance(jobs, list) and jobs for jobs in made.allocations)):
        return False
    numbers = [number for jobs in made.allocations for number in jobs]
    return (
        all(isinstance(text, str) for text in texts)
        and all(_is_count(number) for number in [*numbers, made.gpus, made.requeue_limit])
        and sorted(numbers) == list(range(len(made.entries)))
        and isinstance(made.parallel, bool)
        and isinstance(made.requeue, bool)
    )


def _id(submission: Submission) -> str:
    """The saved id of a submission; "" if it was not saved or is damaged."""
    path = submission.folder / "id"
    try:
        lines = _lines(path)
        if not lines:
            return ""
        words, wanted = lines[0].split(), 1 if submission.backend == "slurm" else len(submission.allocations)
        debug = submission.backend == "debug"
        if (
            len(lines) == 1
            and len(words) == wanted
            and all(each == "debug" if debug else is_number(each) for each in words)
        ):
            return " ".join(words)
        raise LedgerError(f"{path}: damaged")
    except LedgerError as error:
        submission.warn(
            f"{error}; {'looking for its job by name' if submission.backend == 'slurm' else 'its jobs are not watched'}"
        )
        return ""


class Ledger:
    """All submissions in a folder. Raises LedgerError if it is not writable, or in use by another Snakemake."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = print):
        self.folder, self._said, self._warn = folder.absolute(), set[str](), warn
        cannot = "not writable ({}); jobs and their logs are kept there"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{folder}: {cannot.format(error.strerror)}") from error
        path = folder / "lock"
        try:
            self._lock = open(path, "a+", errors="replace", opener=_no_link)  # noqa: SIM115 - stays open
        except OSError as error:
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise LedgerError(
                    f"{path}: not a lock file of this plugin; remove it, or use another --submitit-folder"
                ) from error
            raise LedgerError(f"{folder}: {cannot.format(error.strerror)}") from error
        try:
            self._take_lock(folder, path)
        except OSError as error:
            with suppress(OSError):
                self._lock.close()
            raise LedgerError(f"{folder}: {cannot.format(error.strerror)}") from error

    def _take_lock(self, folder: Path, path: Path) -> None:
        if not stat.S_ISREG(os.fstat(self._lock.fileno()).st_mode):
            raise self._not_ours(path)
        taken = False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError:
            pass  # a file system without locks: no less safe than Snakemake's --nolock
        self._lock.seek(0)
        holder = self._lock.read(1000)
        if not HOLDER.fullmatch(holder):
            raise self._not_ours(path)
        if taken:
            self._lock.close()
            name = holder.strip() or "another process"
            raise LedgerError(f"{folder}: in use by another Snakemake ({name}); wait for it or stop it")
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    def _not_ours(self, path: Path) -> LedgerError:
        self._lock.close()
        return LedgerError(f"{path}: not a lock file of this plugin; remove it, or use another --submitit-folder")

    def warn(self, text: str) -> None:
        """Log each warning once, although every check meets a damaged file again."""
        if text not in self._said:
            self._said.add(text)
            self._warn(text)

    def release(self) -> None:
        """Let another Snakemake use the folder."""
        self._lock.close()

    def new(self, name: str, **content: Any) -> Submission:
        """A new submission, which is not on disk yet."""
        token = secrets.token_hex(4)
        folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{token}"
        return Submission(folder=folder, name=f"{name}-{token}", warn=self.warn, **content)

    def submissions(self) -> Iterator[Submission]:
        """All saved submissions, oldest first. Damaged ones are skipped with a warning."""
        try:
            folders = sorted(path for path in self.folder.iterdir() if FOLDER.fullmatch(path.name))
        except OSError:  # the folder was removed
            folders = []
        for folder in folders:
            if not _is_folder(folder) or not os.path.lexists(folder / "submission.json"):
                continue  # a foreign folder, or Snakemake was killed before it could save
            try:
                submission = read(folder, self.warn)
                if not submission.name.endswith(f"-{folder.name[-8:]}"):
                    raise LedgerError(f"{folder}/submission.json: belongs to another folder")
            except LedgerError as error:
                self.warn(f"{error}; its jobs{_hint(folder)} are not watched, and its folder must be removed by hand")
            else:
                yield submission

    def tell(self, event: str, submission: Submission, number: int) -> None:
        """Append an event of a job to the map."""
        entry = submission.entries[number]
        job_id = submission.id_of(number) if submission.ids else ""
        log = str(submission.log(number).relative_to(self.folder))
        row = [time.strftime("%Y-%m-%d %H:%M:%S"), event, job_id, entry.rule, entry.wildcards, log]
        with suppress(OSError):  # a full disk must not stop a job
            path = self.folder / "map.tsv"
            if not os.path.lexists(path):
                _append(path, "\t".join(MAP))
            if self._has_map():
                _append(path, "\t".join(re.sub(r"\s", " ", value) for value in row))

    def _has_map(self) -> bool:
        """Whether the map exists and belongs to the plugin. Warns of a foreign file."""
        path = self.folder / "map.tsv"
        try:
            with open(path, errors="surrogateescape", newline="\n", opener=_no_link) as file:
                if file.readline() == "\t".join(MAP) + "\n":
                    return True
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a folder or a link
        self.warn(f"{path}: not a map of this plugin; job events are not recorded there")
        return False

    def clean(self, days: float, keep_successful: bool) -> None:
        """Remove the folders of closed submissions: successful ones unless they are to be kept, all after `days` days.

        Only files that the plugin and submitit made are removed. A folder with other files stays.
        """
        now = time.time()
        for submission in self.submissions():
            events = submission.closed()
            if len(events) < len(submission.entries):
                continue
            successful = set(events.values()) == {"success"}
            with suppress(OSError):  # the folder was removed
                age = now - submission.folder.stat().st_mtime
                # a job still writes to its log after its outcome
                if age > days * 86400 or (successful and not keep_successful and age > 30):
                    _remove(submission.folder)
        lines = _lines(self.folder / "map.tsv") if self._has_map() else []
        kept = [line for line in lines[1:] if not self._is_gone(line)]
        if len(kept) < len(lines) - 1:
            with suppress(OSError):  # disk full: done next time
                write(self.folder / "map.tsv", "\n".join([lines[0], *kept, ""]))

    def _is_gone(self, row: str) -> bool:
        """Whether a row of the map belongs to a submission whose folder was removed."""
        folder, _, log = row.rpartition("\t")[2].partition("/")
        return bool(FOLDER.fullmatch(folder) and log) and not (self.folder / folder).is_dir()


def _hint(folder: Path) -> str:
    """The id of a damaged submission, which the user needs to find its jobs."""
    with suppress(LedgerError):
        lines = _lines(folder / "id")
        if lines and re.fullmatch(r"[\w ]{1,50}", lines[0], re.ASCII):
            return f" (id {lines[0]})"
    return ""


def _remove(folder: Path) -> None:
    """Remove the plugin's files of a submission, submission.json last, so that an interrupted removal is resumed."""
    names = [name for name in os.listdir(folder) if OWN_FILES.fullmatch(name)]
    for name in sorted(names, key="submission.json".__eq__):
        path = folder / name
        if not _is_folder(path):
            path.unlink(missing_ok=True)  # of a link, only the link itself
    folder.rmdir()
