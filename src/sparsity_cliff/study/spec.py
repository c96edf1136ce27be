"""What the run table holds: data sets, runs, and the spec of a run, whose one text is canonical JSON.

A spec is all that a run's numbers depend on besides code. Training reads it as the frozen dataclasses below.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Entry:
    """What a study names: `function` of a registry (None: the architecture's own normalization) with its options.

    name: what the study calls it, None where it has no name there.
    """

    function: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Entry":
        """From {function, **options} or {name, function, **options}."""
        options = {key: value for key, value in config.items() if key not in ("name", "function")}
        return Entry(config["function"], options, config.get("name"))

    @property
    def config(self) -> Config:
        named = {} if self.name is None else {"name": self.name}
        return {**named, "function": self.function, **self.options}


@dataclass(frozen=True)
class Data:
    """A data set and how a run uses it.

    axis: real, or random for inputs and targets without any relation. contents: path that the entry names -> digest.
    """

    entry: Entry
    axis: str
    contents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """steps: optimizer steps. batch_size, microbatch: examples. processes: how many share each batch."""

    steps: int
    batch_size: int
    microbatch: int | None
    processes: int
    precision: str  # float32 or bfloat16
    optimizer: Entry
    schedule: Entry

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Training":
        entries = {key: Entry.of(config[key]) for key in ("optimizer", "schedule")}
        return Training(**{**config, **entries})

    @property
    def config(self) -> Config:
        return {**vars(self), "optimizer": self.optimizer.config, "schedule": self.schedule.config}


@dataclass(frozen=True)
class Probing:
    """every: steps between measurements, once they are regular. examples: held-out ones measured before the last step,
    None for all. measure: groups of probes, sorted."""

    every: int
    examples: int | None
    measure: tuple[str, ...]

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Probing":
        return Probing(config["every"], config["examples"], tuple(config["measure"]))


@dataclass(frozen=True)
class Spec:
    """All that the numbers of a run depend on, besides code. `text` is its canonical JSON, `of_text` reads that."""

    architecture: str
    model: Entry
    activation: Entry
    normalization: Entry
    loss: Entry
    data: Data
    training: Training
    probes: Probing
    device: str
    seeds: tuple[int, ...]

    @property
    def text(self) -> str:
        contents = {"contents": self.data.contents} if self.data.contents else {}
        return canonical(
            {
                "architecture": {"name": self.architecture},
                "model": self.model.config,
                "activation": self.activation.config,
                "normalization": self.normalization.config,
                "loss": self.loss.config,
                "data": {**self.data.entry.config, "axis": self.data.axis, **contents},
                "training": self.training.config,
                "probes": vars(self.probes),
                "device": self.device,
                "seeds": self.seeds,
            }
        )

    @staticmethod
    def of_text(text: str) -> "Spec":
        config = json.loads(text)
        data = config["data"]
        entry = Entry.of({key: value for key, value in data.items() if key not in ("axis", "contents")})
        return Spec(
            architecture=config["architecture"]["name"],
            model=Entry.of(config["model"]),
            activation=Entry.of(config["activation"]),
            normalization=Entry.of(config["normalization"]),
            loss=Entry.of(config["loss"]),
            data=Data(entry, data["axis"], data.get("contents", {})),
            training=Training.of(config["training"]),
            probes=Probing.of(config["probes"]),
            device=config["device"],
            seeds=tuple(config["seeds"]),
        )


@dataclass(frozen=True)
class Dataset:
    """One data set of the study. `file` is its name under results/data: equal contents, equal name."""

    name: str
    spec: str  # canonical JSON
    code: str  # canonical JSON, module -> digest
    contents: dict[str, str]  # path that the entry names -> digest of what is there
    file: str


@dataclass(frozen=True)
class Run:
    """One training job: a cell of the grid with a block of seeds."""

    id: str
    architecture: str
    activation: str
    normalization: str
    loss: str
    data: str  # real or random
    seeds: tuple[int, ...]
    dataset: str
    spec: str  # canonical JSON of all that the run depends on
    code: str  # canonical JSON, module -> digest
    processes: int  # that share each batch
    gpus: int  # that the job asks for


@dataclass(frozen=True)
class Study:
    """A study file, validated: what it runs, and the settings of its analysis with every default written out."""

    name: str
    runs: dict[str, Run]
    datasets: dict[str, Dataset]
    cliff: Config
    drift: Config
    config: Config  # all of the study file, numbers normalized
