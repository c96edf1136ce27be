"""Token shards: FineWeb-10B in GPT-2 tokens, downloaded once, and the user's own shards."""

from pathlib import Path

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.fetch import fetch
from sparsity_cliff.data.shards import check, tokens
from sparsity_cliff.study.registry import Count

KIND = "tokens"
VOCABULARY = 50257  # of GPT-2; for `token_files`, an option replaces it
VALIDATION = 1_048_576  # held-out tokens to predict
DELIMITERS = (0, 11, 13, 25, 26, 30, 198, 628, 50256)  # ! , . : ; ?, one and two line ends, end of text
REQUIRES = ("shards <= 103",)
ADDRESS = "https://huggingface.co/datasets/kjj0/fineweb10B-gpt2/resolve/main"
MANIFEST = "SHA256SUMS"


def fineweb10b(root: Path, *, shards: Count = 103, block: Count = 1024) -> dict[str, np.ndarray]:
    """The sample of ten billion tokens of FineWeb (Penedo et al., arXiv 2406.17557), in GPT-2 tokens.

    Trains on the first `shards` of 103 shards, each with 200 MB and 100 million tokens, and holds out the first
    1,048,576 tokens of the validation shard, as published for modded-nanogpt. Files in root/fineweb10B are used, and
    missing files are downloaded. The file SHA256SUMS beside them keeps the SHA-256 of each file from its first use on.
    Raises DataError if a file cannot be downloaded, is damaged, or has changed.
    """
    if shards > 103:
        raise DataError(f"fineweb10b.shards: {shards}; valid: 1 to 103")
    folder = root / "fineweb10B"
    validation = _shard(folder, "fineweb_val_000000.bin")
    training = [_shard(folder, f"fineweb_train_{number:06d}.bin") for number in range(1, shards + 1)]
    return {
        "tokens_train": np.array([str(path) for path in training]),
        "tokens_test": np.array(tokens(validation)[: VALIDATION + 1], np.uint16),  # the last one is only a target
        "block": np.asarray(block),
        "vocabulary": np.asarray(VOCABULARY),
        "delimiters": np.array(DELIMITERS),
    }


def token_files(
    root: Path, *, train: list[str], test: list[str], block: Count = 1024, vocabulary: Count
) -> dict[str, np.ndarray]:
    """The user's own shards (sparsity_cliff.data.shards). Paths are relative to where the workflow starts.

    train: shards for training. test: held-out shards. block: tokens per window. Raises DataError if a file is damaged
    or has a token beyond the vocabulary.
    """
    for path in (*train, *test):
        check(path, vocabulary)
    return {
        "tokens_train": np.array(train),
        "tokens_test": np.array(test),
        "block": np.asarray(block),
        "vocabulary": np.asarray(vocabulary),
    }


def _shard(folder: Path, name: str) -> Path:
    """The path of a shard. It is downloaded if it is missing, and checked against GPT-2's vocabulary and SHA256SUMS."""
    path, manifest = folder / name, folder / MANIFEST
    if not path.exists():
        fetch(f"{ADDRESS}/{name}", path, tokens)
    digest = check(path, VOCABULARY)
    lines = manifest.read_text().splitlines() if manifest.exists() else []
    known = {file: value for value, file in (line.split("  ", 1) for line in lines)}
    if name not in known:
        with open(manifest, "a") as file:
            file.write(f"{digest}  {name}\n")
    elif known[name] != digest:
        raise DataError(
            f"{path}: changed since its first use (SHA-256 {digest[:12]}…, not {known[name][:12]}…); "
            f"delete it to fetch it again, or its line in {manifest} to accept it"
        )
    return path
