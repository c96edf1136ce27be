"""Synthetic speech in noise: sentences spoken by espeak-ng, with white, pink, or babble noise. Needs no download.

The package `espeakng-loader` contains the synthesizer. Its output depends on what it has spoken before in the same
process. It therefore runs in a process of its own (`python -m sparsity_cliff.data.sources.speech`, which reads lines
and writes samples), and the same version gives the same data to the bit.
"""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.study.registry import Count

KIND = "speech"
EXAMPLES = ("utterances", "held_out")

# without the variants f2, f3, and f5, whose breath is noise that is seeded with the time of day
VOICES = ("en-us", "en-us+f1", "en-us+m3", "en-gb-x-rp+f4", "en-us+m7", "en-us+f4", "en-gb-scotland", "en-us+m1")
NOISES = ("white", "pink", "babble")
SPOKEN = 22_050  # Hz, of the synthesizer
LEVEL = 1500.0  # RMS of clean speech in steps of int16, -27 dB of full scale, so that noise at 0 dB does not clip
TALKERS = 5  # number of voices in babble noise

TRAIN = (
    "The old boat drifted past the stone bridge.",
    "She put three red apples on the table.",
    "A cold wind came down from the hills at night.",
    "The baker opens his shop before the sun is up.",
    "My brother fixed the gate with a piece of wire.",
    "Rain ran down the window in thin lines.",
    "The children found a green bottle on the beach.",
    "He read the letter twice and then burned it.",
    "Fresh bread and butter make a good breakfast.",
    "The last train leaves the city at ten.",
    "A small dog slept under the wooden bench.",
    "They painted the front door a deep blue.",
    "The doctor asked him to breathe slowly.",
    "Tall grass grew along both sides of the road.",
    "Her watch stopped a few minutes after noon.",
    "The farmer counts his sheep each evening.",
    "We heard the bells ring across the valley.",
    "Put the heavy box down near the stairs.",
    "The river froze and the fish stayed deep below.",
    "His voice was clear above the noise of the crowd.",
    "A yellow leaf fell into the cup of tea.",
    "The teacher wrote four long words on the board.",
    "Smoke from the kitchen filled the narrow hall.",
    "They walked home together under one umbrella.",
    "The pilot saw the lights of the harbor.",
    "Some people like salt better than sugar.",
    "The cat jumped from the roof to the wall.",
    "An honest answer is worth more than a gift.",
    "The music grew louder as the doors opened.",
    "Keep your gloves dry and your feet warm.",
    "The judge looked at both pictures for a while.",
    "A quick lunch saved them nearly an hour.",
)
TEST = (
    "The young horse ran along the edge of the field.",
    "Please leave the key beside the lamp.",
    "Seven ships were waiting for the storm to pass.",
    "The soup is hot, so use the big spoon.",
    "Nobody knew who had moved the garden chairs.",
    "A bright star showed them the way north.",
    "The clock in the tower is always late.",
    "Grandmother keeps her buttons in a tin.",
    "Warm milk will help the child to sleep.",
    "The thief hid the ring inside a loaf.",
    "Two owls called to each other in the wood.",
    "His coat was torn but the shirt was clean.",
)


def speech(
    root: Path,
    *,
    utterances: Count = 48,
    held_out: Count = 12,
    segment: Count = 16_000,
    snr: list[float] = (0.0, 5.0, 10.0, 15.0),  # type: ignore[assignment]
) -> dict[str, np.ndarray]:
    """Utterances of 1.5 to 3.5 s at 16 kHz. Training and held-out utterances share voices, but no sentence or noise.

    utterances, held_out: numbers of training and held-out utterances. segment: samples of a training example. snr:
    signal-to-noise ratios in dB over whole utterances, used in turn. Raises DataError if the synthesizer fails.
    """
    spoken = {"train": _plan(TRAIN, utterances), "test": _plan(TEST, held_out)}
    signals = iter(_speak([line for lines in spoken.values() for line in lines]))
    arrays: dict[str, np.ndarray] = {"segment": np.array(segment)}
    for number, (part, lines) in enumerate(spoken.items()):
        said = [next(signals) for _ in lines]
        random = np.random.default_rng(number)
        crowd, clean = said[:TALKERS], said[TALKERS:]
        pairs = []
        for i, signal in enumerate(clean):
            turn, place = divmod(i, len(snr))  # every noise occurs at every ratio
            noise = _noise(NOISES[(turn + place) % len(NOISES)], len(signal), crowd, random)
            pairs.append(mix(signal, noise, snr[place]))
        arrays[f"noisy_{part}"], arrays[f"clean_{part}"] = (
            np.concatenate(column) for column in zip(*pairs, strict=True)
        )
        arrays[f"ends_{part}"] = np.cumsum([len(signal) for signal in clean], dtype=np.int64)
    return arrays


