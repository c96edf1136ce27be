"""An activation, an architecture, a loss and a data set from outside the package: named in the study file, nothing of
ours touched. They take part in validation, spec, digest and probes as built-in ones do."""

import json

import pandas as pd
import pytest
import yaml
from sweeps import TABLES, Sweep

from sparsity_cliff.traces import reader

ACTS = """
from torch import nn

def swish(beta): return lambda z: z * (beta * z).sigmoid()

class MyAct(nn.Module):
    def __init__(self, *, beta: float = 1.0):
        super().__init__()
        self.call = swish(beta)
    def forward(self, z): return self.call(z)
"""
NETS = """
from typing import Literal
from torch import nn

ACCEPTS = ("signal",)
LOSSES = ("cross_entropy",)
REQUIRES = ("width > 2",)

class Net(nn.Module):
    def __init__(self, shape, classes, activation, normalization, *, width: int = 8, way: Literal["a", "b"] = "a"):
        super().__init__()
        self.stem = nn.Linear(shape[0], width)
        self.first = activation(-1)
        self.blocks = nn.Linear(width, width)
        self.second = activation(-1)
        self.head = nn.Linear(width, classes)
    def forward(self, x): return self.head(self.second(self.blocks(self.first(self.stem(x)))))
"""
LOSS = """
from torch import nn
import torch.nn.functional as F

class Smoothed(nn.Module):
    def __init__(self, *, share: float = 0.1):
        super().__init__()
        self.share = share
    def forward(self, logits, labels): return F.cross_entropy(logits, labels, label_smoothing=self.share)
"""
DATA = """
import numpy as np

KIND = "signal"
SHAPE = (6,)

def blobs(root, *, spread: float = 1.0):
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (2 * np.eye(3, 6)[y] + spread * random.normal(size=(120, 6))).astype(np.float32)
    return {"x_train": x[:90], "y_train": y[:90], "x_test": x[90:], "y_test": y[90:]}
"""


@pytest.fixture
def extended(fresh: Sweep) -> Sweep:
    """The smoke study's stages, with everything that is trained from `my_lab`."""
    package = fresh.folder / "my_lab"
    package.mkdir()
    for name, text in {"__init__": "", "acts": ACTS, "nets": NETS, "losses": LOSS, "data": DATA}.items():
        (package / f"{name}.py").write_text(text)
    config = yaml.safe_load(fresh.study)
    config["data"] = {"blobs": {"function": "my_lab.data:blobs", "spread": 0.5}}
    config["architectures"] = {
        "net": {
            "model": {"function": "my_lab.nets:Net", "width": 12},
            "data": "blobs",
            "optimizer": {"function": "sgd", "lr": 0.1},
            "steps": 6,
            "batch_size": 16,
        }
    }
    config["activations"] = {"relu": {"function": "relu"}, "mine": {"function": "my_lab.acts:MyAct", "beta": 2}}
    config["losses"] = {"smoothed": {"function": "my_lab.losses:Smoothed", "share": 0.2}}
    config["grid"] = [{"architectures": ["net"], "activations": ["relu", "mine"], "losses": ["smoothed"]}]
    config["cliff"] = {"baseline": "relu", "losses": ["smoothed"]}
    config["drift"] = {"controls": []}
    (fresh.folder / "study.yaml").write_text(yaml.safe_dump(config))
    return fresh


def test_a_study_of_foreign_parts_runs_and_reruns_as_built_in_ones_do(extended: Sweep) -> None:
    extended.snakemake(*TABLES)
    extended.draw_all()
    runs = {name: f"net.{name}.smoothed.real.s0-1" for name in ("relu", "mine")}

    # spec, digest, probes
    table, about = reader.read(extended.results("traces", f"{runs['mine']}.parquet"))
    spec, facts = json.loads(about["spec"]), table.to_pandas()
    assert spec["activation"] == {"name": "mine", "function": "my_lab.acts:MyAct", "beta": 2.0}
    assert (spec["loss"]["share"], spec["data"]["spread"], spec["model"]["way"]) == (0.2, 0.5, "a")
    assert {"my_lab.acts", "my_lab.nets", "my_lab.losses"} <= set(about["code"])
    sites = facts[facts["metric"] == "activation_sparsity"]
    assert set(sites["layer"].dropna()) == {"first", "second"}
    accuracy = facts[(facts["metric"] == "accuracy") & (facts["step"] == 6) & facts["example"].isna()]["value"]
    assert len(accuracy) == 2
    assert accuracy.between(0.34, 1).all()  # it learned: three classes
    status = pd.read_parquet(extended.results("tables", "runs.parquet"))["status"]
    assert set(status) == {"finished"}

    # what re-runs
    assert "Nothing to be done" in extended.snakemake(*TABLES)
    extended.edit("my_lab/acts.py", ("z * (beta * z)", "z  *  (beta * z)"))
    assert extended.trained() == set()
    extended.edit("my_lab/acts.py", ("z  *  (beta", "1.5 * z  *  (beta"))
    assert extended.trained() == {runs["mine"]}
    extended.edit("my_lab/losses.py", ("label_smoothing=self.share", "label_smoothing=self.share / 2"))
    assert extended.trained() == set(runs.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("beta: 2", "gamma: 2", 'activations.mine.gamma: unknown option of my_lab.acts:MyAct "gamma"; valid: beta'),
        ("my_lab.nets:Net", "my_lab.nets:Ney", "module my_lab.nets has no function or class Ney"),
        ("width: 12", "width: 2", "architectures.net: my_lab.nets:Net needs width > 2; got width=2"),
        ("share: 0.2", "share: much", 'losses.smoothed.share: "much" is not valid; valid: a number'),
    ],
)
def test_a_mistake_in_a_foreign_entry_is_one_line(extended: Sweep, old: str, new: str, message: str) -> None:
    extended.edit("study.yaml", (old, new))
    output = extended.snakemake(check=False)
    assert message in output
    assert not extended.results("traces").exists()
