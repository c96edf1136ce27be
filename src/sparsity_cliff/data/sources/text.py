"""The text of Python's own documentation, the topics of `help()`, which every Python includes."""

import re
from pathlib import Path

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.study.registry import Count

KIND = "tokens"
VOCABULARY = 256  # bytes
DELIMITERS = b" \n.,:;!?"


def text(root: Path, *, block: Count = 64, held_out: Count | None = None) -> dict[str, np.ndarray]:
    """The topics in alphabetical order, in UTF-8, with one byte per token. The first 90 % are for training.

    block: tokens per window. held_out: number of held-out windows; None for all (about 600 windows of 64 bytes).

    The text depends on the version of Python, so losses of different versions are not comparable. Topics quote each
    other, so only the first occurrence of a paragraph counts; otherwise, a twelfth of the held-out text would also be
    training text. Raises DataError if there are fewer windows than `held_out`.
    """
    from pydoc_data.topics import topics

    paragraphs = (paragraph for name in sorted(topics) for paragraph in re.split(r"\n\n+", topics[name].strip("\n")))
    stream = np.frombuffer("\n\n".join(dict.fromkeys(paragraphs)).encode(), np.uint8).astype(np.uint16)
    cut = len(stream) * 9 // 10
    windows = max(0, len(stream) - cut - 1) // block
    if held_out is not None and held_out > windows:
        raise DataError(f"text.held_out: {held_out} is not valid; valid: at most {windows} (held-out windows)")
    return {
        "tokens_train": stream[:cut],
        "tokens_test": stream[cut:][: held_out and held_out * block + 1],
        "block": np.asarray(block),
        "vocabulary": np.asarray(VOCABULARY),
        "delimiters": np.frombuffer(DELIMITERS, np.uint8).astype(np.int64),
    }
