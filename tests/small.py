"""Small runs for the tests: every entry of the registries with the smallest valid options, tiny data, one spec."""

import importlib
import json
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.data.loading import from_arrays
from sparsity_cliff.probes import sites
from sparsity_cliff.study import registry, source
from sparsity_cliff.study.options import options_of
from sparsity_cliff.study.spec import Spec, canonical
from sparsity_cliff.training.build import build
from sparsity_cliff.training.job import Job
from sparsity_cliff.training.loop import train_seed
from sparsity_cliff.training.run import train_run

BLOCK, VOCABULARY = 12, 5  # of tokens
SEGMENT = 4000  # samples of speech
SHAPES = {"signal": (40,), "image": (1, 8, 8), "tokens": (BLOCK,), "speech": (SEGMENT,)}  # of one example
CLASSES = 3

needs_pesq = pytest.mark.skipif(not find_spec("pesq"), reason="no PESQ: its package needs a C compiler")

#: Value of an option that has no default, per annotation.
SAMPLES = {"Count": 2, "Size": 1, "Share": 0.5, "Positive": 0.01, "Momentum": 0.5, "NonNegative": 0.1}

#: Options that make an architecture small and still use every part of it.
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"width": 12, "depth": 3},
    "cnn": {"channels": 6},
    "resnet": {"blocks": [1, 1], "width": 4},
    "vit": {"patch": 4, "width": 8, "depth": 2, "heads": 2},
    "gpt": {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2},
    "mpsenet": {"channels": 4, "blocks": 1, "heads": 2, "kernel": 3, "n_fft": 64, "hop": 32, "dropout": 0.0},
}


def entry(kind: str, function: str, **options: Any) -> dict[str, Any]:
    """A spec's entry for `function`, required options filled in."""
    required = {o.name: SAMPLES[o.annotation] for o in options_of(kind, function).values() if o.required}
    if (kind, function) == ("loss", "mpsenet"):
        required = {"metric": 0.0}  # its discriminator needs PESQ, at every step
    return {"name": function, "function": function, **required, **options}


def names(kind: str) -> list[str]:
    return list(source.entries(kind))


def constant(model: str, name: str) -> Any:
    """A constant of a model's file, such as ACCEPTS."""
    module, _ = source.locate("model", model)
    return getattr(importlib.import_module(module), name, ())


