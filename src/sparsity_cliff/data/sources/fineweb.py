"""Token shards from elsewhere: FineWeb-10B in GPT-2 tokens, fetched once, and shards of one's own."""

from pathlib import Path

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.fetch import fetch
from sparsity_cliff.data.shards import check, tokens
from sparsity_cliff.study.registry import Count

KIND = "tokens"
VOCABULARY = 50257  # of GPT-2; `token_files` has its own
VALIDATION = 1_048_576  # tokens to predict
DELIMITERS = (0, 11, 13, 25, 26, 30, 198, 628, 50256)  # GPT-2's ! , . : ; ? one and two line ends, end of text
REQUIRES = ("shards <= 103",)
ADDRESS = "https://huggingface.co/datasets/kjj0/fineweb10B-gpt2/resolve/main"
MANIFEST = "SHA256SUMS"


def fineweb10b(root: Path, *, shards: Count = 103, block: Count = 1024) -> dict[str, np.ndarray]:
    """The first `shards` training shards of 103, each 200 MB and 100 million tokens, and the first 1,048,576 tokens of
    the validation shard.

    FineWeb (Penedo et al., arXiv 2406.17557), its sample of ten billion tokens, in GPT-2's as published for
    modded-nanogpt. Files that lie in root/fineweb10B are used, missing ones fetched. Each one's SHA-256 is kept in
    SHA256SUMS beside it from the first use on. DataError where one cannot be had, is no such shard, or has changed.
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
    """Shards of one's own (sparsity_cliff.data.shards), by path from where the workflow starts; `test` is held out.

    DataError where a file is no whole shard or has a token beyond the vocabulary.
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
    """The file of that name: there or fetched, whole, with the tokens of GPT-2, and the same as ever."""
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
            f"{path}: not what it was at its first use (SHA-256 {digest[:12]}…, not {known[name][:12]}…); "
            f"delete it to fetch it again, or its line in {manifest} to accept it"
        )
    return path
