"""A study file, validated and expanded into its run table. Imports nothing heavy: Snakemake parses this every time."""

import ast
import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from sparsity_cliff import contents, source

SCHEMA_FILE = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"
DEFAULT = "default"  # the name of the architecture's own normalization
#: section of the study file -> kind of registry that its entries' `function` names
SECTIONS = {"data": "data", "activations": "activation", "normalizations": "normalization", "losses": "loss"}
Config = dict[str, Any]


class StudyError(ValueError):
    """A study that cannot be run; the message is one line: where, what, and the valid values."""


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
    name: str
    runs: dict[str, Run]
    datasets: dict[str, Dataset]
    cliff: Config
    drift: Config


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# ------------------------------------------------------------------------------------------------- reading


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error and not a silent override."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *other, whose keys may be overridden
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise StudyError(f"line {key_node.start_mark.line + 1}: key {key!r} stands twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: str | Path) -> Config:
    """The contents of a study file. StudyError where it is missing, unreadable, or not a YAML mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.load(file, Loader=_UniqueKeys)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not a text in UTF-8") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise StudyError(f"{path}: a study file is a mapping of sections")
    return config


_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; a researcher means the number."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        return float(value)
    return value


# ------------------------------------------------------------------------------------------------- validating


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8")))


def _unknown(key: str, valid: list[str], what: str = "key") -> str:
    close = difflib.get_close_matches(str(key), valid, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {what} {key!r}{hint}; valid: {', '.join(valid) or 'none'}"


def _structure(config: Config) -> None:
    """The shape of the study file: sections, keys, types, ranges."""
    errors = sorted(_validator().iter_errors(config), key=lambda e: (len(e.absolute_path), str(e.absolute_path)))
    if not errors:
        return
    error = errors[0]
    where = ".".join(str(part) for part in error.absolute_path)
    dot = f"{where}." if where else ""
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        extra = next(key for key in error.instance if key not in known)
        raise StudyError(f"{dot}{extra}: {_unknown(extra, known)}")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise StudyError(f"{dot}{missing}: missing; {where or 'a study'} needs {', '.join(error.validator_value)}")
    if error.validator == "propertyNames" or error.validator == "pattern":
        raise StudyError(
            f"{where}: {error.instance!r} is not a valid name; valid: a letter, then letters, digits, _ and -"
        )
    value = json.dumps(error.instance, default=str)
    value = value if len(value) <= 60 else f"{value[:57]}..."
    valid = error.schema.get("description") or f"{error.validator} {error.validator_value}"
    raise StudyError(f"{where}: {value} is not valid; valid: {valid}")


def _entry(kind: str, where: str, entry: Config) -> Config:
    """An entry {function, **options} with every option present and of its type."""
    function = entry["function"]
    try:
        known = source.options(kind, function)
    except source.SourceError as error:
        if ":" not in function:
            raise StudyError(f"{where}.function: {_unknown(function, list(source.entries(kind)), kind)}") from error
        raise StudyError(f"{where}.function: {error}") from error
    resolved = {"function": function}
    for key in entry:
        if key != "function" and key not in known:
            raise StudyError(f"{where}.{key}: {_unknown(key, list(known), f'option of {function}')}")
    for name, option in known.items():
        if option.required and name not in entry:
            raise StudyError(f"{where}.{name}: missing; {function} needs it")
        value = entry.get(name, option.default)
        try:
            resolved[name] = source.convert(option.annotation, value)
        except ValueError as error:
            raise StudyError(f"{where}.{name}: {json.dumps(value, default=str)} is not valid; {error}") from error
    return resolved


def _compatible(where: str, architecture: Config, dataset: Config) -> None:
    """What the architecture's file says of itself against the data and the optimizer of the study."""
    model, data = architecture["model"]["function"], dataset["function"]
    accepts = source.constant(source.locate("model", model)[0], "ACCEPTS")
    kind = source.constant(source.locate("data", data)[0], "KIND")
    if accepts is not None and kind not in accepts:
        raise StudyError(f"{where}.data: {model} takes {' or '.join(accepts)} data, and {data} is {kind} data")
    _requirements(where, architecture, dataset, {})


def _requirements(where: str, architecture: Config, dataset: Config, cell: dict[str, str]) -> None:
    """What the model REQUIRES: of the architecture where `cell` is empty, else what concerns the cell of the grid."""
    model = architecture["model"]["function"]
    data_module = source.locate("data", dataset["function"])[0]
    image = source.constant(data_module, "KIND") == "image"
    shape = source.constant(data_module, "SHAPE", ())
    names = {"vocabulary": source.constant(data_module, "VOCABULARY", 0), **dataset}
    names |= dict(zip(("channels", "height", "length") if image else ("length",), shape, strict=False))
    training = architecture["training"]
    names |= {"optimizer": training["optimizer"]["function"], "processes": training["processes"]}
    names |= {**architecture["model"], **cell}
    for requirement in source.constant(source.locate("model", model)[0], "REQUIRES", ()):
        words = [node.id for node in ast.walk(ast.parse(requirement)) if isinstance(node, ast.Name)]
        if bool(cell) != any(word in words for word in ("loss", "activation", "normalization", "over")):
            continue
        if any(word not in names for word in words):
            continue  # the data do not say so much of themselves; the constructor will
        if not eval(requirement, {"__builtins__": {}}, names):  # our own or the user's own constant, not study text
            used = ", ".join(f"{name}={names[name]}" for name in dict.fromkeys(words))
            raise StudyError(f"{where}: {model} needs {requirement}; here {used}")


def _shareable(where: str, processes: int, normalization: Config, loss: Config, device: str) -> None:
    """Processes that share a batch see a part of it each: what would train another network so is refused."""
    if processes == 1:
        return
    function, problem = normalization["function"], None
    module, name = source.locate("normalization", function) if function else ("", "")
    if function and name in source.constant(module, "OVER_BATCH", ()):
        problem = f"the statistics of {function} are those of the whole batch"
    elif loss["function"] == "mpsenet" and loss["metric"]:
        problem = "the discriminator of mpsenet learns from the whole batch"
    elif device == "mps":
        problem = "study.device mps has one device"
    if problem:
        raise StudyError(f"{where}: processes={processes} share each batch, and {problem}; valid: processes: 1")


def _whole(value: float | None) -> int | None:
    """YAML's 1e2 is a float."""
    return None if value is None else int(value)


def _architecture(where: str, section: Config, datasets: dict[str, Config]) -> Config:
    """An architecture's entry, resolved: model, data, training."""
    if section["data"] not in datasets:
        raise StudyError(f"{where}.data: {_unknown(section['data'], list(datasets), 'data set')}")
    batch_size, processes = int(section["batch_size"]), int(section.get("processes", 1))
    if processes > batch_size:
        raise StudyError(f"{where}.processes: {processes} is not valid; valid: at most batch_size, here {batch_size}")
    training = {
        "steps": int(section["steps"]),
        "batch_size": batch_size,
        "microbatch": _whole(section.get("microbatch")),
        "processes": processes,
        "precision": section.get("precision", "float32"),
        "optimizer": _entry("optimizer", f"{where}.optimizer", section["optimizer"]),
        "schedule": _entry("schedule", f"{where}.schedule", section.get("schedule", {"function": "constant"})),
    }
    resolved = {"model": _entry("model", f"{where}.model", section["model"]), "data": section["data"]}
    resolved |= {"training": training, "probes": section.get("probes", {})}
    _compatible(where, resolved, datasets[section["data"]])
    return resolved


def _seeds(where: str, blocks: list[int | str]) -> list[tuple[int, ...]]:
    """Blocks of seeds: 7 is one seed, "0-2" three that one job trains one after another."""
    found: list[tuple[int, ...]] = []
    for block in blocks:
        first, _, last = str(block).partition("-")
        seeds = tuple(range(int(first), int(last or first) + 1))
        if not seeds:
            raise StudyError(f"{where}: {block!r} is empty; valid: a seed, or first-last with first <= last")
        for other in found:
            if set(other) & set(seeds):
                raise StudyError(f"{where}: seed {min(set(other) & set(seeds))} stands in two blocks")
        found.append(seeds)
    return found


# ------------------------------------------------------------------------------------------------- expanding


def _block_of(seeds: tuple[int, ...]) -> str:
    return f"s{seeds[0]}" if len(seeds) == 1 else f"s{seeds[0]}-{seeds[-1]}"


def _functions(spec: Config) -> frozenset[tuple[str, str]]:
    """(kind, function) of all that a run looks up in the registries."""
    found = {
        ("activation", spec["activation"]["function"]),
        ("loss", spec["loss"]["function"]),
        ("data", spec["data"]["function"]),
        ("model", spec["model"]["function"]),
        ("optimizer", spec["training"]["optimizer"]["function"]),
        ("schedule", spec["training"]["schedule"]["function"]),
    }
    if spec["normalization"]["function"]:
        found.add(("normalization", spec["normalization"]["function"]))
    for name, option in source.options("activation", spec["activation"]["function"]).items():
        if option.annotation == "ActivationName":
            found.add(("activation", spec["activation"][name]))
    return frozenset(found)


def _code(functions: frozenset[tuple[str, str]]) -> str:
    return canonical(source.code("sparsity_cliff.train", functions))


def load(config: Config) -> Study:
    """The study of a configuration. StudyError, one line, for anything that could not be run as written."""
    try:
        return _load(config)
    except source.SourceError as error:
        raise StudyError(str(error)) from error


def _load(config: Config) -> Study:
    config = dict(_numbers(config))
    _structure(config)
    sections: dict[str, dict[str, Config]] = {
        section: {name: _entry(kind, f"{section}.{name}", entry) for name, entry in config.get(section, {}).items()}
        for section, kind in SECTIONS.items()
    }
    if DEFAULT in sections["normalizations"]:
        raise StudyError(f"normalizations.{DEFAULT}: this name is kept for the architecture's own normalization")
    sections["normalizations"][DEFAULT] = {"function": None}
    architectures = {
        name: _architecture(f"architectures.{name}", section, sections["data"])
        for name, section in config["architectures"].items()
    }
    datasets = {}
    for name, entry in sections["data"].items():
        code = canonical(source.code(source.locate("data", entry["function"])[0]))
        try:
            files = contents.of_entry(entry)
        except OSError as error:
            raise StudyError(f"data.{name}: {error.filename}: cannot be read ({error.strerror})") from error
        named = canonical(files) if files else ""
        digest = hashlib.sha256(f"{canonical(entry)}{code}{named}".encode()).hexdigest()[:8]
        datasets[name] = Dataset(name, canonical(entry), code, files, f"{name}-{digest}.npz")

    runs: dict[str, Run] = {}
    origin: dict[tuple[str, int], int] = {}  # cell and seed -> block of the grid
    for number, block in enumerate(config["grid"]):
        for labels, seeds in _cells(f"grid.{number}", block, config, sections, architectures):
            run = _run(labels, seeds, config, sections, architectures, datasets)
            for seed in seeds:
                cell = (".".join(labels.values()), seed)
                if cell in origin:
                    raise StudyError(f"grid.{number}: run {run.id} is in grid.{origin[cell]} already (seed {seed})")
                origin[cell] = number
            runs[run.id] = run
    used = {run.dataset for run in runs.values()}
    _analysis(config, runs)
    return Study(
        config["study"]["name"],
        runs,
        {name: data for name, data in datasets.items() if name in used},
        {"level": 0.95, "resamples": 1000, **config["cliff"]},
        {"level": 0.95, **config["drift"]},
    )


def _cells(
    where: str, block: Config, config: Config, sections: dict[str, Any], architectures: dict[str, Config]
) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """(labels, seeds) of the full cross product of one block of the grid."""
    axes: list[tuple[str, str, Any, list[str]]] = [  # key of the block, what it names, the known names, the default
        ("architectures", "architecture", architectures, []),
        ("activations", "activation", sections["activations"], []),
        ("normalizations", "normalization", sections["normalizations"], [DEFAULT]),
        ("losses", "loss", sections["losses"], []),
        ("data", "data", ("real", "random"), ["real"]),
    ]
    chosen = {label: block.get(key, default) for key, label, _, default in axes}
    for key, label, known, _ in axes:
        for name in chosen[label]:
            if name not in known:
                raise StudyError(f"{where}.{key}: {_unknown(name, list(known), label)}")
    own = "seeds" in block
    blocks = _seeds(f"{where}.seeds" if own else "study.seeds", block["seeds"] if own else config["study"]["seeds"])
    for cell in itertools.product(*chosen.values()):
        labels = dict(zip(chosen, cell, strict=True))
        model = architectures[labels["architecture"]]["model"]["function"]
        valid = source.constant(source.locate("model", model)[0], "LOSSES")
        loss = sections["losses"][labels["loss"]]["function"]
        if valid is not None and loss not in valid and ":" not in loss:
            raise StudyError(
                f"{where}: loss {labels['loss']} ({loss}) is impossible for architecture {labels['architecture']} "
                f"({model}); valid: {', '.join(valid)}"
            )
        _requirements(
            f"{where}: {' · '.join(labels.values())}",
            architectures[labels["architecture"]],
            sections["data"][architectures[labels["architecture"]]["data"]],
            {
                "loss": loss,
                "activation": sections["activations"][labels["activation"]]["function"],
                "normalization": sections["normalizations"][labels["normalization"]]["function"],
                "over": sections["activations"][labels["activation"]].get("over"),
            },
        )
        _shareable(
            f"{where}: {' · '.join(labels.values())}",
            architectures[labels["architecture"]]["training"]["processes"],
            sections["normalizations"][labels["normalization"]],
            sections["losses"][labels["loss"]],
            config["study"].get("device", "auto"),
        )
        for seeds in blocks:
            yield labels, seeds


def _run(
    labels: dict[str, str],
    seeds: tuple[int, ...],
    config: Config,
    sections: dict[str, Any],
    architectures: dict[str, Config],
    datasets: dict[str, Dataset],
) -> Run:
    architecture = architectures[labels["architecture"]]
    files = datasets[architecture["data"]].contents
    spec = {
        "architecture": {"name": labels["architecture"]},
        "model": architecture["model"],
        "activation": {"name": labels["activation"], **sections["activations"][labels["activation"]]},
        "normalization": {
            "name": labels["normalization"],
            **sections["normalizations"][labels["normalization"]],
        },
        "loss": {"name": labels["loss"], **sections["losses"][labels["loss"]]},
        "data": {
            "name": architecture["data"],
            "axis": labels["data"],
            **sections["data"][architecture["data"]],
            **({"contents": files} if files else {}),
        },
        "training": architecture["training"],
        "probes": {
            "every": int(architecture["probes"].get("every", config["probes"]["every"])),
            "examples": _whole(architecture["probes"].get("examples", config["probes"].get("examples"))),
            "measure": sorted(config["probes"]["measure"]),
        },
        "device": config["study"].get("device", "auto"),
        "seeds": seeds,
    }
    parts = [
        labels["architecture"],
        labels["activation"],
        labels["normalization"],
        labels["loss"],
        labels["data"],
    ]
    name = ".".join([*(part for part in parts if part != DEFAULT), _block_of(seeds)])
    processes = architecture["training"]["processes"]
    return Run(
        id=name,
        seeds=seeds,
        dataset=architecture["data"],
        spec=canonical(spec),
        code=_code(_functions(spec)),
        processes=processes,
        gpus=processes if spec["device"] == "cuda" else 0,
        **labels,
    )


def _analysis(config: Config, runs: dict[str, Run]) -> None:
    """What the analysis asks for must be in the run table."""
    activations, losses = ({getattr(run, kind): None for run in runs.values()} for kind in ("activation", "loss"))
    cliff, drift = config["cliff"], config["drift"]
    asked = [("cliff.baseline", cliff["baseline"], activations)]
    asked += [(f"cliff.losses.{i}", name, losses) for i, name in enumerate(cliff["losses"])]
    asked += [(f"cliff.exclude.{i}", name, activations) for i, name in enumerate(cliff.get("exclude", []))]
    asked += [(f"drift.controls.{i}", name, activations) for i, name in enumerate(drift["controls"])]
    for where, name, known in asked:
        if name not in known:
            raise StudyError(f"{where}: {_unknown(name, list(known), 'name of the grid')}")
    for group in ("activations", "weights"):
        if group not in config["probes"]["measure"]:
            raise StudyError(f"probes.measure: {group} missing; the cliff and the drift need activations and weights")
    if cliff["baseline"] in cliff.get("exclude", []):
        raise StudyError(f"cliff.exclude: {cliff['baseline']} is the baseline; it must be a point of the curve")
    level, resamples = cliff.get("level", 0.95), cliff.get("resamples", 1000)
    selected = source.constant("sparsity_cliff.cliff", "SELECTED")
    fewest = round(5 / (selected * (1 - level)))  # what the estimator asks for, said before any run trains
    if resamples < fewest:
        raise StudyError(f"cliff.resamples: {resamples} are too few for level {level}; valid: {fewest} or more")
    curve = [run for run in runs.values() if run.data == "real" and run.loss in cliff["losses"]]
    for architecture in {run.architecture: None for run in curve}:
        own = [run for run in curve if run.architecture == architecture]
        loss = min((run.loss for run in own), key=cliff["losses"].index)
        if not any((r.activation, r.normalization, r.loss) == (cliff["baseline"], DEFAULT, loss) for r in own):
            raise StudyError(
                f"cliff.baseline: {cliff['baseline']} has no run on real data with architecture {architecture}, loss "
                f"{loss} and the architecture's own normalization"
            )