def arrays(kind: str = "signal", train: int = 60, test: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    """What a source of this kind would make: Gaussian inputs whose label is the largest of their first entries, tokens
    that count up with gaps, or tones in noise, so that there is something to learn."""
    random = np.random.default_rng(seed)
    if kind == "tokens":
        made: dict[str, Any] = {"block": BLOCK, "vocabulary": VOCABULARY, "delimiters": [0]}
        for part, n in (("train", train), ("test", test)):
            made[f"tokens_{part}"] = (random.integers(1, 3, n * BLOCK + 1).cumsum() % VOCABULARY).astype(np.uint16)
    elif kind == "speech":
        made = {"segment": SEGMENT}
        for part, n in (("train", train // 2), ("test", test // 6)):
            lengths = random.integers(SEGMENT, SEGMENT + 400, n)
            clean = 8000 * np.sin(np.arange(lengths.sum()) * random.uniform(0.1, 0.2))
            noisy = clean + random.normal(0, 3000, len(clean))
            made |= {f"clean_{part}": clean.astype(np.int16), f"noisy_{part}": noisy.astype(np.int16)}
            made[f"ends_{part}"] = lengths.cumsum()
    else:
        made = {}
        for part, n in (("train", train), ("test", test)):
            x = random.normal(size=(n, *SHAPES[kind])).astype(np.float32)
            made |= {f"x_{part}": x, f"y_{part}": x.reshape(n, -1)[:, :CLASSES].argmax(axis=1)}
    return {key: np.asarray(value) for key, value in made.items()}


def dataset(kind: str = "signal", train: int = 60, test: int = 30, seed: int = 0) -> Any:
    return from_arrays(arrays(kind, train, test, seed))


def data_of(model: str) -> Any:
    """Data of the first kind that the architecture accepts."""
    return dataset(constant(model, "ACCEPTS")[0])


def batch_of(model: str, n: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `n` training examples, or all, and their targets."""
    data = data_of(model)
    n = n or (4 if model == "mpsenet" else data.examples)
    batch: tuple[torch.Tensor, torch.Tensor] = data.batch(torch.arange(n), torch.zeros(n))
    return batch


def loss_of(model: str) -> dict[str, Any]:
    """The first loss that makes sense for the architecture."""
    return entry("loss", constant(model, "LOSSES")[0])


def make_spec(model: str = "mlp", /, **parts: Any) -> dict[str, Any]:
    """A run's spec. A part replaces the default; `steps`, `every`, `measure`, `optimizer` … are found by name."""
    batch = 2 if model == "mpsenet" else 16  # its recordings take as long as hundreds of other examples
    training = {
        "steps": 6 if model == "mpsenet" else 12,
        "batch_size": batch,
        "microbatch": None,
        "processes": 1,
        "precision": "float32",
    }
    training |= {"optimizer": entry("optimizer", "sgd", lr=0.1), "schedule": entry("schedule", "constant")}
    probing = {"every": 4, "examples": None, "measure": ["activations", "weights", "gradients", "histograms"]}
    spec = {
        "architecture": {"name": model},
        "model": {"function": model, **SMALL.get(model, {})},
        "activation": entry("activation", "relu"),
        "normalization": {"name": "default", "function": None},
        "loss": loss_of(model),
        "data": {"name": "small", "function": "small", "axis": "real"},
        "device": "cpu",
        "training": {key: parts.pop(key, value) for key, value in training.items()},
        "probes": {key: parts.pop(key, value) for key, value in probing.items()},
        "seeds": [0],
    }
    unknown = parts.keys() - spec.keys()
    assert not unknown, unknown
    return spec | parts | {"data": spec["data"] | parts.get("data", {})}


def planned(spec: dict[str, Any]) -> Spec:
    """A spec as training reads it."""
    return Spec.of_text(canonical(spec))


def make_model(model: str = "mlp", /, *, seed: int = 0, **parts: Any) -> nn.Module:
    return build(planned(make_spec(model, **parts)), data_of(model), seed)


def valid_pairs() -> list[tuple[str, str]]:
    """Every architecture with every optimizer that can train it."""
    pairs = product(names("model"), names("optimizer"))
    return [(m, o) for m, o in pairs if f"optimizer != {o!r}" not in constant(m, "REQUIRES")]


def train(spec: dict[str, Any], data: Dataset | None = None, position: int = 0, log: Any = lambda line: None) -> Any:
    """{facts, status} of one seed, without checkpoints."""
    data = data if data is not None else data_of(spec["model"]["function"])
    plan = planned(spec)
    job = Job(plan, Path("never saved"), "", log=log, save_every=float("inf"))
    return train_seed(plan, position, data, torch.device("cpu"), job, None)


def run(folder: Path, spec: dict[str, Any], code: str = '{"module":"digest"}') -> Path:
    """A run as the workflow starts it, in `folder`; the path of its trace."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **arrays(constant(spec["model"]["function"], "ACCEPTS")[0]))  # type: ignore[arg-type]
    output = folder / "traces" / "small.parquet"
    train_run("small", json.dumps(spec, sort_keys=True), code, folder / "data.npz", output)
    return output


def rounding(terms: int, steps: int = 1) -> float:
    """Relative error to allow float32 numbers that `steps` steps with sums of `terms` terms lead to.

    Processors add in different orders. A sum of n terms errs by about √n units of 2⁻²⁴, whatever the order (Higham and
    Mary, SIAM J. Sci. Comput. 41, 2019), and errors of steps add up. Ten times that: layers pass errors on, enlarged.
    """
    return 10 * 2**-24 * terms**0.5 * steps


def nearest_to_zero(model: str, x: torch.Tensor, seed: int) -> float:
    """The smallest |z| of the initial network's pre-activations, in units of their site's RMS. Where it is far above
    rounding, no processor sees another sign."""
    smallest: list[torch.Tensor] = []
    network = make_model(model, seed=seed)
    for _, site in sites.sites(network):
        site.register_forward_hook(lambda _, inputs, __: smallest.append(abs(inputs[0]).min() / inputs[0].std()))
    with torch.no_grad():
        network(x)
    return min(tensor.item() for tensor in smallest)


def value(facts: list[Any], metric: str, layer: str | None = None, step: int | None = None) -> float:
    """The one value of a metric (`loss@train` for that of a split), at a step or at the last one."""
    metric, _, split = metric.partition("@")
    means = [f for f in facts if len(f) == 7]  # not those of single examples
    found = [f for f in means if f[5] == metric and f[3] == layer and (not split or f[2] == split)]
    step = max(f[1] for f in found) if step is None else step
    (result,) = (f[6] for f in found if f[1] == step)
    return float(result)


def make(kind: str, function: str, *arguments: Any, **options: Any) -> Any:
    """The object itself: an entry of a registry, called with required options filled in."""
    filled = {k: v for k, v in entry(kind, function, **options).items() if k not in ("name", "function")}
    return registry.load(kind, function)(*arguments, **filled)
