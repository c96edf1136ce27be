"""Whole sweeps with real Snakemake: what they leave, faults, and determinism."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sweeps import PROJECT, TABLES, Sweep, jobs

from sparsity_cliff.figures import FIGURES, drawn
from sparsity_cliff.study import table
from sparsity_cliff.traces import reader

RUN = "mlp.relu.cross_entropy.real.s0-1"


def contents(path: Path) -> pd.DataFrame:
    return reader.read(path)[0].to_pandas()


# ------------------------------------------------------------------------------------------ what a sweep leaves


def test_a_sweep_leaves_every_trace_table_and_figure(finished: Sweep) -> None:
    plan = table.load(yaml.safe_load(finished.study))
    assert {path.stem for path in finished.results("traces").glob("*.parquet")} == set(plan.runs)
    runs = pd.read_parquet(finished.results("tables", "runs.parquet"))
    assert set(runs["run"]) == set(plan.runs)
    assert (runs["status"] == "finished").all()
    assert len(runs) == 2 * len(plan.runs)
    for figure in FIGURES:
        assert finished.results("figures", f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        for page in ("pdf", "column.pdf"):
            assert finished.results("figures", f"{figure}.{page}").read_bytes().startswith(b"%PDF")
        numbers = pd.read_csv(finished.results("figures", f"{figure}.csv"), comment="#")
        assert list(numbers.columns) == [field.name for field in dataclasses.fields(drawn.Row)]
    assert not finished.results("checkpoints").exists()
    assert not list(finished.folder.rglob(".*.parquet.*"))


def test_every_trace_carries_its_provenance(finished: Sweep) -> None:
    plan = table.load(yaml.safe_load(finished.study))
    for run in plan.runs.values():
        _, about = reader.read(finished.results("traces", f"{run.id}.parquet"), run.id, run.spec)
        assert about["threads"] == 1
        assert about["status"] == {"0": "finished", "1": "finished"}
        assert set(about["versions"]) == {"python", "sparsity_cliff", "torch", "numpy", "pyarrow"}
        assert {"import", "data", "training", "probes", "wall", "cpu"} <= set(about["seconds"])
        assert all(seconds >= 0 for seconds in about["seconds"].values())
        assert "sparsity_cliff.training.loop" in about["code"]


def test_the_log_of_a_run_tells_of_its_progress(finished: Sweep) -> None:
    log = finished.results("logs", "train", f"{RUN}.log").read_text()
    line = rf"{re.escape(RUN)}  100 %  seed 1  step 20/20  loss [\d.]+  \d+ steps/s  remaining 0:00"
    assert re.search(line, log), log
    assert "seed 1: finished" in log


def test_the_report_holds_every_figure(finished: Sweep) -> None:
    finished.snakemake("--report", "report.html")
    html = (finished.folder / "report.html").read_text()
    for figure in FIGURES:
        assert f"figures/{figure}.png" in html


def test_a_terminal_gets_a_live_progress_bar(finished: Sweep) -> None:
    for path in finished.results("figures").glob("drift.*"):
        path.unlink()
    program = f"import pty, sys; sys.exit(pty.spawn({[*finished.command('--logger', 'rich', '--cores', '1')]!r}) >> 8)"
    done = subprocess.run([sys.executable, "-c", program], cwd=finished.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)  # without colors and moves of the cursor
    assert re.search(r"draw drift\D*100%", said), said


NO_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("no torch here")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("drawn", [False, pytest.param(True, marks=pytest.mark.large)])
def test_analysis_and_figures_need_no_torch(
    finished: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bool
) -> None:
    """That figures import no torch is also a test of test_figures.py."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(NO_TORCH)  # Python imports it when it starts
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "blocked"))
    for path in finished.results("tables").iterdir():
        if path.stem != "theory":  # which does need torch, and no traces
            path.unlink()
    done = finished.snakemake(*TABLES, fresh=True)
    assert {rule for rule, _ in jobs(done)} == {
        "collect",
        "analyze_claims",
        "analyze_cliff",
        "analyze_drift",
        "analyze_layers",
    }
    if drawn:
        finished.draw_all()


# ------------------------------------------------------------------------------------------ determinism


