"""Mutated study files: every one is refused with one line, the same from both commands, or means what it says."""

import contextlib
import json
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Forked
from sweeps import DEFAULT, copy_project

from sparsity_cliff.study import options, reading, table
from sparsity_cliff.study.spec import Study, canonical

SEED = 10  # of the generator
#: Of processor time that a command may take for any of them. A usual study takes 1 to 2.
SECONDS = 4.0
FILE = "study.yaml"

Path_ = tuple[Any, ...]
# What a hand that slips, or a program that writes studies, puts in place of a value: as YAML has it.
VALUES = r"""
    0 1 -1 2 3.5 -0.0 1e3 1e-3 1e30 1e300 1e400 .5 1. 0.999999 1_000 0100 08 0x1F 0b11 1:30 2147483647 2147483648
    9223372036854775808 3000000000 .nan .inf -.inf true no off ~ null abc 'relu' "1e3" "0-1" 0-1 1-0 0-20000000 -1-2
    [] {} [1] [relu] [relu,relu] [[relu]] [1e1] [2.0] {function:¤relu} {function:¤null} {function:¤nope} mlp text all
    {function:¤':'} {function:¤'os:path'} {a:¤{b:¤{c:¤1}}} 2024-01-01 2024-01-01T00:00:00Z !!int¤abc !!binary¤aGk=
    !!python/none &x¤1 *x &x¤[*x] <<:¤1 = - ? @x `x` %x "\n" "\0" "" '¤' "relu\n" é 関数 ٣ {1:¤2} {yes:¤2} random
    {[a]:¤2} {a:¤1,¤a:¤2} default __proto__
""".replace("\n", " ").split(" ")  # ¤ is a blank
VALUES = [text.replace("¤", " ") for text in VALUES if text]
VALUES += [f"'{'n' * 240}'", "n" * 61, "n" * 60, "9" * 5000, "[" * 500]
MARK: Callable[[str, random.Random], str] = lambda text, _: f"\ufeff{text}"  # noqa: E731 - first in a file, or invalid
# What changes the text and not its meaning.
NEUTRAL: list[Callable[[str, random.Random], str]] = [
    lambda text, _: f"# a comment\n{text}",
    lambda text, _: text.replace("\n", "\r\n"),
    MARK,
    lambda text, _: f"---\n{text}...\n",
    lambda text, _: re.sub(r"\b20\b", "2e1", text),
    lambda text, _: re.sub(r"\b10\b", "10.0", text),
    lambda text, _: text.replace("lr: 0.05", "lr: 5.0e-2"),
    lambda text, _: text.replace("microbatch: 4", "'microbatch': +4"),
    lambda text, chance: json.dumps(shuffled(yaml.safe_load(text), chance), indent=1),
    lambda text, chance: yaml.safe_dump(shuffled(yaml.safe_load(text), chance), sort_keys=False),
]


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same with the keys of its mappings in another order, but for names, whose order is that of runs."""
    if isinstance(value, list):
        return [shuffled(item, chance) for item in value]
    if not isinstance(value, dict):
        return value
    keys = chance.sample(list(value), len(value))
    return {key: shuffled(value[key], chance) for key in keys}


def places(value: Any, path: Path_ = ()) -> list[Path_]:
    """The paths of all values within."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(*path, key) for key, _ in inner]
    return [*found, *(deep for key, item in inner for deep in places(item, (*path, key)))]


