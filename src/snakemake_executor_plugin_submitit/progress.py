"""Log lines about jobs that wait or run: their number, once a minute, and what keeps jobs from starting."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from snakemake_executor_plugin_submitit import slurm
from snakemake_executor_plugin_submitit.members import Member

SAY_EVERY = 60.0  # seconds
SHOWN = 3  # maximum jobs named in a line

#: Ordinary reasons for waiting, which pass by themselves. BeginTime is the pause after a requeue.
ORDINARY = {
    "", "None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Dependency", "Licenses", "Prolog",
}  # fmt: skip

#: States of jobs that run or are about to run.
RUNS = {"RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "POWER_UP_NODE"}

#: (pattern of a state and reason, advice). The first match applies.
ADVICE = (
    (r"JobHeldAdmin|RESV_DEL_HOLD", "held by an administrator or a reservation; ask the site"),
    (r"JobHeldUser|_HOLD|SPECIAL_EXIT|\bheld\b", "held; run `scontrol release {ids}` to release"),
    (r"SUSPENDED|STOPPED", "suspended by the scheduler or an administrator until they resume it"),
    (
        r"ReqNodeNotAvail|DOWN, DRAINED|NodeDown",
        "the nodes are down, drained or reserved (`sinfo -R` shows why); wait, or request others (slurm_partition, "
        "constraint)",
    ),
    (r"PartitionDown|PartitionInactive", "the partition does not start jobs now; wait, or use another slurm_partition"),
    (
        r"Partition\w+Limit|BadConstraints|NotAllowed|Invalid|NeverSatisfied|MaxWall|PerJob|PerNode|MinCpu|MinGRES",
        "the request is not allowed there; run `scancel {ids}`, correct the resources, and start again",
    ),
    (
        r"Assoc|QOS|MaxJobs|Grp",
        "a limit of the account or QOS is reached; wait for other jobs to end, or use another account or QOS",
    ),
    (r"Reservation", "the reservation has not begun; `scontrol show reservation` shows when it does"),
    ("", "`scontrol show job {ids}` shows more"),
)


def waits(state: slurm.State | None) -> bool:
    """Whether a job in this state waits. False if the state is unknown (None)."""
    return state is not None and not state.ended and state.name not in RUNS


def _is_stuck(state: slurm.State) -> bool:
    return waits(state) and (state.reason not in ORDINARY or state.name not in ("PENDING", "REQUEUED", "REQUEUE_FED"))


def named(members: Iterable[Member]) -> str:
    """The rules and wildcards of the first few members."""
    entries = [member.entry for member in members]
    texts = [f"rule {entry.rule}{', ' if entry.wildcards else ''}{entry.wildcards}" for entry in entries[:SHOWN]]
    return "; ".join(texts) + (f"; and {len(entries) - SHOWN} more" if len(entries) > SHOWN else "")


class Progress:
    """Counts ended jobs, and keeps SLURM's last states. `tell` and `warn` log one line."""

    def __init__(self, tell: Callable[[str], None], warn: Callable[[str], None]):
        self.tell, self.warn = tell, warn
        self.done = self.failed = 0
        self.states: dict[Member, slurm.State] = {}
        self._stuck: dict[Member, tuple[str, str]] = {}  # state and reason of the last warning
        self._said = time.monotonic()

    def see(self, states: Mapping[Member, slurm.State]) -> None:
        """Store SLURM's states of the members that have not ended. Warns once per job and reason not to start."""
        self.states = dict(states)
        fresh: dict[tuple[str, str], list[Member]] = {}
        for member, state in states.items():
            word = (state.name, state.reason)
            if not _is_stuck(state):
                self._stuck.pop(member, None)
            elif self._stuck.get(member) != word:
                self._stuck[member] = word
                fresh.setdefault(word, []).append(member)
        for (name, reason), members in fresh.items():
            ids = " ".join(slurm.compress(member.id for member in members))
            count = "1 job does" if len(members) == 1 else f"{len(members)} jobs do"
            helps = next(text for pattern, text in ADVICE if re.search(pattern, f"{name} {reason}")).format(ids=ids)
            why = f"{name}, {reason}" if reason not in ("", "None") else name
            self.warn(f"{count} not start: {ids} ({named(members)}): {why}: {helps}")

    def ended(self, member: Member, well: bool) -> None:
        """Count a job that has ended."""
        self.done += well
        self.failed += not well
        self.forget(member)

    def forget(self, member: Member) -> None:
        """Drop the state of a job that has ended or continues as another member."""
        self.states.pop(member, None)
        self._stuck.pop(member, None)

    def minute(self, members: Iterable[Member]) -> None:
        """Log the line of these members, at most once a minute."""
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            self.tell(self.line(members))

    def line(self, members: Iterable[Member]) -> str:
        """How many of these members wait, why they wait, how many run, and how many jobs have ended so far."""
        reasons: Counter[str] = Counter()
        running = unknown = 0
        for member in members:
            state = self.states.get(member)
            if state is None:
                unknown += 1
            elif waits(state):
                reasons[state.reason if state.reason not in ("", "None") else state.name] += 1
            else:
                running += 1
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        parts = [f"{reasons.total()} waiting{f' ({why})' if why else ''}", f"{running} running"]
        parts += [f"{unknown} in an unknown state"] if unknown else []
        return f"jobs: {', '.join(parts)}, {self.done} done, {self.failed} failed"