@pytest.mark.parametrize(
    "runs",
    [
        ["vit.topk_80.cross_entropy.real.s0-1"],
        pytest.param([RUN, "resnet.relu.cross_entropy.real.s0-1"], marks=pytest.mark.large),
    ],
    ids=["vit", "mlp and resnet"],
)
def test_one_job_at_a_time_gives_the_same_traces_bit_for_bit(finished: Sweep, fresh: Sweep, runs: list[str]) -> None:
    fresh.snakemake(*(f"results/smoke/traces/{run}.parquet" for run in runs), cores=1)
    for run in runs:
        first, second = (contents(sweep.results("traces", f"{run}.parquet")) for sweep in (finished, fresh))
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_more_probes_change_no_other_number(finished: Sweep) -> None:
    before = contents(finished.results("traces", f"{RUN}.parquet"))
    finished.edit(
        "study.yaml", ("measure: [activations, weights, gradients, histograms]", "measure: [activations, weights]")
    )
    finished.snakemake(f"results/smoke/traces/{RUN}.parquet")
    after = contents(finished.results("traces", f"{RUN}.parquet"))
    kept = before[before["metric"].isin(after["metric"].unique())]
    order = ["seed", "step", "metric", "layer", "split", "example"]
    kept, after = (frame.astype({"metric": str}).sort_values(order, ignore_index=True) for frame in (kept, after))
    assert 0 < len(after) < len(before)
    assert (kept["value"].to_numpy() == after["value"].to_numpy()).all()


# ------------------------------------------------------------------------------------------ faults


def test_a_diverged_run_is_a_result(finished: Sweep) -> None:
    text = finished.study.replace("lr: 1e-3}\n    steps: 20", "lr: 1.0e+30}\n    steps: 20")
    config = yaml.safe_load(text)
    config["grid"] = [block for block in config["grid"] if block["architectures"] != ["mlp"]]
    (finished.folder / "study.yaml").write_text(yaml.safe_dump(config))
    finished.snakemake(*TABLES)
    finished.draw_all()
    runs = pd.read_parquet(finished.results("tables", "runs.parquet"))
    lost = runs[(runs["architecture"] == "mlp") & (runs["activation"] == "relu")]
    assert (lost["status"] == "diverged").all()
    assert lost["diverged_step"].between(1, 20).all()
    points = pd.read_parquet(finished.results("tables", "points.parquet"))
    assert not ((points["architecture"] == "mlp") & (points["configuration"] == "relu")).any()
    for name in ("critical", "cliff"):
        verdicts = pd.read_parquet(finished.results("tables", f"{name}.parquet")).set_index("architecture")["verdict"]
        assert (verdicts["mlp"] == "too few runs").all()  # without its baseline
        assert (verdicts["resnet"] != "too few runs").all()


def test_one_failing_run_stops_no_other(fresh: Sweep) -> None:
    fresh.edit(
        "src/sparsity_cliff/networks/activations.py", ("return nn.Tanh()", 'raise RuntimeError("no tanh today")')
    )
    cells = ("relu.cross_entropy", "tanh.cross_entropy", "topk_80.cross_entropy", "gelu.mse")
    traces = [f"results/smoke/traces/mlp.{cell}.real.s0-1.parquet" for cell in cells]
    output = fresh.snakemake("--keep-going", *traces, check=False)
    log = "results/smoke/logs/train/mlp.tanh.cross_entropy.real.s0-1.log"
    assert f"error: RuntimeError: no tanh today (log: {log})" in output
    assert "Traceback" in (fresh.folder / log).read_text()
    made = {path.stem.split(".")[1] for path in fresh.results("traces").glob("*.parquet")}
    assert made == {"relu", "topk_80", "gelu"}


def test_a_study_whose_runs_failed_in_part_gets_its_tables_figures_and_report(finished: Sweep) -> None:
    lost = {f"vit.{name}.cross_entropy.real.s0-1" for name in ("relu", "tanh", "topk_80")}
    model = "src/sparsity_cliff/networks/models/vit.py"
    good = (finished.folder / model).read_text()
    finished.edit(
        model, ("x = x + self.attention", "raise RuntimeError('no vit today')\n        x = x + self.attention")
    )
    finished.snakemake("--keep-going", check=False)
    assert finished.trained() == lost
    partial = ("--config", "partial=yes")
    for made in (True, False):  # the second has nothing to make, and must not end with status 0 either
        output = finished.snakemake(*partial, check=False)
        assert f"smoke is incomplete: 3 of 16 runs have no current trace: {', '.join(sorted(lost))}" in output
        assert ("collect" in {rule for rule, _ in jobs(output)}) == made
        assert "train" not in {rule for rule, _ in jobs(output)}
    runs = pd.read_parquet(finished.results("tables", "runs.parquet"))
    assert set(runs.loc[runs["status"] == "missing", "run"]) == lost
    assert set(runs.loc[runs["status"] == "finished", "run"]) == set(runs["run"]) - lost
    text = finished.results("tables", "claims.md").read_text(encoding="utf-8")
    assert text.startswith("Incomplete: 3 of 16 runs have no results: vit.relu.")
    finished.snakemake(*partial, "--report", "report.html")
    html = (finished.folder / "report.html").read_text()
    assert all(f"figures/{figure}.png" in html for figure in FIGURES)
    (finished.folder / model).write_text(good)
    assert finished.trained() == lost  # and no other run
    assert finished.rules() >= {"collect", "analyze_cliff", "draw"}
    finished.snakemake(*(f"results/smoke/traces/{run}.parquet" for run in lost))
    finished.snakemake("results/smoke/tables/claims.md")
    assert "Incomplete" not in finished.results("tables", "claims.md").read_text(encoding="utf-8")
    assert finished.trained() == set()


