"""Token shards (.bin) in the format of Karpathy's llm.c.

A shard has a header of 256 int32 (magic 20240520, version 1, number of tokens), followed by the uint16 tokens, all
little-endian. Shards are read through a memory map.

`python -m sparsity_cliff.data.shards TEXT OUT.bin` converts any file: its bytes are the tokens, and the vocabulary is
256.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from sparsity_cliff.data.errors import DataError

MAGIC, VERSION, HEADER = 20240520, 1, 256  # the header is HEADER int32
PIECE = 1 << 24  # bytes that are checked at once


def tokens(path: str | Path) -> np.ndarray:
    """The tokens of a shard, uint16 (n,), memory-mapped. Raises DataError, which names the file, if it is damaged."""
    try:
        header, size = np.fromfile(path, "<i4", HEADER), os.path.getsize(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(header) < HEADER or header[0] != MAGIC:
        raise DataError(f"{path}: not a token shard (its header does not begin with {MAGIC})")
    if header[1] != VERSION:
        raise DataError(f"{path}: a token shard of version {header[1]}; valid: {VERSION}")
    if header[2] < 1:
        raise DataError(f"{path}: its header says {header[2]} tokens; valid: 1 or more")
    expected = 4 * HEADER + 2 * int(header[2])
    if size != expected:
        raise DataError(f"{path}: {size} bytes, but its header says {expected}")
    return np.memmap(path, "<u2", "r", offset=4 * HEADER)


def check(path: str | Path, vocabulary: int) -> str:
    """SHA-256 of a shard. Raises DataError if the shard is damaged or has a token that is not below `vocabulary`."""
    tokens(path)
    digest, position = hashlib.sha256(), 0
    with open(path, "rb") as file:
        digest.update(file.read(4 * HEADER))
        while piece := file.read(PIECE):
            digest.update(piece)
            found = np.frombuffer(piece, "<u2")
            if found.max() >= vocabulary:
                first = int(np.argmax(found >= vocabulary))
                raise DataError(
                    f"{path}: token {found[first]} at position {position + first}; valid: below {vocabulary}, the "
                    "vocabulary"
                )
            position += len(found)
    return digest.hexdigest()


def write(path: str | Path, tokens: np.ndarray) -> None:
    """Write a stream of token numbers, (n,) of any integer type, as a shard. Raises ValueError if they do not fit."""
    if tokens.dtype.kind not in "iu" or tokens.ndim != 1 or not 1 <= len(tokens) < 2**31:
        raise ValueError(f"{path}: {tokens.dtype} tokens of shape {tokens.shape}; valid: 1 or more integers in a row")
    if tokens.min() < 0 or tokens.max() >= 2**16:
        raise ValueError(f"{path}: tokens from {tokens.min()} to {tokens.max()}; valid: 0 to {2**16 - 1}")
    header = np.zeros(HEADER, "<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    with open(path, "wb") as file:
        header.tofile(file)
        tokens.astype("<u2").tofile(file)


def main(arguments: list[str]) -> None:
    """Command line: convert a file to a shard of its bytes."""
    parser = argparse.ArgumentParser(prog="python -m sparsity_cliff.data.shards", description="Make a token shard.")
    parser.add_argument("text", help="any file; its bytes are the tokens")
    parser.add_argument("shard", help="the .bin file to write")
    options = parser.parse_args(arguments)
    try:
        stream = np.fromfile(options.text, np.uint8)
        write(options.shard, stream)
    except OSError as error:
        raise SystemExit(f"error: {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise SystemExit(f"error: {options.text}: nothing to write ({error})") from error
    print(f"{options.shard}: {len(stream)} tokens, vocabulary 256")


if __name__ == "__main__":
    main(sys.argv[1:])
