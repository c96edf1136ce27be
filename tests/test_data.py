"""Data sources, the data stage, and the one file that training reads. Nothing here needs a network."""

import hashlib
import io
import json
import pickle
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10, CIFAR100

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.data.layouts.labeled import Labeled
from sparsity_cliff.data.loading import load
from sparsity_cliff.data.prepare import prepare
from sparsity_cliff.data.sources import SOURCES
from sparsity_cliff.data.sources.cifar import cifar10, cifar100
from sparsity_cliff.data.sources.digits import digits
from sparsity_cliff.data.sources.mnist1d import mnist1d
from sparsity_cliff.study import registry, source

Arrays = dict[str, np.ndarray]
EMBEDDED = ["mnist1d", "digits"]


@pytest.fixture(scope="module", params=EMBEDDED)
def embedded(request: pytest.FixtureRequest) -> tuple[str, Arrays]:
    """Name and arrays of a source that needs no network."""
    return request.param, registry.load("data", request.param)(Path("nowhere"))


def rows(x: np.ndarray) -> set[bytes]:
    return {example.tobytes() for example in x}


# ------------------------------------------------------------------------------------------ embedded sources


def test_arrays_have_the_shapes_and_types_that_the_file_states(embedded: tuple[str, Arrays]) -> None:
    name, arrays = embedded
    module = source.locate("data", name)[0]
    shape = tuple(source.constant(module, "SHAPE"))
    assert len(shape) == {"signal": 1, "image": 3}[source.constant(module, "KIND")]
    assert set(arrays) == {"x_train", "y_train", "x_test", "y_test"}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert x.shape == (len(y), *shape)
        assert set(y) == set(range(10))


def test_inputs_are_standardized(embedded: tuple[str, Arrays]) -> None:
    name, arrays = embedded
    x = arrays["x_train"] if name == "digits" else np.concatenate([arrays["x_train"], arrays["x_test"]])
    assert x.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert x.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_sources_give_the_same_arrays_again(embedded: tuple[str, Arrays]) -> None:
    name, arrays = embedded
    np.random.seed(99)  # noqa: NPY002 (whatever state others left the global generator in)
    again = registry.load("data", name)(Path("elsewhere"))
    assert all(np.array_equal(arrays[key], again[key]) for key in arrays)


def test_no_example_is_in_both_training_and_test_set(embedded: tuple[str, Arrays]) -> None:
    _, arrays = embedded
    assert not rows(arrays["x_train"]) & rows(arrays["x_test"])


def test_mnist1d_is_the_published_set() -> None:
    # 4,000 and 1,000 examples of 40 values (arXiv 2011.14439, section 2)
    arrays = mnist1d(Path("nowhere"))
    assert arrays["x_train"].shape == (4000, 40)
    assert arrays["x_test"].shape == (1000, 40)
    assert np.bincount(np.concatenate([arrays["y_train"], arrays["y_test"]])).tolist() == [500] * 10


def test_mnist1d_gives_as_many_examples_as_asked() -> None:
    arrays = mnist1d(Path("nowhere"), examples=100)
    assert (len(arrays["x_train"]), len(arrays["x_test"])) == (80, 20)


def test_more_signals_can_be_held_out() -> None:
    arrays = mnist1d(Path("nowhere"), examples=5010, held_out=1003)
    assert (len(arrays["x_train"]), len(arrays["x_test"])) == (4007, 1003)
    assert not rows(arrays["x_train"]) & rows(arrays["x_test"])


def test_more_digits_can_be_held_out() -> None:
    arrays = digits(Path("nowhere"), examples=300, held_out=797)
    assert (len(arrays["x_train"]), len(arrays["x_test"])) == (300, 797)
    assert np.bincount(arrays["y_test"]) / 797 == pytest.approx(0.1, abs=0.004)  # stratified
    every = digits(Path("nowhere"), held_out=797)
    assert len(every["x_train"]) == 1000
    assert not rows(every["x_train"]) & rows(every["x_test"])


def test_digits_are_all_1797_with_the_same_classes_in_both_parts() -> None:
    arrays = digits(Path("nowhere"))
    assert len(arrays["y_train"]) + len(arrays["y_test"]) == 1797
    assert len(arrays["y_test"]) == 360
    shares = [np.bincount(arrays[key]) / len(arrays[key]) for key in ("y_train", "y_test")]
    assert shares[0] == pytest.approx(shares[1], abs=0.005)
    image = arrays["x_train"][0, 0]
    assert np.ptp(image[:, 3]) > np.ptp(image[:, 0])  # strokes stand in the middle columns, not at the left edge


