"""The report of a failed job: rule, state, exit code, node, cause if known, and the end of the log."""

import re
from typing import Any

from snakemake_executor_plugin_submitit import jobs, slurm
from snakemake_executor_plugin_submitit.members import Member

#: Messages of slurmd and the kernel about a job that used more memory than it requested.
MEMORY = re.compile(r"oom[-_ ]?kill|out of memory|exceeded (job |step )?memory limit|exceeded memory", re.IGNORECASE)


def failure(member: Member, state: slurm.State | None, outcome: dict[str, Any], note: str = "") -> str:
    """The report of a member that failed. `state` is SLURM's state of it, or None if SLURM does not know it."""
    entry, submission = member.entry, member.submission
    task_log = next(iter(submission.folder.glob(f"{member.id}_0_log.out")), None)
    words = "\n".join(jobs.last_lines(task_log)) if task_log else ""
    name = "lost" if state is None and not outcome else (state.name if state else "FAILED")
    if MEMORY.search(words) and name in ("FAILED", "lost"):
        name = "OUT_OF_MEMORY"
    exit_code = outcome.get("exit") or (state.exit_code if state else "")
    node = outcome.get("node") or (state.node if state else "")
    log, tail = jobs.log_tail(member.info.job, submission.log(member.number))
    lines = [
        f"rule {entry.rule}{', ' if entry.wildcards else ''}{entry.wildcards}: {name}"
        + (f", exit code {exit_code}" if exit_code else "")
        + (f", on node {node}" if node else ""),
        *([cause] if (cause := outcome.get("reason") or CAUSES.get(name)) else []),
        *([note] if note else []),
        f"job: {member.id}; its log: {log}",
        *(f"  | {line}" for line in tail or words.splitlines()),
    ]
    return "\n".join(lines)


CAUSES = {
    "OUT_OF_MEMORY": "out of memory: the job used more than it requested; increase mem_mb",
    "TIMEOUT": "timed out: the job exceeded its limit; increase runtime, or let its command save its state on SIGTERM",
    "DEADLINE": "timed out: the job's deadline has passed",
    "CANCELLED": "cancelled by scancel or by an administrator",
    "NODE_FAIL": "the node failed",
    "PREEMPTED": "preempted, and requeue is off",
    "lost": "SLURM no longer knows the job, and it left no outcome",
}
