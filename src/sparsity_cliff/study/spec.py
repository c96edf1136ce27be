"""The contents of a run table: data sets, runs, and the spec of each run.

A spec holds everything that a run's numbers depend on besides code. It is stored as canonical JSON, and training reads
it as the frozen dataclasses below.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


def canonical(value: Any) -> str:
    """The canonical JSON of a value, with sorted keys and without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Entry:
    """An entry of a study: a function of a registry with its options.

    function: None for the architecture's own normalization. name: its name in the study, None if it has none.
    """

    function: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Entry":
        """The entry of a mapping {function, **options} or {name, function, **options}."""
        options = {key: value for key, value in config.items() if key not in ("name", "function")}
        return Entry(config["function"], options, config.get("name"))

    @property
    def config(self) -> Config:
        """The entry as a mapping, the inverse of `of`."""
        named = {} if self.name is None else {"name": self.name}
        return {**named, "function": self.function, **self.options}


@dataclass(frozen=True)
class Data:
    """A data set and how a run uses it.

    axis: real, or random (inputs and targets are unrelated). contents: path in the entry -> digest.
    """

    entry: Entry
    axis: str
    contents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """Training settings.

    steps: optimizer steps. batch_size, microbatch: examples. processes: number of processes that share each batch.
    """

    steps: int
    batch_size: int
    microbatch: int | None
    processes: int
    precision: str  # float32 or bfloat16
    optimizer: Entry
    schedule: Entry

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Training":
        """The settings of a mapping."""
        entries = {key: Entry.of(config[key]) for key in ("optimizer", "schedule")}
        return Training(**{**config, **entries})

    @property
    def config(self) -> Config:
        """The settings as a mapping, the inverse of `of`."""
        return {**vars(self), "optimizer": self.optimizer.config, "schedule": self.schedule.config}


@dataclass(frozen=True)
class Probing:
    """Measurement settings.

    every: steps between measurements, once they are regular. examples: held-out examples that are measured before the
    last step, None for all. measure: groups of probes, sorted.
    """

    every: int
    examples: int | None
    measure: tuple[str, ...]

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Probing":
        """The settings of a mapping."""
        return Probing(config["every"], config["examples"], tuple(config["measure"]))


@dataclass(frozen=True)
class Spec:
    """Everything that a run's numbers depend on besides code."""

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
        """The spec as canonical JSON."""
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
        """The spec of a canonical JSON, the inverse of `text`."""
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
    """A data set of the study. `file` is its name under results/data; equal contents have equal names."""

    name: str
    spec: str  # canonical JSON
    code: str  # canonical JSON, module -> digest
    contents: dict[str, str]  # path in the entry -> digest
    file: str


@dataclass(frozen=True)
class Run:
    """A training job: a cell of the grid with a block of seeds."""

    id: str
    architecture: str
    activation: str
    normalization: str
    loss: str
    data: str  # real or random
    seeds: tuple[int, ...]
    dataset: str
    spec: str  # canonical JSON
    code: str  # canonical JSON, module -> digest
    processes: int  # number of processes that share each batch
    gpus: int  # number of GPUs that the job requests


@dataclass(frozen=True)
class Study:
    """A validated study: its runs, and the settings of its analysis with all defaults."""

    name: str
    runs: dict[str, Run]
    datasets: dict[str, Dataset]
    cliff: Config
    drift: Config
    config: Config  # the whole study file, with normalized numbers
