"""Speech data and its scores: what is asked for is there, the same every time, and what is broken is refused."""

import hashlib
import io
import json
import math
import re
import subprocess
import sys
import wave
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from small import dataset, needs_pesq

from sparsity_cliff.data import quality
from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.layouts.speech import Speech
from sparsity_cliff.data.loading import from_arrays
from sparsity_cliff.data.prepare import prepare
from sparsity_cliff.data.sources import speech as source
from sparsity_cliff.data.sources import voicebank
from sparsity_cliff.data.sources.speech import TEST, TRAIN, mix, speech
from sparsity_cliff.data.sources.voicebank import ARCHIVES, voicebank_demand
from sparsity_cliff.data.spectrogram import analyze

Arrays = dict[str, np.ndarray]
SNR = (-5.0, 0.0, 10.0)


@pytest.fixture(scope="module")
def spoken() -> Arrays:
    return speech(Path("nowhere"), utterances=9, held_out=9, segment=8000, snr=list(SNR))


def utterances(arrays: Arrays, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(noisy, clean), float64"""
    for a, b in pairwise([0, *arrays[f"ends_{part}"]]):
        yield tuple(arrays[f"{name}_{part}"][a:b].astype(np.float64) for name in ("noisy", "clean"))  # type: ignore[misc]


def decibels(noisy: np.ndarray, clean: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2)))


# ------------------------------------------------------------------------------------------ synthetic speech


@pytest.mark.parametrize("part", ["train", "test"])
def test_speech_is_as_long_and_as_noisy_as_asked(spoken: Arrays, part: str) -> None:
    found = [decibels(*pair) for pair in utterances(spoken, part)]
    assert found == pytest.approx(np.tile(SNR, 3), abs=0.1)
    lengths = np.diff(spoken[f"ends_{part}"], prepend=0)
    assert len(lengths) == 9
    assert (lengths > 1.2 * 16_000).all()
    assert (lengths < 4 * 16_000).all()


def test_speech_is_the_same_every_time(spoken: Arrays) -> None:
    np.random.seed(99)  # noqa: NPY002 (whatever state others left the global generator in)
    again = speech(Path("elsewhere"), utterances=9, held_out=9, segment=8000, snr=list(SNR))
    assert all(np.array_equal(spoken[key], again[key]) for key in spoken)


def test_no_sentence_is_in_both_parts_or_twice() -> None:
    assert len({*TRAIN, *TEST}) == len(TRAIN) + len(TEST)
    for sentences in (TRAIN, TEST):
        first = source._plan(sentences, len(sentences))[source.TALKERS :]
        assert {line["text"] for line in first} == set(sentences)


def test_speech_has_voices_and_pauses(spoken: Arrays) -> None:
    for _, clean in utterances(spoken, "train"):
        loud = np.abs(clean[: len(clean) // 160 * 160].reshape(-1, 160)).max(axis=1)  # per 10 ms
        assert 0.02 < np.mean(loud < 0.01 * loud.max()) < 0.6
        spectrum = np.abs(np.fft.rfft(clean)) ** 2
        frequency = np.fft.rfftfreq(len(clean), 1 / 16_000)
        assert 200 < (spectrum * frequency).sum() / spectrum.sum() < 2500  # Hz, as speech has its power


def test_noises_have_their_spectra(spoken: Arrays) -> None:
    pairs = list(utterances(spoken, "train"))
    for kind, slope in (("white", 0.0), ("pink", -1.0)):
        for noisy, clean in (pairs[i] for i in {"white": (0, 5, 7), "pink": (1, 3, 8)}[kind]):  # each at each ratio
            power = np.abs(np.fft.rfft(noisy - clean)) ** 2
            frequency = np.fft.rfftfreq(len(clean), 1 / 16_000)
            edges = 2.0 ** np.arange(7, 14) * 125 / 128
            bands = [power[(frequency >= a) & (frequency < b)].mean() for a, b in pairwise(edges)]
            fitted = np.polyfit(np.log2(edges[:-1]), np.log2(bands), 1)[0]
            assert fitted == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize("snr", [-20.0, 0.0, 40.0])
def test_mixing_keeps_the_ratio_and_does_not_clip(snr: float) -> None:
    random = np.random.default_rng(0)
    noisy, clean = mix(random.laplace(size=20_000), 7 * random.normal(size=20_000), snr)
    assert decibels(noisy.astype(float), clean.astype(float)) == pytest.approx(snr, abs=0.1)
    assert max(np.abs(noisy.astype(int)).max(), np.abs(clean.astype(int)).max()) <= 32_767


def test_one_utterance_is_enough() -> None:
    arrays = speech(Path("nowhere"), utterances=1, held_out=1)
    assert from_arrays(arrays).examples == 1
    assert decibels(*next(utterances(arrays, "train"))) == pytest.approx(0, abs=0.1)


def test_the_data_stage_writes_speech_that_training_reads(tmp_path: Path) -> None:
    prepare(json.dumps({"function": "speech", "utterances": 2, "held_out": 2}), tmp_path / "a.npz", tmp_path)
    with np.load(tmp_path / "a.npz") as arrays:
        data = from_arrays(arrays)
    noisy, clean = data.batch(torch.tensor([0, 1]), torch.tensor([0.0, 0.99]))
    assert noisy.shape == clean.shape == (2, 16_000)
    start, end = (int(data.ends_train[i]) for i in (0, 1))  # a cut of the utterance over that utterance's noisy RMS
    first, second = (data.noisy_train[:start].float(), data.noisy_train[start:end].float())
    torch.testing.assert_close(noisy[0], first[:16_000] / first.square().mean().sqrt())
    place = int(torch.tensor(0.99).item() * (len(second) - 16_000 + 1))
    torch.testing.assert_close(noisy[1], second[place : place + 16_000] / second.square().mean().sqrt())


@needs_pesq
def test_random_speech_is_independent_white_noise_at_20_db_below_full_scale() -> None:
    data = dataset("speech")
    first, again, other = (data.randomized(seed) for seed in (0, 0, 1))
    signals = [getattr(first, f"{name}_{part}").double() for part in ("train", "test") for name in ("noisy", "clean")]
    for signal in signals:
        n, level = len(signal), 32767 * 10 ** (-20 / 20)
        assert abs(signal.square().mean().sqrt() / level - 1) < 4 / (2 * n) ** 0.5  # standard error of an RMS
        assert abs((signal[1:] * signal[:-1]).mean() / level**2) < 4 / n**0.5  # white
    assert abs((signals[0] * signals[1]).mean() / level**2) < 4 / len(signals[0]) ** 0.5  # independent
    assert torch.equal(first.noisy_train, again.noisy_train)
    assert not torch.equal(first.noisy_train, other.noisy_train)
    assert torch.equal(first.ends_train, data.ends_train)


def test_a_silent_output_has_no_pesq_and_silence_no_stoi() -> None:
    signal = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    assert quality.scores(torch.zeros(1, 16_000), signal)["pesq"].isnan().all()
    assert quality.scores(signal, torch.zeros(1, 16_000))["stoi"].isnan().all()


def test_a_synthesizer_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "VOICES", ("nobody",))
    with pytest.raises(DataError, match=r"^speech: the synthesizer .* failed \(.*cannot speak .*nobody.*\)$"):
        speech(Path("nowhere"), utterances=1)


def test_a_missing_synthesizer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ModuleNotFoundError('no espeakng_loader')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DataError, match=r"espeakng-loader failed \(ModuleNotFoundError: no espeakng_loader\)$"):
        speech(Path("nowhere"), utterances=1)


def test_the_source_of_speech_does_not_import_torch() -> None:
    code = "import sys; from sparsity_cliff.data.sources import speech, voicebank; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ------------------------------------------------------------------------------------------ scores


@needs_pesq
def test_clean_speech_has_the_highest_scores_and_they_fall_with_noise(spoken: Arrays) -> None:
    _, clean = next(utterances(spoken, "test"))
    signal = torch.from_numpy(clean)[None]
    noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = quality.scores(signal, signal)
    assert best["pesq"] == pytest.approx(4.64, abs=0.005)  # the maximum of P.862.2: 0.999 + 4 / (1 + e^-2.3235...)
    assert best["stoi"] == pytest.approx(1, abs=1e-6)
    found = [quality.scores(signal + signal.std() * 10 ** (-snr / 20) * noise, signal) for snr in (30, 15, 0)]
    for name in ("pesq", "stoi"):
        values = [float(scores[name]) for scores in (best, *found)]
        assert values == sorted(values, reverse=True), name


def test_scores_do_not_depend_on_the_scale(spoken: Arrays) -> None:
    noisy, clean = (torch.from_numpy(x)[None] for x in list(utterances(spoken, "test"))[8])
    first, second = quality.scores(noisy, clean), quality.scores(noisy / 1500, clean / 1500)
    assert all(first[name].item() == pytest.approx(second[name].item(), rel=1e-2) for name in ("pesq", "stoi"))


@needs_pesq
def test_undefined_scores_are_missing_example_by_example(spoken: Arrays) -> None:
    noisy, clean = (torch.from_numpy(x)[None] for x in list(utterances(spoken, "test"))[8])
    silent, broken = torch.zeros_like(clean), torch.full_like(clean, math.nan)
    alone = quality.scores(noisy, clean)
    both = quality.scores(torch.cat([noisy, noisy, broken]), torch.cat([clean, silent, clean]))
    assert both["pesq"].tolist() == pytest.approx([alone["pesq"].item(), math.nan, math.nan], nan_ok=True)
    for pair in ((broken, clean), (noisy[:, :1000], clean[:, :1000]), (noisy, silent)):
        assert all(values.isnan().all() for values in quality.scores(*pair).values())


def test_the_layout_scores_the_waveform_of_a_spectrum(spoken: Arrays) -> None:
    data = from_arrays(spoken)
    assert isinstance(data, Speech)
    noisy, clean = data.held_out(9)[8]
    found, direct = data.scores(analyze(noisy, 400, 100), clean), quality.scores(noisy, clean)
    assert found.keys() == direct.keys() >= {"stoi"}
    assert all(found[name].item() == pytest.approx(direct[name].item(), abs=1e-2) for name in direct)


# ------------------------------------------------------------------------------------------ VoiceBank+DEMAND


def recording(samples: np.ndarray, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.astype(f"<i{width}").tobytes())
    return buffer.getvalue()


def tone(samples: int, rate: int = 16_000, frequency: float = 440) -> np.ndarray:
    return np.round(9000 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.int16)


def corpus(folder: Path, rate: int = 16_000) -> Path:
    """Two pairs for training and one for testing."""
    for part in ARCHIVES:
        (folder / part).mkdir(parents=True)
        for i in range(2 if "train" in part else 1):
            frequency = 300 + 100 * i + 50 * part.startswith("noisy")
            (folder / part / f"p2_{i}.wav").write_bytes(recording(tone(rate * (i + 1) // 10, rate, frequency), rate))
    return folder


def zipped(folder: Path) -> Path:
    """The same as archives, as they are published: with a folder inside."""
    for part in ARCHIVES:
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for file in sorted((folder / part).iterdir()):
                archive.write(file, f"{part}/{file.name}")
                archive.writestr(f"__MACOSX/{part}/._{file.name}", b"not a recording")
                file.unlink()
        (folder / part).rmdir()
    return folder


@pytest.mark.parametrize("archived", [False, True])
def test_voicebank_is_what_lies_in_the_folder(tmp_path: Path, archived: bool) -> None:
    folder = corpus(tmp_path)
    folder = zipped(folder) if archived else folder
    arrays = voicebank_demand(Path("nowhere"), path=str(folder), segment=800)
    assert arrays["ends_train"].tolist() == [1600, 4800]
    assert arrays["ends_test"].tolist() == [1600]
    assert np.array_equal(arrays["clean_train"], np.concatenate([tone(1600, frequency=300), tone(3200, frequency=400)]))
    assert np.array_equal(arrays["noisy_test"], tone(1600, frequency=350))
    assert from_arrays(arrays).examples == 2


def test_voicebank_at_48_khz_is_resampled(tmp_path: Path) -> None:
    arrays = voicebank_demand(Path("nowhere"), path=str(corpus(tmp_path, 48_000)))
    assert arrays["ends_train"].tolist() == [1600, 4800]
    inner = slice(1700, 4700)  # a filter rings at the ends
    expected = np.concatenate([tone(1600, frequency=300), tone(3200, frequency=400)])
    assert arrays["clean_train"][inner] == pytest.approx(expected[inner], abs=30)  # of 9000


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        voicebank_demand(Path("nowhere"), path=str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


NOISY = "noisy_trainset_28spk_wav"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (recording(tone(3200), 44_100), r"p2_1.wav: 44100 Hz; valid: 16000 or 48000"),
        (recording(tone(3200), channels=2), r"p2_1.wav: 2 channels of 16 bits; valid: 1 of 16 bits"),
        (recording(tone(3200) // 256, width=1), r"p2_1.wav: 1 channels of 8 bits; valid: 1 of 16 bits"),
        (recording(tone(3200))[:-2000], r"p2_1.wav: 2200 samples, but its header says 3200"),
        (recording(tone(0)), r"p2_1.wav: 0 samples, but its header says 0"),
        (recording(tone(3200))[:20], r"p2_1.wav: not a readable recording"),
        (b"", r"p2_1.wav: not a readable recording \(it ends early\)"),
        (b"no recording at all", r"p2_1.wav: not a readable recording \(file does not start with RIFF id\)"),
        (recording(tone(3100)), r"p2_1.wav of trainset_28spk_wav has 3200 samples clean and 3100 noisy"),
    ],
)
def test_a_broken_recording_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    folder = corpus(tmp_path)
    (folder / NOISY / "p2_1.wav").write_bytes(content)
    line = refusal(folder)
    assert line.startswith(str(folder))
    assert re.search(problem, line), line


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    (folder / NOISY / "p2_0.wav").unlink()
    assert refusal(folder) == f"{folder}: clean_trainset_28spk_wav has p2_0.wav, but {NOISY} does not"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    (folder / NOISY).rename(folder / "elsewhere")
    assert refusal(folder).startswith(f"{folder}: no recordings in {NOISY} or {NOISY}.zip; needed: clean_trainset")


def test_a_torn_archive_is_named(tmp_path: Path) -> None:
    folder = zipped(corpus(tmp_path))
    archive = folder / f"{NOISY}.zip"
    content = archive.read_bytes()
    archive.write_bytes(content[:500])
    assert refusal(folder) == f"{archive}: not a readable archive (File is not a zip file)"
    archive.write_bytes(content[:200] + bytes(byte ^ 255 for byte in content[200:300]) + content[300:])
    assert "not a readable recording (Bad CRC-32" in refusal(folder)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small corpus at the addresses of the real one."""
    folder = zipped(corpus(tmp_path / "server"))
    archives = {}
    for part, (number, _) in ARCHIVES.items():
        content = (folder / f"{part}.zip").read_bytes()
        (folder / number).mkdir()
        (folder / number / "download").write_bytes(content)
        archives[part] = (number, hashlib.md5(content).hexdigest())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    monkeypatch.setattr(voicebank, "ADDRESS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(voicebank, "ARCHIVES", archives)
    yield folder
    server.shutdown()
    server.server_close()


def test_voicebank_is_fetched_once(served: Path, tmp_path: Path) -> None:
    first = voicebank_demand(tmp_path / "raw")
    assert first["ends_train"].tolist() == [1600, 4800]
    for number, _ in ARCHIVES.values():
        (served / number / "download").unlink()
    again = voicebank_demand(tmp_path / "raw")
    assert all(np.array_equal(first[key], again[key]) for key in first)


def test_what_cannot_be_fetched_is_named(served: Path, tmp_path: Path) -> None:
    number, _ = ARCHIVES[NOISY]
    (served / number / "download").unlink()
    with pytest.raises(DataError, match=rf"{NOISY}.zip: cannot be fetched from http.*404.*; .* or put the file there"):
        voicebank_demand(tmp_path / "raw")


def test_an_archive_that_is_not_the_published_one_is_refused(served: Path, tmp_path: Path) -> None:
    number, _ = ARCHIVES[NOISY]
    (served / number / "download").write_bytes(b"something else")
    digest = hashlib.md5(b"something else").hexdigest()
    with pytest.raises(DataError, match=rf"{NOISY}.zip: http.* sent an unexpected file \(its MD5 is {digest}, not"):
        voicebank_demand(tmp_path / "raw")
    assert not (tmp_path / "raw" / "voicebank_demand" / f"{NOISY}.zip").exists()


def test_what_an_earlier_run_left_of_an_archive_does_no_harm(served: Path, tmp_path: Path) -> None:
    """This server cannot send parts, so all comes again; going on with a part is tested in test_tokens.py."""
    folder = tmp_path / "raw" / "voicebank_demand"
    folder.mkdir(parents=True)
    (folder / f"{NOISY}.zip.part").write_bytes(b"the beginning of something")
    assert voicebank_demand(tmp_path / "raw")["ends_train"].tolist() == [1600, 4800]
    assert {path.suffix for path in folder.iterdir()} == {".zip"}
