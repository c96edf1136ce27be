"""One truth about what has to be made: Snakemake, the run table and the files themselves agree after any edit."""

import base64
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sweeps import STUDY, Sweep, jobs

from sparsity_cliff.traces import reader, stale

SEEDS = (1, 2, 3)  # of the edit sequences of every run of the tests; `make test-large` has SEEDS_LARGE
SEEDS_LARGE = range(1000, 1320)
RUN = "mlp.relu.cross_entropy.real.s0-1"


def table(sweep: Sweep) -> dict[str, str]:
    """Run -> why it would train, as `sparsity-cliff runs` says."""
    assert sweep.forked
    status, output = sweep.forked.cli(sweep.folder, "runs", STUDY)
    assert status == 0, output
    lines = [re.split(r" {2,}", line.strip(), maxsplit=4) for line in output.splitlines()[1:-1]]
    return {fields[0]: fields[-1] for fields in lines}


def to_train(sweep: Sweep) -> set[str]:
    return {run for run, why in table(sweep).items() if why != stale.UP_TO_DATE}


EXPECTED = """
import json, sys
from sparsity_cliff.study import table
plan = table.load(table.read("study.yaml"))
print(json.dumps({run.id: [run.spec, run.code] for run in plan.runs.values()}))
"""


def recomputed(sweep: Sweep) -> set[str]:
    """Runs without a whole trace of the spec and code that the study asks for; the traces are read without our code."""
    assert sweep.forked
    (sweep.folder / "expected_runs.py").write_text(EXPECTED)
    env = {"PYTHONPATH": str(sweep.folder / "src")}
    status, output = sweep.forked.module("expected_runs", sweep.folder, env=env)
    (sweep.folder / "expected_runs.py").unlink()
    assert status == 0, output
    return {run for run, (spec, code) in json.loads(output).items() if not holds(sweep, run, json.dumps([spec, code]))}


def holds(sweep: Sweep, run: str, expected: str) -> bool:
    path = sweep.results("traces", f"{run}.parquet")
    try:
        rows = pq.ParquetFile(path, page_checksum_verification=True).read()
        payload = json.loads(rows.schema.metadata[b"sparsity_cliff"])
        about = json.loads(payload["about"])
        spec, code = json.loads(expected)
        whole = ORIGINALS.get(payload["sha256"]) == (payload["about"], hashed(rows))
        return whole and about["run"] == run and about["spec"] == spec and about["code"] == json.loads(code)
    except (OSError, ValueError, KeyError, TypeError):
        return False


ORIGINALS: dict[str, tuple[str, str]] = {}  # digest that a trace carries -> what it holds, as a sweep left it


def hashed(rows: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None))
    return hashlib.sha256(sink.getvalue()).hexdigest()


