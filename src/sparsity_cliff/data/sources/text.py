"""The text of Python's own documentation, which every Python brings along: the topics of `help()`."""

import re
from pathlib import Path

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.study.registry import Count

KIND = "tokens"
VOCABULARY = 256  # bytes
DELIMITERS = b" \n.,:;!?"


def text(root: Path, *, block: Count = 64, held_out: Count | None = None) -> dict[str, np.ndarray]:
    """The topics in alphabetical order, in UTF-8, a byte a token; the first 90 % for training.

    held_out: windows to evaluate on, where all of the rest (some 600 of 64 bytes) take too long.

    The text is that of the Python that runs: another version is another data set, and losses do not compare. Topics
    quote each other, so a paragraph counts at its first place only: else a twelfth of the test text were training text.
    DataError where there are fewer windows than `held_out`.
    """
    from pydoc_data.topics import topics

    paragraphs = (paragraph for name in sorted(topics) for paragraph in re.split(r"\n\n+", topics[name].strip("\n")))
    stream = np.frombuffer("\n\n".join(dict.fromkeys(paragraphs)).encode(), np.uint8).astype(np.uint16)
    cut = len(stream) * 9 // 10
    windows = max(0, len(stream) - cut - 1) // block
    if held_out is not None and held_out > windows:
        raise DataError(f"text.held_out: {held_out} is not valid; valid: at most the held-out windows, here {windows}")
    return {
        "tokens_train": stream[:cut],
        "tokens_test": stream[cut:][: held_out and held_out * block + 1],
        "block": np.asarray(block),
        "vocabulary": np.asarray(VOCABULARY),
        "delimiters": np.frombuffer(DELIMITERS, np.uint8).astype(np.int64),
    }
