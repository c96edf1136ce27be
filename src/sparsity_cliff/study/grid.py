"""Expand the grid of a study, whose blocks hold cells and seeds, into runs."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsity_cliff.study import options, source
from sparsity_cliff.study.digests import code
from sparsity_cliff.study.options import LARGEST
from sparsity_cliff.study.reading import Config, StudyError
from sparsity_cliff.study.sections import DEFAULT, Architecture, Sections, require
from sparsity_cliff.study.spec import Data, Dataset, Entry, Probing, Run, Spec, canonical
from sparsity_cliff.study.structure import unknown

# limits of a study, about ten times what Snakemake handles well
RUNS, BLOCK, TRAININGS = 20_000, 10_000, 200_000
LONGEST = 200  # characters of a run's id; file names add to it and may have 255
ROOTS = ("sparsity_cliff.training.loop", "sparsity_cliff.data.loading")  # the code behind a run's numbers


@dataclass(frozen=True)
class Cell:
    """One combination of a block of the grid."""

    architecture: Architecture
    activation: Entry
    normalization: Entry
    loss: Entry
    data: str  # real or random

    @property
    def labels(self) -> dict[str, str]:
        """Part -> its name in the study."""
        entries = {"activation": self.activation, "normalization": self.normalization, "loss": self.loss}
        names = {key: str(entry.name) for key, entry in entries.items()}
        return {"architecture": self.architecture.name, **names, "data": self.data}


def expand(config: Config, sections: Sections, datasets: dict[str, Dataset]) -> dict[str, Run]:
    """Run id -> run, for all blocks. Raises StudyError for invalid or duplicate cells, and for too many."""
    runs: dict[str, Run] = {}
    origin: dict[tuple[str, int], int] = {}  # cell and seed -> block of the grid
    for number, block in enumerate(config["grid"]):
        where = f"grid.{number}"
        of, section = (where, block) if "seeds" in block else ("study", config["study"])
        blocks = blocks_of_seeds(f"{of}.seeds", section["seeds"])
        cells = [(cell, ".".join(cell.labels.values()), _code(cell)) for cell in _cells(where, block, sections, blocks)]
        for (cell, name, text), seeds in itertools.product(cells, blocks):
            run = _run(cell, seeds, text, sections, datasets)
            for seed in seeds:
                if (name, seed) in origin:
                    raise StudyError(f"{where}: run {run.id} is already in grid.{origin[name, seed]} (seed {seed})")
                origin[name, seed] = number
            runs[run.id] = run
        if len(runs) > RUNS or len(origin) > TRAININGS:
            raise StudyError(f"{where}: too many runs; valid: at most {RUNS} runs and {TRAININGS} trainings")
    return runs


def blocks_of_seeds(where: str, blocks: list[int | str]) -> list[tuple[int, ...]]:
    """Blocks of seeds: 7 is one seed, and "0-2" is three seeds that one job trains one after another.

    Raises StudyError for an empty block, a seed out of range, or a seed in two blocks.
    """
    found: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for number, block in enumerate(blocks):
        first, _, last = str(block).partition("-")
        low, high = int(first), int(last or first)
        if high < low:
            raise StudyError(f"{where}.{number}: {block!r} is empty; valid: a seed, or first-last with first <= last")
        if high > LARGEST:
            raise StudyError(f"{where}.{number}: {block!r} is not valid; valid: seeds from 0 to {LARGEST}")
        if high - low >= BLOCK:
            raise StudyError(f"{where}.{number}: {block!r} is not valid; valid: at most {BLOCK} seeds in a block")
        seeds = tuple(range(low, high + 1))
        if common := seen.intersection(seeds):
            raise StudyError(f"{where}: seed {min(common)} appears in two blocks")
        seen.update(seeds)
        found.append(seeds)
    return found


def _cells(where: str, block: Config, sections: Sections, blocks: list[tuple[int, ...]]) -> Iterator[Cell]:
    """The full cross product of one block of the grid."""
    known: dict[str, dict[str, Any]] = {
        "architectures": sections.architectures,
        "activations": sections.activations,
        "normalizations": sections.normalizations,
        "losses": sections.losses,
        "data": {name: name for name in ("real", "random")},
    }
    chosen = {"normalizations": [DEFAULT], "data": ["real"], **block}
    words = {"architectures": "architecture", "losses": "loss", "data": "data"}
    for axis, named in known.items():
        for name in chosen[axis]:
            if name not in named:
                raise StudyError(f"{where}.{axis}: {unknown(name, list(named), words.get(axis, axis[:-1]))}")
    count = math.prod(len(chosen[axis]) for axis in known)
    for size, most, what in (
        (count * len(blocks), RUNS, "runs"),
        (count * sum(map(len, blocks)), TRAININGS, "trainings"),
    ):
        if size > most:
            raise StudyError(f"{where}: {size} {what} are too many; valid: at most {most} in a block of the grid")
    for names in itertools.product(*(chosen[axis] for axis in known)):
        parts = [known[axis][name] for axis, name in zip(known, names, strict=True)]
        cell = Cell(*parts)
        _possible(where, cell, sections.device)
        yield cell


def _possible(where: str, cell: Cell, device: str) -> None:
    """Raise StudyError if the parts of a cell cannot be trained together."""
    architecture, loss = cell.architecture, str(cell.loss.function)
    valid = source.words(architecture.module, "LOSSES")
    if valid and loss not in valid and ":" not in loss:
        raise StudyError(
            f"{where}: loss {cell.loss.name} ({loss}) is not valid for architecture {architecture.name} "
            f"({architecture.model.function}); valid: {', '.join(valid)}"
        )
    where = f"{where}: {' · '.join(cell.labels.values())}"
    functions = {"loss": loss, "activation": cell.activation.function, "normalization": cell.normalization.function}
    require(where, architecture, {**functions, "over": cell.activation.options.get("over")})
    processes = architecture.training.processes
    problem = _needs_whole_batch(cell) or ("study.device mps has one device" if device == "mps" else "")
    if processes > 1 and problem:
        raise StudyError(f"{where}: processes={processes} share each batch, but {problem}; valid: processes: 1")


def _needs_whole_batch(cell: Cell) -> str:
    """Why a cell cannot be trained by processes that each see a part of the batch; "" if it can.

    Modules define constants for this. OVER_BATCH lists the functions that take statistics over the batch.
    LEARNS_FROM_BATCH maps functions to an option that, when it is not 0, makes them learn from the batch.
    """
    if cell.normalization.function:
        module, name = source.locate("normalization", cell.normalization.function)
        if name in source.words(module, "OVER_BATCH"):
            return f"{cell.normalization.function} takes its statistics over the whole batch"
    module, name = source.locate("loss", str(cell.loss.function))
    learning = source.constant(module, "LEARNS_FROM_BATCH", {})
    option = learning.get(name) if isinstance(learning, dict) else None
    if option and cell.loss.options.get(option):
        return f"{cell.loss.function} with {option}={cell.loss.options[option]} learns from the whole batch"
    return ""


def _run(cell: Cell, seeds: tuple[int, ...], text: str, sections: Sections, datasets: dict[str, Dataset]) -> Run:
    """The run of a cell with a block of seeds. text: its code."""
    architecture, labels = cell.architecture, cell.labels
    data = architecture.source
    probes = {**sections.probes, **architecture.probes}
    spec = Spec(
        architecture=architecture.name,
        model=architecture.model,
        activation=cell.activation,
        normalization=cell.normalization,
        loss=cell.loss,
        data=Data(data.entry, cell.data, datasets[data.name].contents),
        training=architecture.training,
        probes=Probing(probes["every"], probes["examples"], tuple(sorted(probes["measure"]))),
        device=sections.device,
        seeds=seeds,
    )
    block = f"s{seeds[0]}" if len(seeds) == 1 else f"s{seeds[0]}-{seeds[-1]}"
    parts = [labels[key] for key in ("architecture", "activation", "normalization", "loss", "data")]
    name = ".".join([*(part for part in parts if part != DEFAULT), block])
    if len(name) > LONGEST:
        raise StudyError(
            f"grid: run {name} has {len(name)} characters in its id; valid: at most {LONGEST}, with shorter names"
        )
    processes = architecture.training.processes
    return Run(
        id=name,
        seeds=seeds,
        dataset=data.name,
        spec=spec.text,
        code=text,
        processes=processes,
        gpus=processes if spec.device == "cuda" else 0,
        **labels,
    )


def _code(cell: Cell) -> str:
    """The code that the runs of a cell reach, whatever their seeds: canonical JSON, module -> digest."""
    architecture, activation = cell.architecture, cell.activation
    entries = {"activation": activation, "normalization": cell.normalization, "loss": cell.loss}
    entries |= {"model": architecture.model, "data": architecture.source.entry}
    entries |= {"optimizer": architecture.training.optimizer, "schedule": architecture.training.schedule}
    found = {(key, entry.function) for key, entry in entries.items() if entry.function}
    found.add(("layout", source.constant("sparsity_cliff.data.layouts", "KINDS")[architecture.source.kind]))
    for name, option in options.options_of("activation", str(activation.function)).items():
        if option.annotation == "ActivationName":
            found.add(("activation", activation.options[name]))
    return canonical(code(ROOTS, frozenset(found)))
