"""Resolve the sections of a study file: fill in every default, convert every option to its type, and find every name.

This file holds the defaults of all keys that are not options of a function.
"""

from dataclasses import dataclass
from typing import Any

from sparsity_cliff.study import options, source
from sparsity_cliff.study.reading import Config, StudyError
from sparsity_cliff.study.requirements import judged, requirement, words
from sparsity_cliff.study.spec import Entry, Training
from sparsity_cliff.study.structure import shown, unknown

DEFAULT = "default"  # name of the architecture's own normalization
STUDY = {"device": "auto"}
TRAINING = {"microbatch": None, "processes": 1, "precision": "float32", "schedule": {"function": "constant"}}
PROBES = {"examples": None}
CLIFF = {"level": 0.95}
DRIFT = {"level": 0.95}
#: section of the study file -> kind of registry that its entries' `function` names
KINDS = {"activations": "activation", "normalizations": "normalization", "losses": "loss"}


@dataclass(frozen=True)
class Source:
    """A data set of the study, with the constants that its module defines.

    kind: kind of its examples, a key of sparsity_cliff.data.layouts.KINDS. examples, held_out: number of examples, None
    if the module does not state it.
    """

    name: str
    entry: Entry
    module: str
    kind: str
    examples: int | None
    held_out: int | None


@dataclass(frozen=True)
class Architecture:
    """An architecture of the study. probes: settings that override those of the study."""

    name: str
    model: Entry
    source: Source
    training: Training
    probes: Config

    @property
    def module(self) -> str:
        """The module of the model."""
        return source.locate("model", str(self.model.function))[0]


@dataclass(frozen=True)
class Sections:
    """Everything that the grid of a study can name, and the settings of the whole study."""

    architectures: dict[str, Architecture]
    activations: dict[str, Entry]
    normalizations: dict[str, Entry]
    losses: dict[str, Entry]
    sources: dict[str, Source]
    probes: Config
    device: str


def resolve(config: Config) -> Sections:
    """Resolve the sections of a study whose shape is valid. Raises StudyError, with one line, for the first error."""
    named = {
        section: {name: entry(kind, f"{section}.{name}", each, name) for name, each in config.get(section, {}).items()}
        for section, kind in KINDS.items()
    }
    if DEFAULT in named["normalizations"]:
        raise StudyError(f"normalizations.{DEFAULT}: this name is reserved for the architecture's own normalization")
    named["normalizations"][DEFAULT] = Entry(None, name=DEFAULT)
    sources = {name: _source(f"data.{name}", each, name) for name, each in config["data"].items()}
    architectures = {
        name: _architecture(f"architectures.{name}", name, section, sources)
        for name, section in config["architectures"].items()
    }
    sizes = [architecture.source.held_out for architecture in architectures.values()]
    most = None if None in sizes else max(size for size in sizes if size is not None)
    probes = {**PROBES, **config["probes"]}
    _at_most("probes.examples", probes["examples"], most, "held-out examples of the largest data set")
    device = {**STUDY, **config["study"]}["device"]
    return Sections(architectures, **named, sources=sources, probes=probes, device=device)


def entry(kind: str, where: str, config: Config, name: str | None = None) -> Entry:
    """Resolve an entry {function, **options}: every option is present and has its type. Raises StudyError."""
    function = config["function"]
    try:
        known = options.options_of(kind, function)
    except source.SourceError as error:
        if ":" not in function:
            raise StudyError(f"{where}.function: {unknown(function, list(source.entries(kind)), kind)}") from error
        raise StudyError(f"{where}.function: {error}") from error
    for key in config:
        if key != "function" and key not in known:
            raise StudyError(f"{where}.{key}: {unknown(key, list(known), f'option of {function}')}")
    resolved = {}
    for key, option in known.items():
        if option.required and key not in config:
            raise StudyError(f"{where}.{key}: missing; {function} needs it")
        value = config.get(key, option.default)
        try:
            resolved[key] = options.convert(option.annotation, value)
        except ValueError as error:
            raise StudyError(f"{where}.{key}: {shown(value)} is not valid; {error}") from error
    return Entry(function, resolved, name)


