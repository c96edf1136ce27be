"""Validate a study file and expand it into its run table. Imports nothing heavy, because every command runs this."""

import hashlib
from pathlib import Path

from sparsity_cliff.study import contents, grid, reading, source, structure
from sparsity_cliff.study.digests import code
from sparsity_cliff.study.reading import Config, StudyError
from sparsity_cliff.study.sections import CLIFF, DEFAULT, DRIFT, Sections, resolve
from sparsity_cliff.study.spec import Dataset, Study, canonical
from sparsity_cliff.study.structure import unknown


def read(path: str | Path) -> Config:
    """The contents of a study file. Raises StudyError if it is missing, unreadable, or not a YAML mapping."""
    return reading.read(path)[0]


def open_file(path: str | Path) -> Study:
    """The study of a file. Raises StudyError, with one line that names the file and, if known, the line in it."""
    config, lines = reading.read(path)
    try:
        return load(config)
    except StudyError as error:
        where = str(error).partition(": ")[0]
        while where and where not in lines:
            where = where.rpartition(".")[0]
        place = f"line {lines[where]}: " if where else ""
        raise StudyError(f"{reading.shown(path)}: {place}{error}") from error


def load(config: Config) -> Study:
    """The study of a configuration. Raises StudyError, with one line, for anything that cannot be run."""
    try:
        return _load(config)
    except source.SourceError as error:
        raise StudyError(str(error)) from error


def _load(config: Config) -> Study:
    config = dict(structure.numbers(config))
    structure.check(config)
    structure.check_repeats(config)
    sections = resolve(config)
    datasets = _datasets(sections)
    runs = grid.expand(config, sections, datasets)
    used = {run.dataset for run in runs.values()}
    study = Study(
        config["study"]["name"],
        runs,
        {name: data for name, data in datasets.items() if name in used},
        {**CLIFF, **config["cliff"]},
        {**DRIFT, **config["drift"]},
        config,
    )
    _check_analysis(study)
    return study


def _datasets(sections: Sections) -> dict[str, Dataset]:
    datasets = {}
    for name, data in sections.sources.items():
        spec = {key: value for key, value in data.entry.config.items() if key != "name"}
        digests = canonical(code(data.module))
        try:
            files = contents.of_entry(spec)
        except OSError as error:
            raise StudyError(f"data.{name}: {error.filename}: cannot be read ({error.strerror})") from error
        named = canonical(files) if files else ""
        digest = hashlib.sha256(f"{canonical(spec)}{digests}{named}".encode()).hexdigest()[:8]
        datasets[name] = Dataset(name, canonical(spec), digests, files, f"{name}-{digest}.npz")
    return datasets


def _check_analysis(study: Study) -> None:
    """Raise StudyError if the analysis needs something that is not in the run table."""
    config, runs = study.config, study.runs
    activations, losses = ({getattr(run, kind): None for run in runs.values()} for kind in ("activation", "loss"))
    cliff, drift = study.cliff, study.drift
    asked = [("cliff.baseline", cliff["baseline"], activations)]
    asked += [(f"cliff.losses.{i}", name, losses) for i, name in enumerate(cliff["losses"])]
    asked += [(f"drift.controls.{i}", name, activations) for i, name in enumerate(drift["controls"])]
    for where, name, known in asked:
        if name not in known:
            raise StudyError(f"{where}: {unknown(name, list(known), 'name of the grid')}")
    for group in ("activations", "weights"):
        if group not in config["probes"]["measure"]:
            raise StudyError(f"probes.measure: {group} missing; the cliff and the drift need activations and weights")
    curve = [run for run in runs.values() if run.data == "real" and run.loss in cliff["losses"]]
    for architecture in {run.architecture: None for run in curve}:
        own = [run for run in curve if run.architecture == architecture]
        loss = min((run.loss for run in own), key=cliff["losses"].index)
        if not any((r.activation, r.normalization, r.loss) == (cliff["baseline"], DEFAULT, loss) for r in own):
            raise StudyError(
                f"cliff.baseline: {cliff['baseline']} has no run on real data with architecture {architecture}, loss "
                f"{loss} and the architecture's own normalization"
            )
