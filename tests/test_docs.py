"""README, CONTRIBUTING, and docs/ say what is true: links, blocks of code, commands, and the files that they name."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from forked import Forked
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pyarrow import parquet
from sweeps import DEFAULT, PROJECT, STUDY, Sweep, copy_project
from test_extension import ACTS, DATA, LOSS, NETS

from snakemake_executor_plugin_submitit import resources, settings
from sparsity_cliff.study import structure, table
from sparsity_cliff.traces.schema import SCHEMA

BIN = Path(sys.executable).parent
PROGRAMS = "make|snakemake|sparsity-cliff|python|pytest"  # a code within lines that begins with one is a command
Wrong = Iterator[tuple[int, str]]  # (line, what is wrong there, or "")


@dataclass(frozen=True)
class Page:
    """A page in Markdown. `name` is its path in the project."""

    name: str
    text: str

    @cached_property
    def tokens(self) -> list[Token]:
        return MarkdownIt().enable("table").parse(self.text)

    def blocks(self) -> list[tuple[int, str, str]]:
        """(line, language, text) of the blocks between fences."""
        return [(t.map[0] + 1, t.info, t.content) for t in self.tokens if t.type == "fence" and t.map]

    def parts(self, *kinds: str) -> list[tuple[int, Token]]:
        """(line, part) of what stands within lines: links, code, text."""
        lines = [(token.map[0] + 1 if token.map else 0, token.children or []) for token in self.tokens]
        return [(line, child) for line, children in lines for child in children if child.type in kinds]

    def anchors(self) -> set[str]:
        """The anchors that GitHub gives to headings."""
        found: list[str] = []
        for heading, content in zip(self.tokens, self.tokens[1:], strict=False):
            if heading.type == "heading_open":
                words = "".join(child.content for child in content.children or []).lower()
                slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
                same = sum(re.fullmatch(rf"{slug}(-\d+)?", other) is not None for other in found)
                found.append(f"{slug}-{same}" if same else slug)
        return set(found)

    def commands(self) -> list[tuple[int, str]]:
        """(line, command) of shell blocks, and of code within lines that begins with a program."""
        shown = [(line, text.replace("\\\n", " ")) for line, language, text in self.blocks() if language == "sh"]
        lines = [(line, re.sub(r"(^| )\s*#.*", "", each)) for line, text in shown for each in text.splitlines()]
        codes = [(line, code.content) for line, code in self.parts("code_inline")]
        return [(line, each.strip()) for line, each in lines if each.strip()] + [
            (line, code) for line, code in codes if re.match(rf"(\.venv/bin/)?({PROGRAMS}) ", code)
        ]


NAMES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
PAGES = {name: Page(name, (PROJECT / name).read_text()) for name in NAMES}

# ------------------------------------------------------------------------------------------ commands

#: Beginning of a command that is run -> what must be true afterwards, in the words of a shell.
RUN = {
    "python -m": "true",
    "sed -i": "! cmp -s config.yaml before.yaml",
    "export": 'test -e "$PYTHONPATH/snakemake_executor_plugin_submitit/__init__.py"',
    "pip freeze": '! grep "$(sed "s/=.*/==/" requirements-compiled.lock)" requirements.lock >&2',
}


def dry_run(project: Sweep, words: list[str]) -> str:
    assert project.forked
    ours = {"--configfile", "--workflow-profile"} & set(words)  # else it is for any workflow, and an empty one will do
    smallest = ["--configfile", STUDY] if "--configfile" not in words else []
    further = [*(smallest if ours else ["--snakefile", os.devnull]), "--dry-run"]
    status, output = project.forked.run(project.folder, *words[1:], *further)
    return output.strip().splitlines()[-1] if status else ""


def run_table(project: Sweep, words: list[str]) -> str:
    assert project.forked
    status, output = project.forked.cli(project.folder, *words[1:])
    return output.strip().splitlines()[-1] if status else ""


def recipe(project: Sweep, words: list[str]) -> str:
    done = shell(project, shlex.join(["make", "-n", *words[1:]]))
    lines = done.stdout.replace(".venv/bin/", "").splitlines()
    pattern = r"(?:trap [^;]*; )?(snakemake --configfile (?!.* --unlock).*?|sparsity-cliff .*?)(?: \|\| |$)"
    first = next((found[1] for line in lines if (found := re.match(pattern, line))), "")
    return done.stderr if done.returncode else carry_out(first, project) if first else ""


def parts(project: Sweep, words: list[str]) -> str:
    paths = [word for word in words if re.fullmatch(r"[\w.-]+/[\w./-]*", word)]
    inner = [part for word in words if " " in word for part in word.split(" && ") if not part.startswith("cd ")]
    missing = [f"no file {path}" for path in paths if not (PROJECT / path).exists()]
    return "; ".join(filter(None, [*missing, *(carry_out(command, project) for command in inner)]))


def script(project: Sweep, words: list[str]) -> str:
    text = (PROJECT / words[1]).read_text() if (PROJECT / words[1]).is_file() else ""
    unknown = [word for word in words[2:] if word.startswith("--") and f'"{word}"' not in text]
    return "" if text and not unknown else f"no script {words[1]} {' '.join(unknown)}"


#: Beginning of a command that is not run as it stands -> why, and what is done in its place.
EXPLAINED: dict[str, tuple[str, Callable[[Sweep, list[str]], str]]] = {
    "sparsity-cliff": ("a process takes a second; it is run in a forked one", run_table),
    "make": ("installs, and takes minutes; what its recipe first does with a study is carried out", recipe),
    "snakemake": ("trains for minutes, or needs SLURM; a dry run is made", dry_run),
    "pytest": ("takes minutes; its files exist", parts),
    "python": ("benchmarks take minutes; the script exists and has the options", script),
    "sbatch": ("needs SLURM; the command that it wraps is carried out", parts),
    "ssh": ("needs another machine; the command for that machine is carried out", parts),
    "rsync": ("needs another machine; the folder exists", parts),
}


def row(command: str) -> str | None:
    """The row of a command in RUN or EXPLAINED."""
    return next((start for start in [*RUN, *EXPLAINED] if re.match(rf"(\.venv/bin/)?{start}( |$)", command)), None)


def shell(project: Sweep, command: str) -> subprocess.CompletedProcess[str]:
    names = {"HOME": str(project.folder.parent), "PYTHONPATH": str(project.folder / "src")}
    names["PATH"] = f"{BIN}:{os.environ['PATH']}"
    bash = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(bash, cwd=project.folder, env=names, capture_output=True, text=True, timeout=60)


DONE: dict[str, str] = {}  # command -> what went wrong; each is carried out once


def carry_out(command: str, project: Sweep) -> str:
    """Run a command, or do what EXPLAINED says; what went wrong."""
    command, start = command.replace(".venv/bin/", ""), row(command)
    if not start:
        return f"`{command}` is not checked; run it (RUN), or say why not (EXPLAINED)"
    if command not in DONE and start in EXPLAINED:
        DONE[command] = EXPLAINED[start][1](project, shlex.split(command, comments=True))
    elif command not in DONE:
        done = shell(project, f"cp config.yaml before.yaml\n{command}\n{RUN[start]}")
        DONE[command] = f"`{command}` fails {done.stderr}" if done.returncode else ""
    return DONE[command]


def commands(page: Page, project: Sweep) -> Wrong:
    return ((line, carry_out(command, project)) for line, command in page.commands())


# ------------------------------------------------------------------------------------------ links and names

SUFFIXES = "py|md|yaml|smk|sh|toml|lock|cff|png"
PATH = re.compile(rf"\w[\w.-]*/([\w./-]+\.({SUFFIXES})|([\w./-]+/)?)")
HOMES = [PROJECT, PROJECT / "src", PROJECT / "src" / "sparsity_cliff"]
TESTS = "\n".join(path.read_text() for path in (PROJECT / "tests").glob("test_*.py"))
RESULTS = (PROJECT / "results" / "README.md").read_text()
SBATCH = {*resources.REFUSED, "mail-type", "exclusive"}  # its options that are not Snakemake's


def links(page: Page, project: Sweep) -> Wrong:
    for line, part in page.parts("link_open", "image", "text"):
        path, _, anchor = str(part.attrGet("href") or part.attrGet("src") or "").partition("#")
        target = (PROJECT / page.name).parent / path if path else PROJECT / page.name
        if part.type == "text":
            yield line, "a link with spaces, or without an end" if "](" in part.content else ""
        elif re.match(r"\w+:", path):
            yield line, "" if re.match(r"https://[\w.-]+\.\w+(/\S*)?$", path) else f"no https link: {path}"
        elif not target.exists():
            yield line, f"no file {path}"
        elif anchor:
            other = Page(path, target.read_text()) if path else page
            yield line, "" if anchor in other.anchors() else f"no heading {anchor}"


def codes(page: Page, project: Sweep) -> Wrong:
    """Files, options, and tests that code within lines names."""
    for line, code in ((line, part.content) for line, part in page.parts("code_inline")):
        if re.fullmatch(r"results/.+/", code):
            part = re.sub(r"^results/(?!data/)[^/]+/", "results/<study>/", code).removeprefix("results/")
            yield line, "" if f"`{part}" in RESULTS else f"results/README.md does not name {code}"
        elif PATH.fullmatch(code):
            yield line, "" if any((home / code).exists() for home in HOMES) else f"no file {code}"
        elif re.fullmatch(r"test_\w+", code):
            yield line, "" if f"def {code}(" in TESTS else f"no test {code}"
        elif code.startswith("--"):
            flags = re.findall(r"(?:^| )--([a-z][\w-]*)", code)
            unknown = [flag for flag in flags if flag not in options(project) | SBATCH]
            unknown = [flag for flag in unknown if not flag.startswith("slurm-")]  # the plain SLURM plugin's
            yield line, f"no option of snakemake or sbatch: {unknown}" if unknown else ""


@cache
def options(project: Sweep) -> set[str]:
    """The options of Snakemake, those of the plugin included."""
    assert project.forked
    return set(re.findall(r"--([a-z][\w-]*)", project.forked.run(project.folder, "--help")[1]))


# ------------------------------------------------------------------------------------------ blocks

SECTIONS = yaml.safe_load(structure.SCHEMA_FILE.read_text())["properties"].keys()
RULES = re.findall(r"^rule (\w+):", "\n".join(p.read_text() for p in PROJECT.glob("workflow/rules/*.smk")), re.M)


def blocks(page: Page, project: Sweep) -> Wrong:
    for line, language, text in page.blocks():
        if language == "yaml":
            yield line, as_yaml(text, project)
        elif language == "python":
            above = "\n".join(page.text.splitlines()[: line - 1]).rstrip().rpartition("\n\n")[2]
            yield line, as_python(above, text, project)
        elif language == "text" and (said := re.match(r"unknown resource '(\w+)' of rule (\w+)", text)):
            yield (
                line,
                "" if refusal(said[2], {said[1]: 1}).startswith(text.strip()) else "the plugin says it otherwise",
            )
        elif language not in ("sh", "text"):
            yield line, f"a block without language, or of another than python, yaml, sh, text: {language!r}"


def as_yaml(text: str, project: Sweep) -> str:
    try:
        block = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return f"no YAML: {error}"
    if all(isinstance(value, dict) and "function" in value for value in block.values()):
        block = {"activations": block}
    return as_study(block, project) if block.keys() & SECTIONS else as_profile(block, project)


def as_study(block: dict[str, Any], project: Sweep) -> str:
    """Put a part of a study into the smoke study, and let the reader judge."""
    study = yaml.safe_load(DEFAULT)
    first = study["architectures"]["mlp"]  # has what the block leaves open
    for section, part in block.items():
        whole = {name: {**first, **each} for name, each in part.items()} if section == "architectures" else part
        study[section] = {**study.get(section, {}), **whole} if isinstance(whole, dict) else whole
    (project.folder / "block.yaml").write_text(yaml.safe_dump(study))
    return run_table(project, ["sparsity-cliff", "runs", "block.yaml"])


def refusal(rule: str, asked: dict[str, Any]) -> str:
    """What the plugin says of the resources of a rule."""
    try:
        resources.allocation(rule, 1, asked)
    except resources.ResourceError as error:
        return str(error)
    return ""


def as_profile(block: dict[str, Any], project: Sweep) -> str:
    """Use a profile in a dry run, and judge its resources and settings as the plugin does."""
    common, own = block.get("default-resources", {}), block.get("set-resources", {})
    if strange := (block.keys() - options(project)) | (own.keys() - set(RULES)):
        return f"no option of snakemake, or no rule: {strange}"
    ours = {key[9:].replace("-", "_"): value for key, value in block.items() if key.startswith("submitit-")}
    try:
        settings.check(settings.ExecutorSettings(**ours))
    except settings.ApiError as error:
        return str(error)
    (project.folder / "block").mkdir(exist_ok=True)
    (project.folder / "block" / "config.yaml").write_text(yaml.safe_dump(block))
    refused = (refusal(rule, {**common, **asked}) for rule, asked in {"any": {}, **own}.items())
    return next(filter(None, refused), "") or dry_run(project, ["snakemake", "--cores=1", "--profile=block"])


def as_python(above: str, text: str, project: Sweep) -> str:
    """Run a block. It continues a file that the paragraph above names; it may read a trace of the default study."""
    whole = "".join((PROJECT / path).read_text() for path in re.findall(r"`(src/\S+\.py)`", above)) + text
    argv = ["block.py", "out.txt"]
    try:
        for path in re.findall(r'"(results/\S+\.parquet)"', text):
            make_trace(path, project)
        with chdir(project.folder), mock.patch("time.sleep"), mock.patch("signal.signal"), mock.patch("sys.argv", argv):
            exec(compile(whole, "block.py", "exec"), {"__name__": "block"})
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    ruff = [BIN / "ruff", "check", "--isolated", "--select=F821", "--output-format=concise", "-"]
    done = subprocess.run(ruff, input=whole, capture_output=True, text=True)
    return done.stdout if done.returncode else ""


def make_trace(path: str, project: Sweep) -> None:
    """A trace, without rows, of a run of the default study."""
    study = table.open_file(PROJECT / "config.yaml")
    assert path in {f"results/{study.name}/traces/{run}.parquet" for run in study.runs}, f"no trace {path}"
    (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(SCHEMA.empty_table(), project.folder / path)


# ------------------------------------------------------------------------------------------ tests


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, forked: Forked) -> Sweep:
    """A copy of the project, installed, with the files that a reader of the docs has made."""
    made = copy_project(tmp_path_factory.mktemp("docs") / "sparsity-cliff", forked)
    for name in ("Makefile", "config.yaml", "pyproject.toml", "requirements.lock", "requirements-compiled.lock"):
        shutil.copy2(PROJECT / name, made.folder)
    for folder in ("my_lab", "results/laptop/tables"):
        (made.folder / folder).mkdir(parents=True)
    own = {"my_lab/acts.py": ACTS, "my_lab/nets.py": NETS, "my_lab/losses.py": LOSS, "my_lab/data.py": DATA}
    own |= {
        "results/laptop/tables/claims.md": "the ledger",
        "my_lab/__init__.py": "",
        "my.yaml": DEFAULT,
        "corpus.txt": "text",
        "held_out.bin": "",
    }
    for name, text in own.items():
        (made.folder / name).write_text(text)
    (made.folder / ".venv").mkdir()
    (made.folder / ".venv" / "installed").touch()  # or make would show how to install
    return made


def complaints(page: Page, project: Sweep) -> list[str]:
    checks = (links, commands, blocks, codes)
    return [f"{page.name}:{line}: {wrong}" for check in checks for line, wrong in check(page, project) if wrong]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_true(name: str, project: Sweep) -> None:
    assert complaints(PAGES[name], project) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](docs/missing.md)", "no file docs/missing.md"),
        ("![a](docs/images/missing.png)", "no file docs/images/missing.png"),
        ("# Two words: `x`\n[a](#two-words-x)\n[a](#two-words)", "no heading two-words"),
        ("[a](docs/study.md#key)", "no heading key"),
        ("[a](http://example.org)", "no https link"),
        ("[a](https://example.org/a b)", "a link with spaces"),
        ("```\nx\n```", "a block without language"),
        ("```python\nx = 1 +\n```", "SyntaxError"),
        ("```python\nimport sparsity_clif\n```", "No module named 'sparsity_clif'"),
        ("```python\ndef f():\n    return [g for _ in 'ab']\n```", "Undefined name `g`"),
        ('```python\nopen("results/laptop/traces/a.parquet")\n```', "no trace results/laptop/traces/a.parquet"),
        ("```yaml\na: b: c\n```", "no YAML"),
        ("```yaml\nactivations:\n  a: {function: relu2, clipp: 50}\n```", "did you mean clip?"),
        ("```yaml\nactivatons:\n  a: {function: relu}\n```", "no option of snakemake, or no rule: {'activatons'}"),
        ("```yaml\na: {function: relu3}\n```", "unknown activation"),
        ("```yaml\njbos: 3\n```", "no option of snakemake"),
        ("```yaml\nsubmitit-keep-days: -1\n```", "--submitit-keep-days -1 is not valid"),
        ("```yaml\nsubmitit-keep-day: 3\n```", "no option of snakemake"),
        ("```yaml\njobs: many\n```", "must be integer"),
        ("```yaml\nset-resources:\n  trian:\n    gpu: 1\n```", "no rule: {'trian'}"),
        ("```yaml\ndefault-resources:\n  gpus: 1\n```", "did you mean gpu?"),
        ("```text\nunknown resource 'gpus' of rule a; did you mean gres?\n```", "the plugin says it otherwise"),
        ("```sh\nls  # what is here\n```", "`ls` is not checked"),
        ("```sh\nmake swep\n```", "No rule to make target 'swep'"),
        ("```sh\nsparsity-cliff rns\n```", "invalid choice: 'rns'"),
        ("```sh\nsed -i 's/sparsity: 0.59/sparsity: 0.6/' config.yaml\n```", "fails"),
        ("```sh\nexport PYTHONPATH=$HOME/src\n```", "fails"),
        ("```sh\npython -m sparsity_cliff.data.shrads a b\n```", "No module named sparsity_cliff.data.shrads"),
        ("```sh\nsnakemake --nolok \\\n    --cores 1\n```", "unrecognized arguments: --nolok"),
        ("```sh\npython benchmarks/overhead.py --pears 3\n```", "no script benchmarks/overhead.py --pears"),
        ("```sh\nrsync -r result/ other:\n```", "no file result/"),
        ("```sh\nssh other 'cd a && make swep'\n```", "No rule to make target 'swep'"),
        ("`make swep`", "No rule to make target 'swep'"),
        ("`training/lop.py`", "no file training/lop.py"),
        ("`workflow/study/`", "no file workflow/study/"),
        ("`results/laptop/pictures/`", "does not name results/laptop/pictures/"),
        ("`test_nothing`", "no test test_nothing"),
        ("`--retries 1 --nolok`", "no option of snakemake or sbatch: ['nolok']"),
    ],
)
def test_what_is_not_true_is_seen(text: str, wrong: str, project: Sweep) -> None:
    (complaint,) = complaints(Page("README.md", text), project)
    assert wrong in complaint


def test_every_row_of_the_tables_of_commands_is_of_a_command_in_the_docs() -> None:
    shown = {row(command) for page in PAGES.values() for _, command in page.commands()}
    assert {*RUN, *EXPLAINED} - shown == set()


def test_the_command_of_the_slurm_guide_saves_and_resumes(tmp_path: Path) -> None:
    (block,) = (block for _, _, block in PAGES["docs/slurm.md"].blocks() if "SIGTERM" in block)

    def run(sleep: str) -> int:
        code = f"import os, time; time.sleep = lambda _: {sleep}\n{block}"
        return subprocess.run([sys.executable, "-c", code, "out.txt"], cwd=tmp_path, timeout=60).returncode

    assert run(f"os.kill(os.getpid(), {signal.SIGTERM:d})") == 75
    assert ((tmp_path / "out.state").read_text(), (tmp_path / "out.txt").exists()) == ("1", False)
    assert run("None") == 0
    assert (tmp_path / "out.txt").read_text() == "done"
