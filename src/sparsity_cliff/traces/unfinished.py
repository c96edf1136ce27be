"""What a study lacks: runs without a trace, and seeds that diverged. Every figure and the claims ledger name them."""

from typing import Any

MISSING = "missing"  # status, in the table `runs`, of the seeds of a run without a trace
NAMED = 8  # runs that a sentence names at most


def unfinished(runs: Any) -> str:
    """Sentences that name the runs without results and those with diverged seeds; "" if all seeds finished.

    runs: the table of analysis/collect.py, a pandas frame.
    """
    missing = list(runs.loc[runs["status"] == MISSING, "run"].unique())
    lost = runs[~runs["status"].isin([MISSING, "finished"])]
    diverged = [f"{run} (seed {', '.join(map(str, own))})" for run, own in lost.groupby("run", sort=False)["seed"]]
    words = []
    if missing:
        words.append(f"Incomplete: {len(missing)} of {runs['run'].nunique()} runs have no results: {named(missing)}.")
    if diverged:
        words.append(f"Diverged, so in no mean: {named(diverged)}.")
    return " ".join(words)


def named(names: list[str]) -> str:
    """The names, or the first of them and the number of the others."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f", and {rest} more" if rest > 0 else "")
