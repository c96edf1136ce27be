"""Watching jobs: outcome files at each check, SLURM's states now and then, and a verdict on jobs that have ended."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit import slurm
from snakemake_executor_plugin_submitit.members import Member, active, runs
from snakemake_executor_plugin_submitit.progress import waits
from snakemake_executor_plugin_submitit.roster import Roster

REPORT_WITHIN = 30.0  # seconds to wait for SLURM's state of a failed job
REASONS_AFTER = 60.0  # seconds between queries for reasons that the accounting does not know
LOST_AFTER = 120.0  # seconds after which a job that SLURM does not know counts as lost


class Pace:
    """When the next query to SLURM is due: soon after a change, then less and less often.

    least, most: minimum and maximum seconds between queries.
    """

    def __init__(self, least: float, most: float):
        self.least, self.most = least, most
        self._asked = time.monotonic()
        self.soon()

    def soon(self, seconds: float | None = None) -> None:
        """Query again after the minimum interval, or after `seconds`. Called after a change."""
        self._interval = self.least if seconds is None else seconds

    def due(self) -> bool:
        """Whether the next query is due."""
        return time.monotonic() - self._asked >= self._interval

    def asked(self) -> None:
        """Record a query that is made now, and lengthen the interval."""
        self._asked = time.monotonic()
        self._interval = min(max(self._interval, 1.0) * 1.5, self.most)


class Watch:
    """Checks the members of a roster and reports those that have ended.

    status_command: sacct or squeue; "" without SLURM. resubmit: submits a member again, given its number of rounds so
    far.
    """

    def __init__(self, roster: Roster, pace: Pace, status_command: str, resubmit: Callable[[Member, int], None]):
        self.roster, self.pace, self.status_command, self._resubmit = roster, pace, status_command, resubmit
        self._asked_why = -inf

    async def look(self, members: list[Member]) -> None:
        """Read outcome files. If a query is due, ask SLURM about all other members at once."""
        try:
            self.read_outcomes(members)
            left = [member for member in members if member in self.roster.under_way]
            if left:
                self.roster.progress.minute(left)
            if left and self.pace.due():
                async with self.roster.executor.status_rate_limiter:
                    await asyncio.to_thread(self._ask, left)
        except Exception as error:  # must not end the polling thread: the jobs would be lost
            self.roster.ledger.warn(f"could not check all jobs: {type(error).__name__}: {error}")

    # ------------------------------------------------------------------------------------------ outcomes

    def read_outcomes(self, members: list[Member]) -> None:
        """Act on the outcomes that jobs have written."""
        listed: dict[Path, set[int]] = {}
        for member in members:
            folder = member.submission.folder
            if folder not in listed:
                listed[folder] = member.submission.outcomes()
            if member.number not in listed[folder]:
                continue
            try:
                if outcome := member.submission.outcome(member.number):
                    self._read_outcome(member, outcome)
            except Exception as error:  # concerns one job; the others need a report, too
                text = f"{folder}/{member.number}.json: {type(error).__name__}: {error}"
                self.roster.ledger.warn(text)
                if member in self.roster.under_way:  # otherwise its end would never be reported
                    self.roster.fail_with(member, text)

    def _read_outcome(self, member: Member, outcome: dict[str, Any]) -> None:
        if outcome["outcome"] == "success":
            self.roster.succeed(member)
        elif outcome["outcome"] == "come back":
            self._resubmit(member, outcome["rounds"])
        elif not member.on_slurm or time.monotonic() - (member.failed or time.monotonic()) > REPORT_WITHIN:
            self.roster.fail(member, None, outcome)
        elif member.failed is None:
            member.failed = time.monotonic()
            self.pace.soon(0)  # the report includes SLURM's state

    # ------------------------------------------------------------------------------------------ states

    def _ask(self, members: list[Member]) -> None:
        """Query the states of jobs, and act on those that have ended without an outcome."""
        self.pace.asked()
        try:
            states = self._states(members)
            silent = [member for member in members if member.failed is None]
            over = [member for member in silent if self._seems_over(member, states.get(member.id))]
            going = active(over)
        except slurm.SlurmError as error:
            self.roster.executor.logger.warning(f"{error}; jobs are assumed to be running until it answers")
            return
        for member in members:
            state = states.get(member.id)
            if member.failed is not None and state is not None and state.ended:
                self.roster.fail(member, state, member.submission.outcome(member.number) or {})
        for member in over:
            if member in going or member.submission.outcome(member.number) is not None:
                member.over = None  # it was requeued, or its outcome has just appeared
            else:
                self._judge(member, states.get(member.id))
        with contextlib.suppress(slurm.SlurmError):  # reported at the next query
            left = [member for member in members if member in self.roster.under_way]
            self.roster.progress.see(self._with_reasons(left, states))

    def _states(self, members: list[Member]) -> dict[str, slurm.State]:
        """State of each id that SLURM or this machine knows."""
        if self.status_command:
            return slurm.STATUS[self.status_command](sorted({member.id for member in members}))
        return {member.id: slurm.State("RUNNING" if runs(member) else "FAILED") for member in members}

    def _with_reasons(self, members: list[Member], states: dict[str, slurm.State]) -> dict[Member, slurm.State]:
        """States with reasons for waiting. sacct's reasons are out of date, so squeue is queried now and then."""
        known = {member: states[member.id] for member in members if member.id in states}
        unclear = [member for member in members if member not in known or waits(known[member])]
        if not unclear or self.status_command != "sacct":
            return known
        if time.monotonic() - self._asked_why < REASONS_AFTER:
            before = self.roster.progress.states
            return known | {member: before[member] for member in unclear if waits(before.get(member))}
        self._asked_why = time.monotonic()
        reasons = slurm.squeue(sorted({member.id for member in unclear}))
        return known | {member: reasons[member.id] for member in unclear if member.id in reasons}

    # ------------------------------------------------------------------------------------------ verdicts

    def _seems_over(self, member: Member, state: slurm.State | None) -> bool:
        """Whether a job has been over, or unknown to SLURM, for so long that its outcome will not appear any more."""
        if state is not None and not state.ended:
            member.over = None
            return False
        now = time.monotonic()
        name = state.name if state else ""
        if member.over is None or member.over[0] != name:
            member.over = name, now
        latency = self.roster.executor.workflow.execution_settings.latency_wait
        patience = latency if state else LOST_AFTER
        if now - member.over[1] < patience:
            # a network file system may not show its outcome yet
            self.pace.soon(min(patience, self.pace.most))
            return False
        return True

    def _judge(self, member: Member, state: slurm.State | None) -> None:
        """Report a job that is over and has no outcome."""
        if state is not None and state.name == "COMPLETED":
            self.roster.succeed(member)  # according to its exit code; Snakemake checks its files
        elif state is not None and state.name in slurm.INNOCENT and member.submission.requeue:
            self._resubmit(member, member.entry.rounds + max(1, member.starts))
        else:
            self.roster.fail(member, state, {}, _damage(member))


def _damage(member: Member) -> str:
    """Why a job that is over may have no outcome, judging by its folder; "" if nothing shows."""
    path = member.submission.folder / f"{member.number}.json"
    if not path.parent.exists():
        return f"its folder {path.parent} was removed while it ran"
    return f"its outcome file cannot be read: {path}" if os.path.lexists(path) else ""
