"""What the plugin reads from Snakemake's jobs."""

import hashlib
import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import ApiError

from snakemake_executor_plugin_submitit import resources
from snakemake_executor_plugin_submitit.ledger import Entry

TAIL = 20  # lines of the log in a failure report


def parts(job: Any) -> list[Any]:
    """The individual jobs of a job or group."""
    return list(job.jobs) if job.is_group() else [job]


def entry(job: Any) -> Entry:
    """A job's entry in the ledger."""
    return Entry(key(job), job.name, wildcards(job), [str(file) for file in job.output])


def allocation(job: Any, declared: Collection[str]) -> resources.Allocation | None:
    """The allocation that a job requests; None while it depends on files that do not exist yet.

    declared: names of the workflow's own resources. Raises ApiError for invalid resources.
    """
    try:
        return resources.allocation(job.name, job.threads, dict(job.resources.items()), declared)
    except resources.Pending:
        return None
    except resources.ResourceError as error:
        raise ApiError(str(error)) from error


def give_up(job: Any) -> None:
    """Use up a job's attempts, so that --retries does not run it again."""
    job.attempt = max(job.attempt, job.restart_times + 1)


def wildcards(job: Any) -> str:
    """Wildcards with their values, such as `sample=a, unit=1`. For a group, those of its jobs, separated by `;`."""
    texts = (", ".join(f"{key}={value}" for key, value in part.wildcards_dict.items()) for part in parts(job))
    return "; ".join(text for text in texts if text)


def key(job: Any) -> str:
    """A digest of a job's work: its code, its params, and its inputs as they are now.

    Jobs with equal keys do the same work, so one may take over the other's result. In doubt, keys differ, and the job
    is submitted again.
    """
    described = [
        [
            part.rule.name,
            sorted(part.wildcards_dict.items()),
            [str(file) for file in part.output],
            [_stamp(str(file)) for file in part.input],
            [_text(value) for value in part.params if _is_plain(value)],
            part.rule.shellcmd,
            part.rule.run_func_src if not part.rule.shellcmd else None,
            [_script(part, text) for text in (part.rule.script, part.rule.notebook) if text],
        ]
        for part in parts(job)
    ]
    return hashlib.sha256(json.dumps(sorted(described, key=str)).encode()).hexdigest()


def _stamp(path: str) -> list[Any]:
    try:
        status = os.stat(path)
    except OSError:
        return [path]  # in remote storage
    return [path, status.st_mtime_ns, status.st_size]


def _is_plain(value: Any) -> bool:
    """Whether repr describes a value completely, without its address in memory."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return value is None or isinstance(value, str | int | float | complex | bytes)


def _text(value: Any) -> str:
    """A repr that is the same in every process. The built-in repr of a set is not."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(map(_text, value))})"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({list(map(_text, value))})"
    if isinstance(value, dict):
        return f"dict({[(_text(key), _text(item)) for key, item in value.items()]})"
    return repr(value)


def _script(part: Any, text: str) -> list[Any]:
    with suppress(AttributeError, IndexError, KeyError):  # as Snakemake formats it; on failure, the braces are literal
        text = text.format(wildcards=part.wildcards, params=part.params)
    path = Path(part.rule.basedir.join(text).get_path_or_uri(secret_free=True)) if part.rule.basedir else Path(text)
    return [text, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None]


def log_tail(job: Any, log: Path) -> tuple[Path, list[str]]:
    """(log, its last lines), for the rule's own log if it has text, else for the given log."""
    own = [Path(str(file)) for part in parts(job) for file in part.log]
    for path in [*own, log]:
        lines = last_lines(path)
        if lines:
            return path, lines
    return log, []


def last_lines(path: Path, count: int = TAIL) -> list[str]:
    """The last lines of a file, which may hold any bytes; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            return file.read().decode(errors="replace").rstrip().splitlines()[-count:]
    except OSError:
        return []
