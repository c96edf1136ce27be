"""VoiceBank+DEMAND (Valentini-Botinhao 2017, doi 10.7488/ds/2117, CC BY 4.0).

It has 11,572 noisy utterances of 28 speakers for training, and 824 of two other speakers as test set.
"""

import hashlib
import io
import wave
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.fetch import fetch
from sparsity_cliff.data.quality import RATE
from sparsity_cliff.study.registry import Count

KIND = "speech"
EXAMPLES = ("11572 if path is None else None", "824 if path is None else None")

RECORDED = 48_000  # Hz, as published
ADDRESS = "https://datashare.ed.ac.uk/bitstreams"
#: Part -> (number, MD5) of its archive at Edinburgh DataShare; 5.6 GB in total.
ARCHIVES = {
    "clean_trainset_28spk_wav": ("245452b6-6235-44b6-a6f9-e7eb19797769", "d2d5a45ec32f8fcbf201bde0447e20ba"),
    "noisy_trainset_28spk_wav": ("ecb5a102-bb00-46d3-8af5-40c79823b837", "1fca9e8bafb8cd069f6653c6d92f9e9c"),
    "clean_testset_wav": ("dec213d3-bf57-4777-9663-c24bdce92d5e", "34eb1c0ba7ef667e9b966866c542fc16"),
    "noisy_testset_wav": ("13c1bfbf-14a6-41db-9b41-8f7310f01ad5", "fb1b86caa31e8ba5b506c0c64da9aab5"),
}

Recordings = dict[str, Callable[[], IO[bytes]]]  # name of a file -> function that opens it


def voicebank_demand(root: Path, *, path: str | None = None, segment: Count = 32_000) -> dict[str, np.ndarray]:
    """All pairs of recordings, mono at 16 kHz. Recordings at 48 kHz are resampled.

    path: a folder with the four published parts, each a folder or a .zip file. Without it, the archives in
    root/voicebank_demand are used, and missing ones are downloaded and checked. segment: samples of a training example;
    the default of 2 s is the published one. Raises DataError, which names the file, for a missing or damaged recording.
    """
    folder = root / "voicebank_demand" if path is None else Path(path)
    if path is None:
        for part, (number, _) in ARCHIVES.items():
            archive = folder / f"{part}.zip"
            if not archive.exists():  # a download gets this name once it is checked
                fetch(f"{ADDRESS}/{number}/download", archive, partial(_published, part))
    arrays: dict[str, np.ndarray] = {"segment": np.array(segment)}
    for part, name in (("train", "trainset_28spk_wav"), ("test", "testset_wav")):
        clean, noisy = (_recordings(folder, f"{kind}_{name}") for kind in ("clean", "noisy"))
        for alone in sorted(clean.keys() ^ noisy.keys()):
            there, missing = ("clean", "noisy") if alone in clean else ("noisy", "clean")
            raise DataError(f"{folder}: {there}_{name} has {alone}, but {missing}_{name} does not")
        pairs = []
        for file in sorted(clean):
            pair = [_read(f"{folder}/noisy_{name}/{file}", noisy[file])]
            pair.append(_read(f"{folder}/clean_{name}/{file}", clean[file]))
            if len(pair[0]) != len(pair[1]):
                raise DataError(f"{folder}: {file} of {name} has {len(pair[1])} samples clean and {len(pair[0])} noisy")
            pairs.append(pair)
        arrays[f"noisy_{part}"], arrays[f"clean_{part}"] = map(np.concatenate, zip(*pairs, strict=True))
        arrays[f"ends_{part}"] = np.cumsum([len(noisy) for noisy, _ in pairs], dtype=np.int64)
    return arrays


def _recordings(folder: Path, name: str) -> Recordings:
    """The recordings of a part, from its folder or its archive. Raises DataError if there are none."""
    files: Recordings = {}
    if (folder / name).is_dir():
        files = {path.name: partial(io.FileIO, path) for path in (folder / name).glob("*.wav")}
    elif (folder / f"{name}.zip").is_file():
        try:
            archive = zipfile.ZipFile(folder / f"{name}.zip")
        except zipfile.BadZipFile as error:
            raise DataError(f"{folder / name}.zip: not a readable archive ({error})") from error
        for member in archive.namelist():
            file = member.rpartition("/")[2]
            if file.endswith(".wav") and not file.startswith("."):  # files added by macOS begin with a dot
                files[file] = partial(archive.open, member)
    if not files:
        raise DataError(f"{folder}: no recordings in {name} or {name}.zip; needed: {', '.join(ARCHIVES)}")
    return files


def _read(name: str, open_file: Callable[[], IO[bytes]]) -> np.ndarray:
    """The samples of a recording, int16 (samples,) at RATE. Raises DataError if it is damaged."""
    from scipy.signal import resample_poly

    try:
        with open_file() as file, wave.open(file) as recording:
            channels, width, rate, frames = recording.getparams()[:4]
            content = recording.readframes(frames)
    except (wave.Error, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{name}: not a readable recording ({str(error) or 'it ends early'})") from error
    if (channels, width) != (1, 2):
        raise DataError(f"{name}: {channels} channels of {8 * width} bits; valid: 1 of 16 bits")
    if rate not in (RATE, RECORDED):
        raise DataError(f"{name}: {rate} Hz; valid: {RATE} or {RECORDED}")
    if len(content) != 2 * frames or not frames:
        raise DataError(f"{name}: {len(content) // 2} samples, but its header says {frames}")
    samples = np.frombuffer(content, "<i2")
    if rate == RATE:
        return samples.astype(np.int16)
    resampled = resample_poly(samples.astype(np.float64), RATE, RECORDED)
    return np.clip(np.round(resampled), -32_768, 32_767).astype(np.int16)


def _published(part: str, file: Path) -> None:
    """Raise DataError if a file is not the archive of the part."""
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()
    if found != ARCHIVES[part][1]:
        raise DataError(f"its MD5 is {found}, not {ARCHIVES[part][1]}")