def learn(sweep: Sweep) -> None:
    """Take the traces as they are now for what they ought to be."""
    for path in sweep.results("traces").glob("*.parquet"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged
            rows = pq.ParquetFile(path).read()
            payload = json.loads(rows.schema.metadata[b"sparsity_cliff"])
            ORIGINALS.setdefault(payload["sha256"], (payload["about"], hashed(rows)))


def agree(sweep: Sweep, history: list[str]) -> set[str]:
    """Runs to train, after the one thing that this file is about: all three say the same."""
    planned, listed, true = sweep.trained(), to_train(sweep), recomputed(sweep)
    assert planned == listed == true, (history, planned ^ listed, planned ^ true)
    return planned


# ------------------------------------------------------------------------------------------ random edits


class Edits:
    """Random edits of a finished sweep: of the study, the code, files and their times; each says what it did."""

    def __init__(self, sweep: Sweep, pristine: Path, stream: random.Random):
        self.sweep, self.pristine, self.random = sweep, pristine, stream

    def one(self) -> str:
        edit: Callable[[], object] = self.random.choice(
            [
                *(self.number, self.number, self.order, self.words, self.grid, self.seeds, self.analysis),
                *(self.study_back, self.code, self.code, self.comment, self.code_back, self.times, self.times),
                *(self.delete, self.foreign, self.corrupt, self.restore, self.bookkeeping, self.clone, self.marks),
            ]
        )
        return f"{edit.__name__}: {edit()}"

    # the study

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = yaml.safe_load(self.sweep.study)
        return config

    def _write(self, config: dict[str, Any]) -> None:
        (self.sweep.folder / STUDY).write_text(yaml.safe_dump(config, sort_keys=False))

    def number(self) -> object:
        config = self._config()
        name = self.random.choice(list(config["architectures"]))
        key, value = self.random.choice([("steps", 3), ("steps", 10), ("steps", 20), ("batch_size", 4), ("lr", 0.001)])
        place = config["architectures"][name]
        (place["optimizer"] if key == "lr" else place)[key] = value
        self._write(config)
        return name, key, value

    def order(self) -> object:
        def shuffled(value: object) -> object:
            if isinstance(value, dict):
                return {key: shuffled(value[key]) for key in self.random.sample(list(value), len(value))}
            return value

        config = self._config()
        for block in config["grid"]:
            for names in block.values():
                self.random.shuffle(names)
        self.random.shuffle(config["grid"])
        self._write(shuffled(config))  # type: ignore[arg-type]
        return "shuffled"

    def words(self) -> object:
        text = self.sweep.study.replace("0.001", "1e-3").replace("0.05", "5.0e-2")
        (self.sweep.folder / STUDY).write_text(f"# a comment\n{text}")
        return "other words"

    def grid(self) -> object:
        config = self._config()
        config["activations"]["silu"] = {"function": "silu"}
        for block in config["grid"]:
            block["activations"] = self.random.choice([["relu", "tanh"], ["relu", "silu", "tanh"], ["tanh", "relu"]])
        self._write(config)
        return [block["activations"] for block in config["grid"]]

    def seeds(self) -> object:
        config = self._config()
        config["study"]["seeds"] = self.random.choice([["0-1"], ["0-1", 2], ["0-2"], [0, 1]])
        self._write(config)
        return config["study"]["seeds"]

    def analysis(self) -> object:
        config = self._config()
        config["cliff"]["level"] = self.random.choice([0.9, 0.95])
        self._write(config)
        return config["cliff"]

    def study_back(self) -> object:
        return shutil.copy(self.pristine / STUDY, self.sweep.folder / STUDY)

    # the code

    def _module(self) -> Path:
        package = self.sweep.folder / "src" / "sparsity_cliff"
        files = [*package.rglob("*.py"), *(self.sweep.folder / "workflow" / "scripts").glob("*.py")]
        return self.random.choice(sorted(files))

    def code(self) -> object:
        path = self._module()
        path.write_text(f"{path.read_text()}\n_EDIT = {self.random.randrange(3)}\n")
        return path.name

    def comment(self) -> object:
        path = self._module()
        path.write_text(f"{path.read_text()}\n# {self.random.random()}\n")
        return path.name

    def code_back(self) -> object:
        for part in ("src", "workflow"):
            shutil.copytree(self.pristine / part, self.sweep.folder / part, dirs_exist_ok=True)
        return "all"

    # files

    def _some(self, *patterns: str) -> list[Path]:
        files = sorted(path for pattern in patterns for path in self.sweep.folder.glob(pattern) if path.is_file())
        return self.random.sample(files, min(len(files), self.random.choice([1, 3, 1000])))

    def times(self) -> object:
        files = self._some("workflow/**/*", "src/**/*.py", "results/**/*", STUDY, "Snakefile")
        when = time.time() + self.random.choice([-1e8, 0, 1e5])
        for path in files:
            os.utime(path, (when, when))
        return len(files)

    def delete(self) -> object:
        pattern = self.random.choice(["traces/*", "tables/*", "figures/*", "logs/train/*", "../data/*.npz", "**/*"])
        files = self._some(f"results/smoke/{pattern}")[: self.random.choice([1, 2, 50])]
        for path in files:
            path.unlink()
        return [path.name for path in files]

    def foreign(self) -> object:
        files = sorted((self.pristine / "results" / "smoke" / "traces").iterdir())
        one, other = self.random.sample(files, 2)
        shutil.copy(one, self.sweep.results("traces", other.name))
        return one.name, other.name

    def corrupt(self) -> object:
        files = self._some("results/smoke/traces/*.parquet")[:2]
        for path in files:
            data = bytearray(path.read_bytes())
            if self.random.random() < 0.5 and data:
                data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            else:
                del data[self.random.randrange(len(data) + 1) :]
            path.write_bytes(data)
        return [path.name for path in files]

    def restore(self) -> object:
        for path in (self.pristine / "results" / "smoke" / "traces").iterdir():
            if self.random.random() < 0.5:
                shutil.copy(path, self.sweep.results("traces", path.name))
        return "some"

    # what Snakemake remembers

    def bookkeeping(self) -> object:
        return shutil.rmtree(self.sweep.folder / ".snakemake", ignore_errors=True)

    def clone(self) -> object:
        folder = self.sweep.folder.with_name(f"clone{self.random.randrange(10**9)}")
        shutil.copytree(
            self.sweep.folder, folder, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(".snakemake")
        )
        shutil.rmtree(self.sweep.folder)
        self.sweep.folder = folder
        return folder.name

    def marks(self) -> object:
        """What jobs leave that were killed."""
        folder = self.sweep.folder / ".snakemake" / "incomplete"
        folder.mkdir(parents=True, exist_ok=True)
        files = self._some("results/smoke/*/*")
        for path in files:
            name = base64.b64encode(str(path.relative_to(self.sweep.folder)).encode()).decode()
            (folder / name).touch()
        return len(files)


def kill_after(sweep: Sweep, ended: int) -> None:
    """Start a sweep, and kill it with all of its jobs when so many of them have ended."""
    command = sweep.command("--cores", "2")
    with subprocess.Popen(
        command, cwd=sweep.folder, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        ends = (line for line in process.stdout if line.startswith("Finished jobid"))
        for _, _ in zip(range(ended), ends, strict=False):
            pass
        os.killpg(process.pid, signal.SIGKILL)


def sequence(seed: int, finished: Sweep, pristine: Path) -> None:
    """A few random edits, and a look after some and after all. Of forty sequences, two go on: one of them with a sweep
    that is killed, and a look, and both with one that ends, after which nothing may be stale."""
    learn(finished)
    stream = random.Random(seed)
    edits, history = Edits(finished, pristine, stream), [f"seed {seed}"]
    for _ in range(stream.choice([1, 2, 4, 6])):
        history.append(edits.one())
        if stream.random() < 0.3:
            agree(finished, history)
    agree(finished, history)
    if seed % 40 not in (0, 10):
        return
    if seed % 40 == 10:
        kill_after(finished, stream.randint(1, 6))
        learn(finished)
        agree(finished, [*history, "a sweep killed"])
        finished.snakemake("--unlock")
    finished.snakemake()
    learn(finished)
    assert agree(finished, [*history, "a sweep"]) == set()
    assert finished.planned() == set(), history


@pytest.mark.parametrize("seed", SEEDS)
def test_after_random_edits_plan_run_table_and_traces_agree(seed: int, finished: Sweep, pristine: Path) -> None:
    sequence(seed, finished, pristine)


@pytest.mark.large
@pytest.mark.parametrize("seed", SEEDS_LARGE)
def test_after_many_random_edits_plan_run_table_and_traces_agree(seed: int, finished: Sweep, pristine: Path) -> None:
    sequence(seed, finished, pristine)


# ------------------------------------------------------------------------------------------ times and places


def test_a_touched_script_hides_no_stale_run(finished: Sweep) -> None:
    # Snakemake once ran four data jobs for the touched script, and none of the trainings below them
    (finished.folder / "workflow/scripts/prepare_data.py").touch()
    finished.edit(STUDY, ("{function: adam, lr: 1e-3}", "{function: adam, lr: 2e-3}"))
    finished.edit("src/sparsity_cliff/networks/models/vit.py", ("x = x + self.attention", "x = x + 1 * self.attention"))
    learn(finished)
    stale_runs = {run for run in table(finished) if run.startswith(("mlp.", "vit."))}
    assert agree(finished, []) == stale_runs
    assert finished.rules() & {"prepare_data", "collect"} == {"collect"}


def test_files_that_a_checkout_or_a_copy_made_newer_run_nothing(finished: Sweep) -> None:
    for path in sorted(finished.folder.rglob("*"), reverse=True):  # traces older than data, scripts and sources
        if ".snakemake" not in path.parts:
            path.touch()
    assert finished.planned() == set()
    clone = Sweep(finished.folder.with_name("clone"), finished.forked)
    shutil.copytree(finished.folder, clone.folder, copy_function=shutil.copyfile)
    shutil.rmtree(clone.folder / ".snakemake")
    assert clone.planned() == set()
    shutil.rmtree(clone.folder / "results" / "data")  # which nobody needs who has the traces
    assert clone.planned() == set()
    clone.edit(STUDY, ("lr: 0.05", "lr: 0.04"))
    assert clone.trained() == {run for run in table(clone) if run.startswith("resnet.")}
    assert ("prepare_data", "digits") in {(rule, name.partition("-")[0]) for rule, name in clone.planned()}


def test_a_clone_goes_on_where_the_other_was(finished: Sweep) -> None:
    """As on another machine: some traces are there, some are of an older study, Snakemake remembers nothing."""
    clone = Sweep(finished.folder.with_name("clone"), finished.forked)
    shutil.copytree(finished.folder, clone.folder, copy_function=shutil.copyfile)
    shutil.rmtree(clone.folder / ".snakemake")
    clone.results("traces", f"{RUN}.parquet").unlink()
    clone.edit(STUDY, ("cliff:\n", "cliff:\n  level: 0.9\n"))
    output = clone.snakemake("results/smoke/tables/cliff.parquet")
    assert {name for rule, name in jobs(output) if rule == "train"} == {RUN}
    assert to_train(clone) == set()
    assert clone.rules() == {
        "analyze_drift",
        "analyze_layers",
        "analyze_claims",
        "draw",
    }  # the others read the trace, too
    assert (pd.read_parquet(clone.results("tables", "cliff.parquet"))["level"] == 0.9).all()


def test_lost_bookkeeping_hides_no_stale_table(finished: Sweep) -> None:
    shutil.rmtree(finished.folder / ".snakemake")
    finished.edit(STUDY, ("cliff:\n", "cliff:\n  level: 0.9\n"))
    assert finished.rules() == {"analyze_cliff", "analyze_claims", "draw"}
    finished.edit("workflow/scripts/analyze_drift.py", ("    settings = json", "    settings = {} or json"))
    assert finished.rules() == {"analyze_cliff", "analyze_drift", "analyze_claims", "draw"}


def test_marks_of_killed_jobs_stop_nothing_and_train_nothing(finished: Sweep) -> None:
    folder = finished.folder / ".snakemake" / "incomplete"
    for path in (*finished.results("traces").iterdir(), *finished.results("tables").iterdir()):
        name = base64.b64encode(str(path.relative_to(finished.folder)).encode()).decode()
        (folder / name).touch()
    assert finished.planned() == set()
    finished.results("traces", f"{RUN}.parquet").unlink()
    assert finished.trained() == {RUN}


# ------------------------------------------------------------------------------------------ damaged files


def test_a_damaged_or_foreign_trace_is_trained_again_and_nothing_else(finished: Sweep, pristine: Path) -> None:
    learn(finished)
    others = ("mlp.tanh.cross_entropy.real", "vit.relu.cross_entropy.real", "gpt.tanh.cross_entropy.real")
    files = [finished.results("traces", f"{run}.parquet") for run in (RUN, *(f"{run}.s0-1" for run in others))]
    torn, flipped, foreign, empty = files
    torn.write_bytes(torn.read_bytes()[:-100])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 4] ^= 1  # in a data page
    flipped.write_bytes(data)
    foreign.write_bytes(finished.results("traces", "vit.tanh.cross_entropy.real.s0-1.parquet").read_bytes())
    empty.write_bytes(b"")
    damaged = {path.stem for path in files}
    assert agree(finished, []) == damaged
    why = table(finished)
    assert "not a readable trace" in why[torn.stem]
    assert f"{flipped.name}: " in why[flipped.stem]
    assert "this is the trace of vit.tanh.cross_entropy.real.s0-1, not of vit.relu" in why[foreign.stem]
    done = finished.snakemake(*(str(path.relative_to(finished.folder)) for path in files))
    assert jobs(done) == {("train", run) for run in damaged}
    assert finished.trained() == set() == to_train(finished)
    for path in files:
        trained, before = (
            reader.read(folder / path.name)[0].to_pandas()
            for folder in (path.parent, pristine / "results" / "smoke" / "traces")
        )
        pd.testing.assert_frame_equal(trained, before, check_exact=True)


def test_a_folder_in_a_traces_place_is_named(finished: Sweep) -> None:
    path = finished.results("traces", f"{RUN}.parquet")
    path.unlink()
    path.mkdir()
    (path / "mine.txt").touch()
    assert "Is a directory" in table(finished)[RUN]
    output = finished.snakemake(check=False)
    assert f"{RUN}.parquet" in output
    assert (path / "mine.txt").exists()


@pytest.mark.parametrize(
    "part",
    ["tables/facts.parquet", "tables/cliff.parquet", "figures/cliff.png", "figures/cliff.pdf", "figures/cliff.csv"],
)
def test_a_torn_table_or_figure_is_made_again(finished: Sweep, part: str) -> None:
    path = finished.results(part)
    path.write_bytes(path.read_bytes()[:20])
    rules = finished.rules()
    own = {"facts": "collect", "cliff": "draw" if "figures" in part else "analyze_cliff"}[path.stem]
    assert own in rules
    assert not rules & {"train", "analyze_theory"}
    assert ("collect" in rules) == (path.stem == "facts")


def test_a_torn_data_file_is_made_again_where_it_is_needed(finished: Sweep) -> None:
    (path,) = (finished.folder / "results" / "data").glob("mnist1d-*.npz")
    path.write_bytes(path.read_bytes()[:-50])
    assert finished.planned() == set()
    finished.results("traces", f"{RUN}.parquet").unlink()
    assert {rule for rule, _ in finished.planned()} >= {"prepare_data", "train"}
    finished.snakemake(f"results/smoke/traces/{RUN}.parquet")
    assert reader.read(finished.results("traces", f"{RUN}.parquet"))


# ------------------------------------------------------------------------------------------ what users ask for


def test_one_trace_that_is_asked_for_trains_no_other(finished: Sweep) -> None:
    finished.edit(STUDY, ("{function: adam, lr: 1e-3}", "{function: adam, lr: 2e-3}"))
    assert len(finished.trained()) > 1
    target = f"results/smoke/traces/{RUN}.parquet"
    assert finished.planned(target) == {("train", RUN)}
    assert finished.planned("results/smoke/traces/gpt.relu.cross_entropy.real.s0-1.parquet") == set()


def test_force_means_what_it_means_to_snakemake(finished: Sweep) -> None:
    everything = set(table(finished))
    target = f"results/smoke/traces/{RUN}.parquet"

    def trained(*arguments: str) -> set[str]:
        return {name for rule, name in finished.planned(*arguments) if rule == "train"}

    def rules(*arguments: str) -> set[str]:
        return {rule for rule, _ in finished.planned(*arguments)}

    below = {"analyze_cliff", "analyze_drift", "analyze_layers", "analyze_claims", "draw"}
    assert trained("--forceall") == everything
    assert rules("--forceall") == {"prepare_data", "train", "collect", "analyze_theory"} | below
    assert trained("--forcerun", "train") == everything
    assert rules("--forcerun", "train") == {"train", "collect"} | below
    assert finished.planned("--force", target) == {("train", RUN)}
    assert trained("--forcerun", target) == {RUN}
    assert rules("--forcerun", target) == {"train", "collect"} | below
    assert rules("--forcerun", "collect") == {"collect"} | below
    assert finished.planned("--forcerun", "draw_cliff") == {("draw", "cliff")}


def test_names_of_the_grid_in_another_order_run_nothing(finished: Sweep) -> None:
    config = yaml.safe_load(finished.study)
    for block in config["grid"]:
        for names in block.values():
            names.reverse()
    config["grid"].reverse()
    config["architectures"] = dict(reversed(config["architectures"].items()))
    (finished.folder / STUDY).write_text(yaml.safe_dump(config, sort_keys=False))
    assert finished.planned() == set()


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (STUDY, "sparsity: 0.8", "sparsity: 0.7"),
        pytest.param(STUDY, "  baseline: relu\n", "  baseline: relu\n  level: 0.9\n", marks=pytest.mark.large),
        pytest.param(STUDY, "study:", "stdy:", marks=pytest.mark.large),
        pytest.param(
            "src/sparsity_cliff/networks/models/vit.py",
            "x = x + self.attention",
            "x = x + 1 * self.attention",
            marks=pytest.mark.large,
        ),
        ("src/sparsity_cliff/analysis/cliff.py", "\nimport ", "\nimprt "),
        pytest.param("workflow/scripts/analyze_drift.py", "import json", "import json, os", marks=pytest.mark.large),
    ],
    ids=["a run", "a setting", "no study", "a model", "no code", "a script"],
)
def test_an_edit_while_a_sweep_runs_is_no_success(finished: Sweep, path: str, old: str, new: str) -> None:
    """Only what was trained before it is then current: a status of 0 would say that all is."""
    finished.results("figures", "drift.pdf").unlink()
    command = finished.command("--cores", "2")
    process = subprocess.Popen(
        command, cwd=finished.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(r"^(local)?rule draw_drift:", line):
            break
    text = (finished.folder / path).read_text()
    (finished.folder / path).write_text(text.replace(old, new, 1))
    output = "".join(seen) + process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert "changed while the sweep ran; run it again" in output or "Error in rule draw_drift" in output