# ------------------------------------------------------------------------------------------ CIFAR

KINDS = {"cifar10": (cifar10, CIFAR10, 10), "cifar100": (cifar100, CIFAR100, 100)}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class Server:
    """An archive in CIFAR's format, small, served here, and torchvision's tables patched to fetch it."""

    def __init__(self, folder: Path, dataset: Any, classes: int, monkeypatch: pytest.MonkeyPatch):
        random = np.random.default_rng(0)
        self.images: dict[str, np.ndarray] = {}
        self.labels: dict[str, list[int]] = {}
        self.archive = folder / "server" / dataset.filename
        self.archive.parent.mkdir()
        key, tables = "labels" if classes == 10 else "fine_labels", {}
        with tarfile.open(self.archive, "w:gz") as tar:

            def add(name: str, content: Any) -> str:
                data = pickle.dumps(content)
                member = tarfile.TarInfo(f"{dataset.base_folder}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                return hashlib.md5(data).hexdigest()

            for part in ("train_list", "test_list"):
                tables[part] = []
                images, labels = [], []
                for name, _ in getattr(dataset, part):
                    data = random.integers(0, 256, (20, 3 * 32 * 32), dtype=np.uint8)
                    named = [int(label) for label in random.permutation(classes)[:20].tolist() * 2][:20]
                    tables[part].append([name, add(name, {"data": data, key: named})])
                    images.append(data)
                    labels += named
                self.images[part] = np.concatenate(images).reshape(-1, 3, 32, 32)
                self.labels[part] = labels
            meta = dataset.meta
            md5 = add(meta["filename"], {meta["key"]: [f"class {i}" for i in range(classes)]})
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        self.http = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(self.archive.parent)))
        Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setattr(dataset, "url", f"http://127.0.0.1:{self.http.server_port}/{dataset.filename}")
        monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(self.archive.read_bytes()).hexdigest())
        monkeypatch.setattr(dataset, "meta", {**meta, "md5": md5})
        for part, table in tables.items():
            monkeypatch.setattr(dataset, part, table)

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, Server, Any]]:
    """(our function, what is served, torchvision's class)"""
    function, dataset, classes = KINDS[request.param]
    served = Server(tmp_path, dataset, classes, monkeypatch)
    yield function, served, dataset
    served.stop()


def test_cifar_is_what_was_fetched_standardized_per_channel(server: tuple[Any, Server, Any], tmp_path: Path) -> None:
    function, served, _ = server
    arrays = function(tmp_path / "raw")
    train = served.images["train_list"].astype(np.float64)
    mean, deviation = (getattr(train, what)(axis=(0, 2, 3), keepdims=True) for what in ("mean", "std"))
    for part in ("train", "test"):
        expected = (served.images[f"{part}_list"] - mean) / deviation
        assert arrays[f"x_{part}"].dtype == np.float32
        assert arrays[f"x_{part}"] == pytest.approx(expected, abs=1e-5)
        assert arrays[f"y_{part}"].dtype == np.int64
        assert arrays[f"y_{part}"].tolist() == served.labels[f"{part}_list"]


def test_cifar_needs_no_network_once_fetched(server: tuple[Any, Server, Any], tmp_path: Path) -> None:
    function, served, dataset = server
    first = function(tmp_path / "raw")
    served.stop()
    (tmp_path / "raw" / dataset.filename).unlink()
    again = function(tmp_path / "raw")
    assert all(np.array_equal(first[key], again[key]) for key in first)