def test_without_any_trace_there_is_nothing_to_show(fresh: Sweep) -> None:
    output = fresh.snakemake("--config", "partial=yes", check=False)
    assert "error: smoke: no run has a current trace, so there is nothing to show" in output


# ------------------------------------------------------------------------------------------ make sweep, with a stub


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """A folder with the Makefile. Its snakemake only says how it was called, waits if told so, and fails."""
    for name in ("Makefile", "requirements.lock", "requirements-compiled.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    stubs = {
        "snakemake": """
            echo "snakemake $*"
            test -n "$WAIT" || exit 1
            sleep 60 > /dev/null &
            trap "kill $!; exit 1" INT
            echo ready
            wait
        """,
        "sparsity-cliff": 'test "$1" != runs || exit ${INVALID:-0}',
    }
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, text in stubs.items():
        stub = tmp_path / ".venv" / "bin" / name
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def swept(makefile: Path, interrupt: bool = False, **variables: str) -> tuple[int, list[str]]:
    """Status of `make sweep`, and the calls of snakemake. interrupt: whether Ctrl-C comes during the first call."""
    shell = variables.pop("SHELL", "/bin/sh")
    with subprocess.Popen(
        ["make", "sweep", f"SHELL={shell}"],
        cwd=makefile,
        env=os.environ | variables | ({"WAIT": "yes"} if interrupt else {}),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the signal reaches make and its children, as a terminal's does, but not us
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "ready\n":
                os.killpg(process.pid, signal.SIGINT)
    return process.returncode, [line for line in lines if line.startswith("snakemake ")]


def test_after_a_failure_make_sweep_shows_what_has_finished_and_fails(makefile: Path) -> None:
    status, calls = swept(makefile)
    assert status != 0
    assert ["partial=yes" in call for call in calls] == [False, True]


def test_an_invalid_study_is_refused_once(makefile: Path) -> None:
    status, calls = swept(makefile, INVALID="1")
    assert status != 0
    assert len(calls) == 1


@pytest.mark.parametrize("shell", [path for path in ("/bin/sh", "/bin/bash", "/bin/dash") if Path(path).exists()])
def test_ctrl_c_ends_make_sweep_at_once(makefile: Path, shell: str) -> None:
    status, calls = swept(makefile, interrupt=True, SHELL=shell)
    assert status != 0
    assert len(calls) == 1


# ------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGUSR2],
        pytest.param([signal.SIGTERM, signal.SIGUSR2, signal.SIGINT], marks=pytest.mark.large),
    ],
    ids=["once", "each signal"],
)
def test_an_interrupted_run_resumes_and_ends_bit_for_bit_as_if_never_interrupted(
    fresh: Sweep, signals: list[signal.Signals]
) -> None:
    fresh.edit("study.yaml", ("    steps: 20", "    steps: 4000"), ("every: 10", "every: 2000"))
    trace, log = fresh.results("traces", f"{RUN}.parquet"), fresh.results("logs", "train", f"{RUN}.log")
    target = str(trace.relative_to(fresh.folder))
    fresh.snakemake(target)
    reference = contents(trace)
    trace.unlink()
    for number in signals:
        interrupt(fresh, target, log, number)
        assert not trace.exists()
    fresh.snakemake(target)
    assert "resuming at seed" in log.read_text()
    assert not fresh.results("checkpoints").exists()
    pd.testing.assert_frame_equal(contents(trace), reference, check_exact=True)


