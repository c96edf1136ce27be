"""What source code says of itself: found and read without an import, and digests of what counts and of nothing else."""

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_cliff.study import digests, registry, source
from sparsity_cliff.study.options import KINDS, Option, convert, options_of
from sparsity_cliff.study.source import SourceError

BOMB = 'raise RuntimeError("this package must not be imported")\n'


class Package:
    """Source files in a folder on sys.path; `forget` makes later questions read them again."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        self.forget()

    @staticmethod
    def forget() -> None:
        digests.forget()
        sys.path_importer_cache.clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """A package `lab` whose every module raises when it is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    made = Package(tmp_path)
    made.write("lab/__init__.py", BOMB)
    yield made
    assert not any(name == "lab" or name.startswith("lab.") for name in sys.modules)
    made.forget()


# ------------------------------------------------------------------------------------------ modules


def test_a_modules_file_is_found_without_importing_it(package: Package) -> None:
    package.write("lab/sub/deep.py", BOMB)  # a namespace package between
    package.write("single.py", BOMB)
    assert source.path_of("lab") == package.folder / "lab" / "__init__.py"
    assert source.path_of("lab.sub.deep") == package.folder / "lab" / "sub" / "deep.py"
    assert source.path_of("single") == package.folder / "single.py"


@pytest.mark.parametrize("name", ["no_such_module", "lab.nothing", "lab.nothing.deeper", "sparsity_cliff.nothing"])
def test_a_module_that_is_not_there_is_named(package: Package, name: str) -> None:
    with pytest.raises(
        SourceError, match=f"^no module named {name} in the working directory, on PYTHONPATH, or installed$"
    ):
        source.path_of(name)


@pytest.mark.parametrize("name", ["lab.sub", "numpy._core._multiarray_umath"], ids=["namespace", "compiled"])
def test_a_module_without_a_source_file_is_named(package: Package, name: str) -> None:
    package.write("lab/sub/deep.py", "")
    with pytest.raises(SourceError, match=f"^module {name} has no Python source file$"):
        source.path_of(name)