def _source(where: str, config: Config, name: str) -> Source:
    """Resolve a data set, and check the KIND and REQUIRES of its module."""
    found = entry("data", where, config, name)
    function = str(found.function)
    module, _ = source.locate("data", function)
    kind, kinds = source.constant(module, "KIND"), source.constant("sparsity_cliff.data.layouts", "KINDS")
    if kind not in kinds:
        says = "defines no KIND" if kind is None else f"defines KIND = {kind!r}"
        raise StudyError(f"{where}.function: {module} {says}; valid: {', '.join(kinds)}")
    for text in source.words(module, "REQUIRES"):
        if all(word in found.options for word in words(where, module, text)):  # else it is another source's
            requirement(where, function, module, text, found.options)
    sizes = [judged(f"{module}.EXAMPLES", size, found.options) for size in source.words(module, "EXAMPLES")]
    examples, held_out = sizes if len(sizes) == 2 else (None, None)
    return Source(name, found, module, kind, examples, held_out)


def _architecture(where: str, name: str, section: Config, sources: dict[str, Source]) -> Architecture:
    """Resolve an architecture: model, data, and training."""
    if section["data"] not in sources:
        raise StudyError(f"{where}.data: {unknown(section['data'], list(sources), 'data set')}")
    data = sources[section["data"]]
    given = {**TRAINING, **section}
    settings: dict[str, Any] = {key: given[key] for key in ("steps", "batch_size", "microbatch", "processes")}
    optimizer = entry("optimizer", f"{where}.optimizer", given["optimizer"])
    schedule = entry("schedule", f"{where}.schedule", given["schedule"])
    training = Training(**settings, precision=given["precision"], optimizer=optimizer, schedule=schedule)
    model = entry("model", f"{where}.model", section["model"])
    architecture = Architecture(name, model, data, training, section.get("probes", {}))
    accepts = source.words(architecture.module, "ACCEPTS")
    if accepts and data.kind not in accepts:
        raise StudyError(
            f"{where}.data: {model.function} takes {' or '.join(accepts)} data, but {data.entry.function} is "
            f"{data.kind} data"
        )
    require(where, architecture, {})
    _at_most(f"{where}.processes", training.processes, training.batch_size, "batch_size")
    _at_most(f"{where}.microbatch", training.microbatch, training.batch_size, "batch_size")
    _at_most(f"{where}.batch_size", training.batch_size, data.examples, f"training examples of {data.name}")
    held_out = f"held-out examples of {data.name}"
    _at_most(f"{where}.probes.examples", architecture.probes.get("examples"), data.held_out, held_out)
    if ":" not in str(schedule.function) and (warmup := schedule.options["warmup"]) >= training.steps:
        raise StudyError(f"{where}.schedule.warmup: {warmup} is not valid; valid: below {training.steps} (steps)")
    return architecture


def require(where: str, architecture: Architecture, cell: dict[str, str | None]) -> None:
    """Raise StudyError if a requirement of the model (REQUIRES) is not met.

    cell: the functions of a cell of the grid, to check the requirements that name them; empty to check those that
    concern the architecture alone. A requirement that uses a name without a known value is left to the constructor.
    """
    module, data = architecture.module, architecture.source
    shape = source.constant(data.module, "SHAPE", ())
    if not isinstance(shape, tuple | list):
        raise StudyError(f"{where}: {data.module}.SHAPE is {shape!r}; valid: a tuple of integers, such as (40,)")
    axes = ("channels", "height", "length") if data.kind == "image" else ("length",)
    names = {"vocabulary": source.constant(data.module, "VOCABULARY", 0), **data.entry.options}
    names |= dict(zip(axes, shape, strict=False))
    training = architecture.training
    names |= {"optimizer": training.optimizer.function, "processes": training.processes}
    names |= {**architecture.model.options, **cell}
    for text in source.words(module, "REQUIRES"):
        used = words(where, module, text)
        if bool(cell) != any(word in used for word in ("loss", "activation", "normalization", "over")):
            continue
        if all(word in names for word in used):
            requirement(where, str(architecture.model.function), module, text, names)


def _at_most(where: str, value: int | None, most: int | None, what: str) -> None:
    if value is not None and most is not None and value > most:
        raise StudyError(f"{where}: {value} is not valid; valid: at most {most} ({what})")