def interrupt(sweep: Sweep, target: str, log: Path, number: signal.Signals) -> None:
    """Start the training of a trace, and send its process a signal once it trains."""
    log.unlink(missing_ok=True)
    command = sweep.command("--cores", "1", target, fresh=True)
    process = subprocess.Popen(command, cwd=sweep.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (log.exists() and "steps/s" in log.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    (trainer,) = (int(pid) for pid in _children(process.pid) if "train.py" in _command(pid))
    os.kill(trainer, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert "stopped on request: state saved in" in log.read_text()


def _children(pid: int) -> list[str]:
    found = []
    for task in Path("/proc").glob(f"{pid}/task/*/children"):
        for child in task.read_text().split():
            found += [child, *_children(int(child))]
    return found


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------ the command line


def test_the_run_table_says_why_each_run_would_train(finished: Sweep) -> None:
    def table() -> dict[str, str]:
        assert finished.forked
        status, output = finished.forked.cli(finished.folder, "runs", "study.yaml")
        assert status == 0, output
        lines = [re.split(r" {2,}", line.strip(), maxsplit=4) for line in output.splitlines()[1:-1]]
        return {fields[0]: fields[-1] for fields in lines}

    assert set(table().values()) == {"up to date"}
    finished.edit(
        "study.yaml",
        ("sparsity: 0.8", "sparsity: 0.7"),
        ("  gelu: {function: gelu}\n", "  gelu: {function: gelu}\n  silu: {function: silu}\n"),
        ("activations: [relu, gelu]", "activations: [relu, gelu, silu]"),
    )
    finished.edit("src/sparsity_cliff/networks/models/vit.py", ("x = x + self.attention", "x = 1 * x + self.attention"))
    finished.results("traces", "mlp.tanh.cross_entropy.real.s0-1.parquet").unlink()
    torn = finished.results("traces", "resnet.relu.cross_entropy.real.s0-1.parquet")
    torn.write_bytes(torn.read_bytes()[:50])
    why = table()
    assert why["mlp.topk_80.cross_entropy.real.s0-1"] == "spec: activation.sparsity changed from 0.8 to 0.7"
    assert why["mlp.silu.mse.real.s0-1"] == "new"
    assert why["vit.relu.cross_entropy.real.s0-1"] == "code of sparsity_cliff.networks.models.vit changed"
    assert why["mlp.tanh.cross_entropy.real.s0-1"] == "trace missing"
    assert why["resnet.relu.cross_entropy.real.s0-1"].startswith("trace refused: results/smoke/traces/resnet.relu.")
    assert why[RUN] == "up to date"
    assert finished.trained() == {run for run, reason in table().items() if reason != "up to date"}


def test_the_run_table_of_a_bad_study_is_one_line(fresh: Sweep) -> None:
    (fresh.folder / "study.yaml").write_text("study: [")
    command = [sys.executable, "-m", "sparsity_cliff", "runs", "study.yaml"]
    done = subprocess.run(command, cwd=fresh.folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: study.yaml: line 2: not valid YAML (while parsing a flow node")
    assert done.stderr.count("\n") == 1


def test_the_claims_ledger_is_a_table_csv_and_text_and_a_command_prints_it(finished: Sweep) -> None:
    ledger = pd.read_parquet(finished.results("tables", "claims.parquet"))
    again = pd.read_csv(finished.results("tables", "claims.csv"), comment="#")
    assert again["verdict"].tolist() == ledger["verdict"].tolist()
    assert set(ledger["claim"]) >= {f"C{i}" for i in (1, 2, 3, 4, 6, 7, 9, 10)}
    assert "supported" not in set(ledger.loc[ledger["claim"] != "C1", "verdict"])  # two seeds show nothing
    assert finished.forked
    status, printed = finished.forked.cli(finished.folder, "claims", "study.yaml")
    assert status == 0, printed
    text = finished.results("tables", "claims.md").read_text(encoding="utf-8")
    assert text.startswith(printed.rstrip())
    assert len(text.splitlines()) == len(printed.splitlines()) + 1  # the digest


def test_a_reader_that_wants_no_more_of_the_run_table_is_no_error(fresh: Sweep) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sparsity_cliff", "runs", "study.yaml"]
    done = subprocess.run(command, cwd=fresh.folder, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_sweep_the_claims_are_one_line(fresh: Sweep) -> None:
    assert fresh.forked
    line = "error: results/smoke/tables/claims.md: cannot be read (No such file or directory); run the sweep first\n"
    assert fresh.forked.cli(fresh.folder, "claims", "study.yaml") == (1, line)