def test_a_syntax_error_is_one_line_with_its_place(package: Package) -> None:
    package.write("lab/broken.py", "x = 1\ndef f(:\n")
    with pytest.raises(SourceError) as caught:
        source.tree_of("lab.broken")
    assert str(caught.value).startswith(f"{package.folder / 'lab' / 'broken.py'}, line 2: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(package: Package) -> None:
    package.write("lab/binary.py", "")
    (package.folder / "lab" / "binary.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(SourceError, match=r"binary\.py, line \d"):
        source.tree_of("lab.binary")


def test_docstrings_are_no_code(package: Package) -> None:
    package.write(
        "lab/a.py", '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self):\n        """Doc."""\n        return 1\n'
    )
    text = "class A:\n\n    def f(self):\n        return 1"
    assert ast.unparse(source.tree_of("lab.a")) == text
    package.write("lab/a.py", 'def f():\n    """Only this."""\n')
    assert ast.unparse(source.tree_of("lab.a")) == "def f():\n    pass"
    package.write("lab/a.py", 'def f():\n    x = """Not a docstring."""\n    """Nor this."""\n')
    assert "Not a docstring" in ast.unparse(source.tree_of("lab.a"))


def test_constants_are_literals_with_a_default(package: Package) -> None:
    package.write("lab/a.py", 'KIND = "image"\nSHAPE: tuple[int, ...] = (3, 8)\nMADE = make()\n')
    assert source.constant("lab.a", "KIND") == "image"
    assert source.constant("lab.a", "SHAPE") == (3, 8)
    assert source.constant("lab.a", "LOSSES") is None
    assert source.constant("lab.a", "LOSSES", ()) == ()
    with pytest.raises(SourceError, match=r"^lab\.a\.MADE is not a literal: make\(\)$"):
        source.constant("lab.a", "MADE")


# ------------------------------------------------------------------------------------------ registries


@pytest.mark.parametrize("kind", registry.REGISTRIES)
def test_every_entry_leads_to_the_object_that_importing_gives(kind: str) -> None:
    for name in source.entries(kind):
        module, attribute = source.locate(kind, name)
        assert getattr(sys.modules[module] if module in sys.modules else __import__(module, fromlist=["x"]), attribute)
        assert registry.load(kind, name).__name__ == attribute


def test_an_importable_object_is_taken_as_written() -> None:
    assert source.locate("activation", "my_lab.acts:MyAct") == ("my_lab.acts", "MyAct")


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(SourceError) as caught:
        source.locate("loss", "crossentropy")
    assert str(caught.value) == "unknown loss 'crossentropy'; valid: cross_entropy, mse, mpsenet, or module:object"


@pytest.mark.parametrize("text", ["TABLE = dict(a=1)", "TABLE = None", ""])
def test_a_registry_must_be_a_dict_literal(package: Package, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setitem(registry.REGISTRIES, "loss", ("lab.losses", "TABLE"))
    package.write("lab/losses.py", text)
    with pytest.raises(SourceError, match=r"^lab\.losses\.TABLE is not a dict literal$"):
        source.entries("loss")


# ------------------------------------------------------------------------------------------ options


def test_options_are_the_keyword_only_arguments(package: Package) -> None:
    package.write(
        "lab/acts.py",
        """
        def f(features=3, *, alpha: Positive, beta: Share = 0.5, kind: Literal["a", "b"] = "a", none=None):
            pass
        class WithInit(Base):
            def other(self, *, not_me: int = 1): pass
            def __init__(self, *, depth: Count = 2): pass
        class Without(Base):
            pass
        """,
    )
    assert list(options_of("activation", "lab.acts:f").values()) == [
        Option("alpha", "Positive", True, None),
        Option("beta", "Share", False, 0.5),
        Option("kind", "Literal['a', 'b']", False, "a"),
        Option("none", "missing", False, None),
    ]
    assert [option.name for option in options_of("activation", "lab.acts:WithInit").values()] == ["depth"]
    assert options_of("activation", "lab.acts:Without") == {}


@pytest.mark.parametrize("name", ["missing", "number", "imported"])
def test_what_is_no_function_or_class_is_refused(package: Package, name: str) -> None:
    package.write("lab/acts.py", "from torch.nn import imported\nnumber = 3\n")
    with pytest.raises(SourceError, match=f"^module lab.acts has no function or class {name}$"):
        options_of("activation", f"lab.acts:{name}")


def test_an_object_of_a_missing_module_is_refused() -> None:
    with pytest.raises(SourceError, match="no module named no_such_module"):
        options_of("activation", "no_such_module:act")


# ------------------------------------------------------------------------------------------ values

numbers = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
NUMERIC = {
    "int": lambda x: x == int(x),
    "Count": lambda x: x == int(x) and x >= 1,
    "Size": lambda x: x == int(x) and x >= 0,
    "float": lambda x: True,
    "Share": lambda x: 0 <= x < 1,
    "Momentum": lambda x: 0 <= x < 1,
    "Positive": lambda x: x > 0,
    "NonNegative": lambda x: x >= 0,
}


def test_every_numeric_word_is_tested_here() -> None:
    assert set(KINDS) == {*NUMERIC, "bool", "str"}


@pytest.mark.parametrize("annotation", NUMERIC)
@given(value=numbers | st.sampled_from([0, 1, -1, 0.0, -0.0, 1.0, 0.5, 2.0, 1 - 2**-53]))
def test_numbers_are_converted_or_refused(annotation: str, value: float) -> None:
    if not NUMERIC[annotation](value):
        with pytest.raises(ValueError, match=r"^valid: a"):
            convert(annotation, value)
        return
    converted = convert(annotation, value)
    assert converted == value
    assert type(converted) is (int if annotation in ("int", "Count", "Size") else float)


@pytest.mark.parametrize("annotation", NUMERIC)
@pytest.mark.parametrize("value", [True, False, None, "1", [1], {}, float("nan"), float("inf"), -(10**400)], ids=repr)
def test_what_is_no_finite_number_is_refused(annotation: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^valid: a"):
        convert(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
    [
        ("bool", True, True),
        ("str", "1", "1"),
        ("Count | None", None, None),
        ("Count | None", 3.0, 3),
        ('Literal["a", "b"]', "b", "b"),
        ("Literal['a']", "a", "a"),
        ("Literal[1, 2]", 2, 2),
        ("list[Count]", [1.0, 2], [1, 2]),
        ("tuple[Share, ...] | None", None, None),
        ("list[Literal['a', 'b']]", ("a", "a"), ["a", "a"]),
        ("ActivationName", "relu", "relu"),
        ("Optional[float]", None, None),
        ("Optional[float]", 2, 2.0),
        ("typing.Optional[Count]", 3.0, 3),
        ("Union[Count, None]", None, None),
        ("None | Count", 3, 3),
        ("'Count | None'", 3, 3),
        ("Count | Literal['all']", "all", "all"),
        ("registry.Share", 0.5, 0.5),
        ("tuple[Share, ...]", [0, 0.5], [0.0, 0.5]),
        ("tuple[int, str]", [1, "a"], [1, "a"]),
        ("Sequence[int]", [1], [1]),
    ],
)
def test_values_that_fit(annotation: str, value: Any, converted: Any) -> None:
    found = convert(annotation, value)
    assert (found, type(found)) == (converted, type(converted))


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        ("bool", 1, "valid: true or false"),
        ("bool", "yes", "valid: true or false"),
        ("str", 1, "valid: a string"),
        ("Count | None", 0, "valid: an integer from 1 to 2147483647 or null"),
        ("Count", None, "valid: an integer from 1 to 2147483647"),
        ("Share", 1, "valid: a number from 0 to below 1"),
        ("Literal['a', 'b']", "c", "valid: a, b"),
        ("Literal['a']", "", "valid: a"),
        ("Literal['a', 'b']", ["a"], "valid: a, b"),
        ("list[Count]", [], "valid: a non-empty list"),
        ("list[Count]", 3, "valid: a non-empty list"),
        ("list[Count]", "12", "valid: a non-empty list"),
        ("list[Count]", [1, 0], "valid: an integer from 1 to 2147483647"),
        ("Optional[float]", "x", "valid: a number or null"),
        ("Count | Literal['all']", "some", "valid: an integer from 1 to 2147483647 or all"),
        ("tuple[int, str]", [1], "valid: a list of 2"),
        ("Literal[1, 2]", True, "valid: 1, 2"),
        ("Count", 2**31, "valid: an integer from 1 to 2147483647"),
        ("int", 2**63, "valid: an integer"),
    ],
)
def test_values_that_do_not_fit(annotation: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match="valid") as caught:
        convert(annotation, value)
    assert str(caught.value) == words


@pytest.mark.parametrize("value", ["rellu", "topk", "my_lab.acts:MyAct", 3, None, ["relu"]], ids=str)
def test_an_unknown_activation_name_lists_the_valid_ones(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^valid: relu, "):
        convert("ActivationName", value)


@pytest.mark.parametrize("annotation", ["Module", "dict", "dict[str, int]", "Literal[x]", "Optional[Module]"])
def test_an_annotation_that_cannot_be_checked_is_named(annotation: str) -> None:
    with pytest.raises(ValueError, match=r"annotation '.*' is not supported; valid: bool, int"):
        convert(annotation, 1)


def test_an_option_without_an_annotation_is_named(package: Package) -> None:
    package.write("lab/acts.py", "def f(*, alpha=1.0): pass\n")
    option = options_of("activation", "lab.acts:f")["alpha"]
    with pytest.raises(ValueError, match=r"annotation 'missing' is not supported; valid"):
        convert(option.annotation, 1.0)


# ------------------------------------------------------------------------------------------ imports


@pytest.mark.parametrize(
    ("statement", "reached"),
    [
        ("import lab.b", {"lab.b"}),
        ("import lab.b as b, torch, os.path", {"lab.b"}),
        ("from lab import b", {"lab.b"}),
        ("from lab.b import thing", {"lab.b"}),
        ("from lab.b import *", {"lab.b"}),
        ("from . import b", {"lab.b"}),
        ("from .b import thing", {"lab.b"}),
        ("def f():\n    from lab import b\n", {"lab.b"}),
        ("class A:\n    def f(self):\n        if True:\n            import lab.b\n", {"lab.b"}),
        ("from .sub import c", {"lab.sub", "lab.sub.c", "lab.b"}),
        ("import lab.sub.c", {"lab.sub", "lab.sub.c", "lab.b"}),
        ("from lab.sub import thing", {"lab.sub"}),
        ("import torch\nfrom numpy import linalg", set()),
        ("lab_b = 'lab.b'  # import lab.b", set()),
    ],
)
def test_reach_follows_every_way_to_import(package: Package, statement: str, reached: set[str]) -> None:
    package.write("lab/a.py", statement + "\n" + BOMB)
    package.write("lab/b.py", BOMB)
    package.write("lab/sub/__init__.py", BOMB)
    package.write("lab/sub/c.py", "from ..b import thing\n" + BOMB)
    assert digests.reach(frozenset({"lab.a"})) == {"lab", "lab.a", *reached}


def test_reach_follows_circles_and_the_packages_own_init(package: Package) -> None:
    package.write("lab/__init__.py", "from .c import thing\n" + BOMB)
    package.write("lab/a.py", "from lab import b\n")
    package.write("lab/b.py", "from lab import a\n")
    package.write("lab/c.py", "thing = 1\n")
    assert digests.reach(frozenset({"lab.a"})) == {"lab", "lab.a", "lab.b", "lab.c"}


def test_the_code_of_a_script_is_its_own_and_that_of_all_its_imports(package: Package, tmp_path: Path) -> None:
    """A script of the workflow has no module name, and its digest must not depend on the folder of the clone."""
    script = tmp_path / "draw.py"
    script.write_text("import os\n\nif os.sep:\n    from sparsity_cliff.traces import unfinished, origin\n")
    package.write("lab/a.py", "thing = 1\n")
    code = digests.code((script, "lab.a"))
    imports = digests.reach(frozenset({"sparsity_cliff.traces.unfinished", "sparsity_cliff.traces.origin"}))
    assert code.keys() == {"draw.py", "lab", "lab.a", *imports}
    (tmp_path / "elsewhere").mkdir()
    moved = script.rename(tmp_path / "elsewhere" / "draw.py")
    assert digests.code((moved, "lab.a")) == code


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_reach_leaves_out_what_is_installed_anywhere(
    package: Package, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch is in a virtual environment that sees the system's packages, or in the user's own site-packages."""
    package.write(f"elsewhere/{folder}/installed.py", BOMB)
    monkeypatch.syspath_prepend(package.folder / "elsewhere" / folder)
    package.write("beside.py", BOMB)
    package.write("lab/a.py", "import installed\nimport beside\nimport json\nimport sys\n")
    assert digests.reach(frozenset({"lab.a"})) == {"lab", "lab.a", "beside"}


def test_training_reaches_what_it_uses_and_no_more() -> None:
    code = digests.code(
        "sparsity_cliff.training.loop", frozenset({("model", "mlp"), ("data", "digits"), ("loss", "mse")})
    )
    short = {name.removeprefix("sparsity_cliff.") for name in code}
    used = {"training.loop", "probes.weights", "networks.models.mlp", "data.sources.digits", "networks.losses"}
    assert used <= short
    unused = {"networks.models.vit", "data.sources.cifar", "study.table", "study.source", "training.checkpoint"}
    assert not short & {*unused, "training.job", "traces.writer", "analysis.collect", "figures"}


# ------------------------------------------------------------------------------------------ digests

CODE = '''
"""Doc."""
import os
LIMIT = 3  # why


def f(x):
    """Doc."""
    return x + LIMIT
'''


def digest(package: Package, text: str) -> str:
    package.write("lab/a.py", text)
    return digests.code("lab.a")["lab.a"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why", "# for another reason"),
        ('"""Doc."""', '"""Other words."""'),
        ('"""Doc."""', ""),
        ("x + LIMIT", "(x\n            +LIMIT)"),
        ("\n\n\ndef", "\ndef"),
        ("LIMIT = 3", "LIMIT=0x3"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(package: Package, old: str, new: str) -> None:
    assert old in CODE
    assert digest(package, CODE) == digest(package, CODE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("x + LIMIT", "x - LIMIT"), ("import os", "import sys"), ("def f(x)", "def f(x=0)")],
)
def test_code_counts(package: Package, old: str, new: str) -> None:
    assert old in CODE
    assert digest(package, CODE) != digest(package, CODE.replace(old, new))


REGISTRY = """
import math
EPS = 1e-5
SLOPE = 0.1

def shared(x):
    return x + EPS

def only_by_b(x):
    return x * SLOPE

def a():
    return shared

class b:
    f = only_by_b
    g = shared

def used_by_another_module():
    return 5

def in_no_entry():
    return 6

TABLE = {"a": a, "b": b, "c": "lab.c:C"}
"""


@pytest.fixture
def table(package: Package, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A registry of losses of the package `lab`."""
    monkeypatch.setitem(registry.REGISTRIES, "loss", ("lab.losses", "TABLE"))
    package.write("lab/losses.py", REGISTRY)
    package.write("lab/train.py", "from .losses import in_no_entry\n")
    package.write("lab/c.py", "from lab.d import x\nC = 1\n")
    package.write("lab/d.py", "x = 1\n")
    return package


def changes(package: Package, old: str, new: str) -> set[str]:
    """Which of the entries of the registry an edit changes the code of."""
    before = {name: digests.code("lab.train", frozenset({("loss", name)})) for name in "abc"}
    assert REGISTRY.count(old) == 1
    package.write("lab/losses.py", REGISTRY.replace(old, new))
    return {name for name in before if digests.code("lab.train", frozenset({("loss", name)})) != before[name]}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('"a": a, ', '"new": a, "a": a, ', ""),  # a new entry
        ('"a": a, "b": b', '"b": b, "a": a', ""),  # another order
        ("return shared", "return shared(1)", "a"),
        ("g = shared", "g = None", "b"),
        ("x * SLOPE", "x / SLOPE", "b"),
        ("SLOPE = 0.1", "SLOPE = 0.2", "b"),
        ('"b": b', '"b": partial(b)', "b"),
        ('"lab.c:C"', '"lab.c:D"', "c"),
        ("import math", "import cmath", "abc"),
        ("return 6", "return 7", "abc"),
    ],
)
def test_only_what_a_run_selects_from_a_registry_counts(table: Package, old: str, new: str, changed: str) -> None:
    assert changes(table, old, new) == set(changed)


@pytest.mark.parametrize(("old", "new"), [("EPS = 1e-5", "EPS = 1e-6"), ("x + EPS", "x - EPS")])
def test_shared_helpers_count_for_all_that_use_them(table: Package, old: str, new: str) -> None:
    assert {"a", "b"} <= changes(table, old, new)


def test_names_that_other_modules_import_count(table: Package) -> None:
    table.write("lab/train.py", "from lab.losses import b\n")
    assert changes(table, "x * SLOPE", "x / SLOPE") == {"a", "b", "c"}


def test_an_entry_with_a_file_of_its_own_adds_that_file_and_what_it_imports(table: Package) -> None:
    plain = digests.code("lab.train", frozenset({("loss", "a")}))
    assert set(plain) == {"lab", "lab.train", "lab.losses"}
    own = digests.code("lab.train", frozenset({("loss", "c")}))
    assert set(own) == {*plain, "lab.c", "lab.d"}
    table.write("lab/d.py", "x = 2\n")
    after = digests.code("lab.train", frozenset({("loss", "c")}))
    assert {name for name in own if own[name] != after[name]} == {"lab.d"}


def test_an_importable_object_of_another_package_adds_its_files(table: Package) -> None:
    table.write("other/__init__.py", BOMB)
    table.write("other/acts.py", "from . import helper\ndef act(): pass\n")
    table.write("other/helper.py", BOMB)
    code = digests.code("lab.train", frozenset({("loss", "other.acts:act")}))
    assert {"other", "other.acts", "other.helper", "lab.losses"} <= set(code)
    assert "other" not in sys.modules


@pytest.mark.parametrize("statement", ["from lab import losses", "import lab.losses as x", "from lab.losses import *"])
def test_all_of_a_registrys_module_that_is_imported_as_a_whole_counts(table: Package, statement: str) -> None:
    table.write("lab/train.py", f"{statement}\n")
    assert changes(table, "x * SLOPE", "x / SLOPE") == {"a", "b", "c"}