def test_cifar_with_a_wrong_checksum_is_refused(
    server: tuple[Any, Server, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, _, dataset = server
    monkeypatch.setattr(dataset, "tgz_md5", "0" * 32)
    with pytest.raises(RuntimeError, match="corrupted"):
        function(tmp_path / "raw")


def test_a_changed_file_of_cifar_is_fetched_anew(server: tuple[Any, Server, Any], tmp_path: Path) -> None:
    function, _, dataset = server
    first = function(tmp_path / "raw")
    (tmp_path / "raw" / dataset.base_folder / dataset.test_list[0][0]).write_bytes(b"torn")
    assert np.array_equal(function(tmp_path / "raw")["x_test"], first["x_test"])


# ------------------------------------------------------------------------------------------ the file


def small() -> Arrays:
    random = np.random.default_rng(0)
    return {
        "x_train": random.normal(size=(6, 4)).astype(np.float32),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": random.normal(size=(2, 4)).astype(np.float32),
        "y_test": np.array([3, 0]),
    }


def saved(path: Path, **arrays: Any) -> Path:
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    return path


def same(data: Dataset, arrays: Arrays) -> bool:
    return all(np.array_equal(getattr(data, key).numpy(), arrays[key]) for key in arrays)


def refusal(path: Path) -> str:
    """What loading `path` is refused with: one line that begins with the path."""
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith((f"{path}: not a readable data file (", f"{path}: not a usable data file ("))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_comes_back_as_tensors(tmp_path: Path) -> None:
    data = load(saved(tmp_path / "a.npz", **small()))
    assert same(data, small())
    assert (data.shape, data.classes) == ((4,), 4)  # a class that only the test set has counts
    assert same(data.to(torch.device("cpu")), small())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no data" * 99, pickle.dumps({"x_train": 1})])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "a.npz", **small())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refusal(path)


@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: float, mask: int
) -> None:
    path = saved(tmp_path_factory.getbasetemp() / "flipped.npz", **small())
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= mask
    path.write_bytes(content)
    try:
        data = load(path)
    except DataError:
        refusal(path)
    else:
        assert same(data, small())


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_a_missing_array_is_named(tmp_path: Path, key: str) -> None:
    arrays = small()
    del arrays[key]
    assert key in refusal(saved(tmp_path / "a.npz", **arrays))


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.zeros(3))
    refusal(tmp_path / "a.npz")


def test_arrays_of_objects_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    arrays = small() | {"y_test": np.array([3, None], dtype=object)}
    assert "allow_pickle=False" in refusal(saved(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_data_stage_writes_what_training_reads(tmp_path: Path, name: str) -> None:
    options = {"examples": 50} if name == "mnist1d" else {}
    prepare(json.dumps({"function": name, **options}), tmp_path / "a.npz", tmp_path / "raw")
    arrays = registry.load("data", name)(tmp_path, **options)
    assert same(load(tmp_path / "a.npz"), arrays)


GOOD = """
import numpy as np
KIND = "signal"
SHAPE = (6,)
def f(root, *, way: str):
    x, y = np.zeros((20, 6), np.float32), np.arange(20) % 3
    made = {"x_train": x, "y_train": y, "x_test": x[::-1], "y_test": y[::-1]}
    exec(way)
    return made
"""
WRONG_ARRAYS = {  # what is done to the arrays -> what the data stage says
    "made['x_train'] = x.astype(float)": "x_train is not float32 or y_train not int64; valid: x_train, ",
    "made['y_test'] = y.astype(np.int32)": "x_test is not float32 or y_test not int64; valid: ",
    "made['x_train'] = x.astype('>f4')": "x_train is not float32 or y_train not int64; valid: ",
    "made['y_train'] = y[:, None]": "x_train has shape (20, 6) and y_train (20, 1); valid: ",
    "made['y_train'] = y[:7]": "x_train has 20 examples and y_train 7; valid: ",
    "made['x_train'] = np.float32(3)": "does not return a dict of numpy arrays; valid: ",
    "made['x_train'] = np.zeros((), np.float32)": "x_train has shape () and y_train (20,); valid: ",
    "made['x_test'] = x[:, :5]": "x_train and x_test differ in shape; valid: ",
    "made['x_train'] = made['x_test'] = x[:, :5]": "examples of shape (5,); its module defines SHAPE = (6,)",
    "made['x_train'] = x + np.inf": "x_train has values that are not finite",
    "del made['y_test']": "array 'y_test' is missing; valid: ",
    "made.clear()": "has none of the arrays x_train, tokens_train, noisy_train; valid: ",
    "made['notes'] = np.array([{}, None])": "notes is an array of Python objects; valid: ",
    "made['x_train'] = x.tolist()": "does not return a dict of numpy arrays; valid: ",
    "made = None": None,  # exec cannot replace a local name: nothing is wrong
    "made.update(y_train=y - 1)": "negative labels; valid: ",
    "made.clear(); made.update(block=np.array(4), vocabulary=np.array(9), tokens_train=np.zeros(9, np.uint16), "
    "tokens_test=np.zeros(9, np.uint16))": "tokens examples of shape (4,); its module defines KIND = 'signal'",
}


@pytest.mark.parametrize("way", WRONG_ARRAYS)
def test_wrong_arrays_are_refused_in_the_data_stage_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    module = f"arrays_{list(WRONG_ARRAYS).index(way)}"
    (tmp_path / f"{module}.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    says, spec = WRONG_ARRAYS[way], json.dumps({"function": f"{module}:f", "way": way})
    if says is None:
        prepare(spec, tmp_path / "a.npz", tmp_path)
        assert load(tmp_path / "a.npz").examples == 20
        return
    with pytest.raises(DataError, match=f"^{re.escape(f'{module}:f: {says}')}"):
        prepare(spec, tmp_path / "a.npz", tmp_path)
    assert not (tmp_path / "a.npz").exists()


def test_a_batch_that_only_the_data_can_refuse_is_refused_before_training(tmp_path: Path) -> None:
    spec = json.dumps({"function": "text", "block": 4096})
    with pytest.raises(
        DataError, match=r"^architectures\.big\.batch_size: 1000 is not valid; valid: at most \d+ \(training"
    ):
        prepare(spec, tmp_path / "a.npz", tmp_path, {"small": 8, "big": 1000})
    assert not (tmp_path / "a.npz").exists()
    prepare(spec, tmp_path / "a.npz", tmp_path, {"small": 8})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"block": 10_000_000}, "text: tokens_train is shorter than one window of 10000000 tokens; valid: "),
        ({"block": 64, "held_out": 100_000}, "text.held_out: 100000 is not valid; valid: at most "),
    ],
)  # fmt: skip
def test_windows_that_the_text_does_not_have_are_refused(tmp_path: Path, options: dict[str, int], says: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(says)}"):
        prepare(json.dumps({"function": "text", **options}), tmp_path / "a.npz", tmp_path)