def render(value: Any) -> str:
    """As YAML in flow style; a Raw is put in as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{render(key)}: {render(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(render, value)) + "]"
    return json.dumps(value)


class Raw(str):
    """Text that stands in the file as it is."""


def mutated_tree(chance: random.Random) -> str:
    """A value replaced, removed, doubled, moved, renamed or nested, somewhere in the tree of a study."""
    tree = yaml.safe_load(DEFAULT)
    for _ in range(chance.choice([1, 1, 1, 2])):
        path = chance.choice(places(tree))
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        last, how = path[-1], chance.choice(["value"] * 6 + ["remove", "rename", "swap", "nest", "repeat"])
        if how == "value" and isinstance(parent[last], int | float) and chance.random() < 0.7:
            parent[last] = Raw(chance.choice(["1", "2", "3.0", "1e1", "4", "0.25", "16", "+5", "0.9"]))
        elif how == "value":
            parent[last] = Raw(chance.choice(VALUES))
        elif how == "remove":
            del parent[last]
        elif how == "swap":
            other = tree
            for key in chance.choice(places(tree)):
                other = other[key]
            parent[last] = json.loads(json.dumps(other)) if not isinstance(other, Raw) else other
        elif how == "nest":
            parent[last] = chance.choice([[parent[last]], {"function": parent[last]}, {str(last): parent[last]}])
        elif isinstance(parent, list):
            parent.append(parent[last])
        elif how == "rename":
            parent[Raw(chance.choice(VALUES))] = parent.pop(last)
        else:
            parent[Raw(json.dumps(last))] = parent[last]  # another object than the key that stands there
        if not places(tree):
            break
    top = [f"{render(key)}: {render(value)}" for key, value in tree.items()]
    return "\n".join(top) + "\n"


def mutated_text(chance: random.Random) -> bytes:
    """Characters, lines or bytes removed, doubled or put in anywhere."""
    text = DEFAULT
    lines = text.splitlines(keepends=True)
    place, how = chance.randrange(len(lines)), chance.randrange(7)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(place, lines[place])
    elif how == 2:
        lines[place] = chance.choice([" ", "\t", "- ", "  "]) + lines[place]
    elif how == 3:
        at = chance.randrange(len(lines[place]))
        lines[place] = lines[place][:at] + chance.choice("{}[]:,&*!|>%@`'\"#-?~\0\x1b\u2028") + lines[place][at:]
    elif how == 4:
        return text.encode()[: chance.randrange(len(text))]
    elif how == 5:
        raw = bytearray(text.encode())
        raw[chance.randrange(len(raw))] = chance.randrange(256)
        return bytes(raw)
    else:
        numbers = list(re.finditer(r"\d[\d.e-]*", text))
        number = chance.choice(numbers)
        return (text[: number.start()] + chance.choice(VALUES) + text[number.end() :]).encode()
    return "".join(lines).encode()


def mutations(count: int, seed: int) -> list[tuple[str, bytes]]:
    """(kind, contents) of mutated studies, the same for the same seed."""
    chance = random.Random(seed)
    found: list[tuple[str, bytes]] = []
    while len(found) < count:
        kind = chance.choice(["tree"] * 6 + ["text"] * 3 + ["neutral"])
        if kind == "neutral":
            text = DEFAULT
            for change in sorted(chance.sample(NEUTRAL[:8], 2), key=lambda change: change is MARK):
                text = change(text, chance)
            found.append(
                (kind, chance.choice([text, NEUTRAL[8](DEFAULT, chance), NEUTRAL[9](DEFAULT, chance)]).encode())
            )
        else:
            made = mutated_tree(chance).encode() if kind == "tree" else mutated_text(chance)
            found.append((kind, made))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("mutations") / "project").folder


def read(project: Path, kind: str, content: bytes) -> Study | str:
    """What the reader makes of a study: a plan, or the one line that says what is wrong. Any other answer fails."""
    (project / FILE).write_bytes(content)
    before = files(project)
    with contextlib.chdir(project):
        try:
            plan = table.open_file(FILE)
        except reading.StudyError as error:
            line = str(error)
            assert kind != "neutral", line
            assert re.fullmatch(rf"{FILE}: \S.*", line), line
            assert len(line) < 1000, line
            return line
        finally:
            assert files(project) == before, "files are written"
    accepted(plan, kind)
    return plan


def files(project: Path) -> list[Path]:
    return sorted(path for path in project.iterdir() if path.name != ".snakemake")


def ask_both(project: Path, forked: Forked, kind: str, content: bytes) -> None:
    """Both commands print what the reader says, or plan and list the runs that it has found."""
    answer, before = read(project, kind, content), files(project)
    command = ("--configfile", FILE, "--cores", "1", "--dry-run", "--quiet", "host")
    status, planned = forked.run(project, *command, timeout=60)
    assert forked.cpu < SECONDS, f"snakemake takes {forked.cpu} s"
    listed, printed = forked.cli(project, "runs", FILE, timeout=60)
    assert forked.cpu < SECONDS, f"runs takes {forked.cpu} s"
    assert files(project) == before, "files are written"
    if isinstance(answer, str):
        said = [line for line in planned.splitlines() if line and not line.startswith("Using workflow specific prof")]
        assert (status, said) == (1, [f"error: {answer}"]), planned
        assert (listed, printed) == (1, f"error: {answer}\n")
        return
    assert (status, listed) == (0, 0), planned + printed
    assert set(re.findall(r"^    wildcards: run=(\S+)$", planned, re.M)) == set(answer.runs)
    rows = [line.split()[:4] for line in printed.splitlines()[1:-1]]
    steps = [json.loads(run.spec)["training"]["steps"] for run in answer.runs.values()]
    runs = zip(answer.runs.values(), steps, strict=True)
    assert rows == [[run.id, run.dataset, str(len(run.seeds)), str(steps)] for run, steps in runs]


def accepted(plan: Study, kind: str) -> None:
    """What is accepted is a plan whose specs are in the ranges that are documented."""
    again = table.load(json.loads(canonical(plan.config)))
    assert again.runs == plan.runs
    if kind == "neutral":
        assert specs(plan) == specs(table.load(yaml.safe_load(DEFAULT)))
    for run in plan.runs.values():
        spec = json.loads(run.spec)
        training, probes = spec["training"], spec["probes"]
        assert canonical(spec) == run.spec
        assert all(type(n) is int and 1 <= n <= options.LARGEST for n in (training["steps"], training["batch_size"]))
        assert all(n is None or (type(n) is int and n >= 1) for n in (training["microbatch"], probes["examples"]))
        assert training["processes"] <= training["batch_size"]
        assert training["schedule"].get("warmup", 0) < training["steps"]
        assert type(probes["every"]) is int
        assert spec["seeds"] == list(range(spec["seeds"][0], spec["seeds"][-1] + 1))
        assert 0 <= spec["seeds"][0] <= spec["seeds"][-1] <= options.LARGEST
        assert len(f"{run.id}.parquet") < 255


def specs(plan: Study) -> dict[str, str]:
    return {run.id: run.spec for run in plan.runs.values()}


def test_two_hundred_mutated_studies_are_read_or_refused(tmp_path: Path) -> None:
    answers = [read(tmp_path, *mutation) for mutation in mutations(200, SEED)]
    refused = sum(isinstance(answer, str) for answer in answers)
    assert refused >= 100  # or the seed would show little
    assert len(answers) - refused >= 20


def test_both_commands_answer_a_mutated_study_as_the_reader_does(project: Path, forked: Forked) -> None:
    for mutation in mutations(200, SEED)[::25]:
        ask_both(project, forked, *mutation)


PARTS = 20


@pytest.mark.large
@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_mutated_studies_get_a_right_answer(project: Path, forked: Forked, part: int) -> None:
    wrong = []
    for number, mutation in list(enumerate(mutations(2000, SEED + 1)))[part::PARTS]:
        ask = partial(ask_both, project, forked) if number // PARTS % 5 == 0 else partial(read, project)
        try:
            ask(*mutation)
        except AssertionError as error:
            wrong.append(f"{number}: {str(error)[:500]}")
    assert not wrong, "\n".join(wrong)