def mix(clean: np.ndarray, noise: np.ndarray, snr: float) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean) as int16, (samples,), with speech `snr` dB above the noise in mean power.

    If a signal would clip, both are attenuated.
    """
    clean = LEVEL * clean / np.sqrt(np.mean(clean**2))
    noise = LEVEL * 10 ** (-snr / 20) * noise / np.sqrt(np.mean(noise**2))
    loudest = max(np.abs(clean + noise).max(), np.abs(clean).max())
    gain = min(1.0, 32_767 / loudest)
    noisy, clean = (np.round(gain * signal).astype(np.int16) for signal in (clean + noise, clean))
    return noisy, clean


def _noise(kind: str, samples: int, crowd: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    if kind == "babble":
        shifts = random.integers(0, [len(talker) for talker in crowd])
        talkers = [np.resize(np.roll(talker, s), samples) for talker, s in zip(crowd, shifts, strict=True)]
        babble: np.ndarray = np.sum(talkers, axis=0)
        return babble
    white = random.normal(size=samples)
    if kind == "white":
        return white
    spectrum = np.fft.rfft(white)
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))  # power falls as 1 / frequency
    return np.fft.irfft(spectrum, samples)


# ------------------------------------------------------------------------------------------------- synthesizer

Line = dict[str, Any]  # text, voice, pitch (0 to 99), speed (words per minute)


def _plan(sentences: tuple[str, ...], utterances: int) -> list[Line]:
    """The lines of one part: first those of the babble's talkers, then the utterances."""
    return [
        {
            "text": sentences[i * 5 % len(sentences)],  # 5 is coprime to 32 and 12: all sentences, then repeats
            "voice": VOICES[i % len(VOICES)],
            "pitch": 35 + 7 * i % 35,
            "speed": 150 + 11 * i % 50,
        }
        for i in range(-TALKERS, utterances)
    ]


def _speak(lines: list[Line]) -> list[np.ndarray]:
    """A signal at 16 kHz for each line. Raises DataError if the synthesizer fails."""
    from scipy.signal import resample_poly

    command = [sys.executable, "-m", "sparsity_cliff.data.sources.speech"]
    done = subprocess.run(command, input=json.dumps(lines).encode(), capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise DataError(f"speech: the synthesizer of the package espeakng-loader failed ({reason[-1]})")
    header, _, samples = done.stdout.partition(b"\n")
    signals = np.split(np.frombuffer(samples, "<i2"), np.cumsum(json.loads(header))[:-1])
    return [resample_poly(signal.astype(np.float64), 320, 441) for signal in signals]  # SPOKEN to RATE


def synthesize(lines: list[Line]) -> list[bytes]:
    """The samples of each line, int16 at SPOKEN Hz. Call it only once per process (see the module's docstring).

    Raises DataError if the library reports an error.
    """
    from espeakng_loader import get_data_path, get_library_path

    espeak = ctypes.CDLL(str(get_library_path()))
    heard: list[bytes] = []

    def collect(samples: int | None, count: int, events: int | None) -> int:
        if samples:
            heard.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(collect)

    # 2: synchronous, output to the callback; 0x8000: return an error if the voice data is missing, instead of exit()
    rate = espeak.espeak_Initialize(2, 0, str(get_data_path()).encode(), 0x8000)
    if rate != SPOKEN:
        raise DataError(f"espeak-ng returns {rate} Hz instead of {SPOKEN} Hz")
    espeak.espeak_SetSynthCallback(callback)
    spoken = []
    for line in lines:
        heard.clear()
        refused = espeak.espeak_SetVoiceByName(line["voice"].encode())
        for parameter, value in ((1, line["speed"]), (3, line["pitch"])):
            refused = refused or espeak.espeak_SetParameter(parameter, value, 0)
        text = line["text"].encode()
        # from the first character (type 1) to the end, UTF-8 (flag 1)
        refused = refused or espeak.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, 1, None, None)
        if refused or not any(heard):
            raise DataError(f"espeak-ng cannot speak {line} (error {refused})")
        spoken.append(b"".join(heard))
    return spoken


if __name__ == "__main__":
    said = synthesize(json.load(sys.stdin))
    sys.stdout.buffer.write(json.dumps([len(signal) // 2 for signal in said]).encode() + b"\n" + b"".join(said))