def test_every_source_that_needs_no_network_is_tested_here() -> None:
    elsewhere = {"text", "fineweb10b", "token_files", "speech", "voicebank"}  # test_tokens.py, test_speech.py
    assert {*EMBEDDED, *KINDS} == set(SOURCES) - elsewhere


# ------------------------------------------------------------------------------------------ random data


def template(n: int = 4000) -> Dataset:
    x, y = torch.full((n, 2, 8), 7.0), torch.zeros(n, dtype=torch.int64)
    return Labeled(x, y, x[: n // 2], y[: n // 2], classes=5)


def drawn(seed: int, data: Dataset | None = None) -> Dataset:
    return (data or template()).randomized(seed)


def test_random_data_has_the_shapes_types_and_classes_of_the_real() -> None:
    real, random = template(), drawn(0)
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert getattr(random, key).shape == getattr(real, key).shape
        assert getattr(random, key).dtype == getattr(real, key).dtype
    assert random.classes == real.classes


def test_random_inputs_are_gaussian_and_labels_uniform() -> None:
    random = drawn(0)
    for x, y in ((random.x_train, random.y_train), (random.x_test, random.y_test)):
        n = x.numel()
        assert abs(x.mean()) < 5 / n**0.5  # five standard errors
        assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5
        assert abs(x.pow(4).mean() - 3) < 5 * (96 / n) ** 0.5
        counts = torch.bincount(y, minlength=5)
        assert ((counts / len(y) - 0.2).abs() < 5 * (0.16 / len(y)) ** 0.5).all()


def test_random_labels_say_nothing_of_the_inputs() -> None:
    random = drawn(0)
    means = torch.stack([random.x_train[random.y_train == k].mean() for k in range(5)])
    assert means.abs().max() < 5 / (16 * 700) ** 0.5  # at least 700 examples of 16 values per class


def test_random_data_is_determined_by_the_generator_alone() -> None:
    torch.manual_seed(1)
    one = drawn(0)
    torch.manual_seed(2)
    assert torch.equal(drawn(0).x_train, one.x_train)
    assert torch.equal(drawn(0).y_test, one.y_test)
    assert not torch.equal(drawn(1).x_train, one.x_train)


def test_random_training_and_test_data_are_drawn_apart() -> None:
    random = drawn(0)
    assert not torch.equal(random.x_train[:10], random.x_test[:10])
