"""Token data: shards and what is refused as one, the windows that training reads, the text, downloads from a server."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsity_cliff.data import fetch, shards
from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.layouts.tokens import Tokens
from sparsity_cliff.data.loading import from_arrays, load
from sparsity_cliff.data.prepare import prepare
from sparsity_cliff.data.sources import fineweb
from sparsity_cliff.data.sources.fineweb import fineweb10b, token_files
from sparsity_cliff.data.sources.text import text
from sparsity_cliff.study import source
from sparsity_cliff.study.options import convert, options_of


def refusal(problem: Any, *arguments: Any, **options: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(DataError) as caught:
        problem(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shard_of(stream: Any, magic: int = 20240520, version: int = 1, count: int | None = None) -> bytes:
    """The bytes of a shard by the format's description: 256 int32 of header, then uint16, all little-endian."""
    head = [magic, version, len(stream) if count is None else count, *([0] * 253)]
    body = b"".join(int(token).to_bytes(2, "little") for token in stream)
    return b"".join(number.to_bytes(4, "little", signed=True) for number in head) + body


# ------------------------------------------------------------------------------------------ shards


def test_what_is_written_is_the_format_and_comes_back(tmp_path: Path) -> None:
    stream = [0, 1, 255, 256, 50256, 65535]
    for kind in (np.uint16, np.int64, np.int32):
        shards.write(tmp_path / "a.bin", np.array(stream, kind))
        assert (tmp_path / "a.bin").read_bytes() == shard_of(stream)
    found = shards.tokens(tmp_path / "a.bin")
    assert found.tolist() == stream
    assert found.dtype == np.uint16
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a token shard"),
        (b"text" * 1000, "not a token shard"),
        (shard_of([1, 2])[:1000], "not a token shard"),
        (shard_of([1, 2], magic=20240801), "not a token shard (its header does not begin with 20240520)"),
        (shard_of([1, 2], version=2), "a token shard of version 2; valid: 1"),
        (shard_of([1, 2], count=3), "1028 bytes, but its header says 1030"),
        (shard_of([1, 2], count=1), "1028 bytes, but its header says 1026"),
        (shard_of([1, 2], count=-1), "its header says -1 tokens; valid: 1 or more"),
        (shard_of([]), "its header says 0 tokens"),
        (shard_of([1, 2])[:-1], "1027 bytes, but its header says 1028"),
        (shard_of([1, 2]) + b"\0", "1029 bytes, but its header says 1028"),
    ],
)
def test_what_is_no_whole_shard_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    for read in (shards.tokens, lambda path: shards.check(path, 256)):
        message = refusal(read, path)
        assert message.startswith(f"{path}: ")
        assert words in message


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    assert refusal(shards.tokens, path) == f"{path}: cannot be read (No such file or directory)"
    assert refusal(shards.tokens, tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"


def test_a_token_beyond_the_vocabulary_is_found_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PIECE", 8)  # four tokens at a time
    path, stream = tmp_path / "a.bin", np.arange(11)
    shards.write(path, stream)
    assert shards.check(path, 11) == hashlib.sha256(path.read_bytes()).hexdigest()
    for place in range(11):
        shards.write(path, np.where(np.arange(11) == place, 300, stream))
        assert shards.check(path, 301)
        assert f"{path}: token 300 at position {place}; valid: below 300" in refusal(shards.check, path, 300)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (np.array([0, 65536]), "tokens from 0 to 65536; valid: 0 to 65535"),
        (np.array([-1, 3]), "tokens from -1 to 3"),
        (np.array([0.5]), "float64 tokens of shape (1,)"),
        (np.zeros((2, 2), int), "shape (2, 2)"),
        (np.array([], int), "shape (0,)"),
    ],
)
def test_what_does_not_fit_into_a_shard_is_not_written(tmp_path: Path, stream: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        shards.write(tmp_path / "a.bin", stream)
    assert not (tmp_path / "a.bin").exists()


def test_a_shard_can_be_made_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("naïve\n", encoding="utf-8")
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "sparsity_cliff.data.shards",
        tmp_path / "a.txt",
        tmp_path / "a.bin",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'a.bin'}: 7 tokens, vocabulary 256\n"
    assert shards.tokens(tmp_path / "a.bin").tolist() == list("naïve\n".encode())
    assert shards.check(tmp_path / "a.bin", 256)


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("none.txt", "a.bin", "none.txt: No such file or directory"),
        ("empty.txt", "a.bin", "empty.txt: nothing to write"),
        ("a.txt", "none/a.bin", "none/a.bin: No such file or directory"),
    ],
)
def test_what_no_shard_can_be_made_of_is_one_line(tmp_path: Path, name: str, out: str, words: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SystemExit) as caught:
        shards.main([str(tmp_path / name), str(tmp_path / out)])
    assert str(caught.value).startswith(f"error: {tmp_path}/{words}")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ windows


def shard_paths(folder: Path, *streams: Any) -> np.ndarray:
    paths = [folder / f"{number}.bin" for number in range(len(streams))]
    for path, stream in zip(paths, streams, strict=True):
        shards.write(path, np.array(stream))
    return np.array([str(path) for path in paths])


def layout(train: Any, test: Any, block: int = 3, vocabulary: int = 1000, **more: Any) -> Tokens:
    arrays = {"tokens_train": train, "tokens_test": test, "block": block, "vocabulary": vocabulary, **more}
    data = from_arrays({key: np.asarray(value) for key, value in arrays.items()})
    assert isinstance(data, Tokens)
    return data


def stream(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.uint16)


def inputs_and_targets(data: Tokens, numbers: list[int]) -> tuple[list[Any], list[Any]]:
    x, y = data.batch(torch.tensor(numbers), torch.rand(len(numbers)))
    assert x.dtype == y.dtype == torch.int64
    return x.tolist(), y.tolist()


def test_a_stream_is_cut_into_windows_whose_targets_are_one_further() -> None:
    data = layout(stream(0, 10), stream(500, 8))
    assert (data.shape, data.classes, data.examples) == ((3,), 1000, 3)
    x, y = inputs_and_targets(data, [0, 1, 2])
    assert x == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert y == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    ((x, y),) = data.held_out(None)
    assert x.tolist() == [[500, 501, 502], [503, 504, 505]]  # 506 would have no target for all of a window
    assert y.tolist() == [[501, 502, 503], [504, 505, 506]]


def test_no_window_crosses_from_one_shard_into_the_next(tmp_path: Path) -> None:
    lengths = [10, 3, 4, 11]  # 3, 0, 1 and 3 windows
    pieces = [stream(100 * number, length) for number, length in enumerate(lengths)]
    data = layout(shard_paths(tmp_path, *pieces), stream(0, 4))
    assert data.examples == 7
    x, y = inputs_and_targets(data, list(range(7)))
    assert [window[0] for window in x] == [0, 3, 6, 200, 300, 303, 306]
    assert all(b == [n + 1 for n in a] for a, b in zip(x, y, strict=True))
    assert all(isinstance(piece, np.memmap) for piece in data.train)


def test_shards_and_a_stream_of_the_same_tokens_are_the_same_data(tmp_path: Path) -> None:
    train, test = stream(0, 31), stream(50, 14)
    one, other = layout(train, test), layout(*shard_paths(tmp_path, train, test).reshape(2, 1))
    for data in (other, other.to(torch.device("cpu"))):
        assert inputs_and_targets(data, [2, 7, 0]) == inputs_and_targets(one, [2, 7, 0])
        assert [x.tolist() for x, _ in data.held_out(2)] == [x.tolist() for x, _ in one.held_out(2)]


def test_a_batch_is_a_function_of_its_numbers_alone(tmp_path: Path) -> None:
    data = layout(shard_paths(tmp_path, stream(0, 40)), stream(0, 4))
    first = inputs_and_targets(data, [5, 1, 5])
    torch.manual_seed(1)
    inputs_and_targets(data, [0, 9])
    assert inputs_and_targets(data, [5, 1, 5]) == first
    assert first[0][0] == first[0][2] == [15, 16, 17]


def test_held_out_batches_are_all_windows_once_and_small_enough() -> None:
    data = layout(stream(0, 4), np.zeros(3 * 10_000 + 1, np.uint16))
    batches = data.held_out(None)
    assert sum(len(x) for x, _ in batches) == 10_000
    assert max(x.numel() for x, _ in batches) <= 16_384
    assert sum(len(x) for x, _ in data.held_out(17)) == 17


def test_random_tokens_are_uniform_and_fixed_by_the_seed() -> None:
    small = layout(np.zeros(6001, np.uint16), np.zeros(601, np.uint16), vocabulary=5)
    random = small.randomized(0)
    assert (random.shape, random.classes, random.examples) == (small.shape, 5, 2000)
    x, y = random.batch(torch.arange(2000), torch.zeros(2000))
    assert torch.equal(x[:, 1:], y[:, :-1])
    counts = torch.bincount(x.flatten(), minlength=5)
    assert ((counts / 6000 - 0.2).abs() < 5 * (0.16 / 6000) ** 0.5).all()  # five standard errors
    pairs = torch.bincount(5 * x[:, 0] + y[:, 0], minlength=25)  # the next token does not depend on this one
    assert ((pairs / 2000 - 0.04).abs() < 5 * (0.0384 / 2000) ** 0.5).all()
    assert torch.equal(small.randomized(0).batch(torch.tensor([7]), torch.zeros(1))[0], x[7:8])
    assert not torch.equal(small.randomized(1).batch(torch.arange(9), torch.zeros(9))[0], x[:9])
    assert not torch.equal(random.held_out(9)[0][0], x[:9])


def test_the_accuracy_is_the_share_of_next_tokens_that_have_the_largest_logit() -> None:
    logits = torch.eye(4)[torch.tensor([[0, 1, 2], [3, 3, 3]])]
    targets = torch.tensor([[0, 1, 1], [3, 0, 0]])
    scores = layout(stream(0, 4), stream(0, 4)).scores(logits, targets)
    assert {key: value.tolist() for key, value in scores.items()} == {"accuracy": pytest.approx([2 / 3, 1 / 3])}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"test": stream(0, 3)}, "tokens_test is shorter than one window of 3 tokens"),
        ({"train": stream(0, 4).astype(np.int64)}, "tokens_train is not a uint16 stream"),
        ({"train": stream(0, 4).reshape(2, 2)}, "tokens_train is not a uint16 stream"),
        ({"test": stream(997, 4)}, "tokens_test has tokens beyond the vocabulary"),
        ({"train": np.array(["none.bin"])}, "none.bin: cannot be read"),
    ],
)
def test_what_is_no_token_data_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        layout(**({"train": stream(0, 4), "test": stream(0, 4)} | changed))


# ------------------------------------------------------------------------------------------ embedded text


def test_the_text_is_pythons_documentation_topic_by_topic() -> None:
    from pydoc_data.topics import topics

    arrays = text(Path("nowhere"))
    train, test = arrays["tokens_train"], arrays["tokens_test"]
    whole = bytes(np.concatenate([train, test]).astype(np.uint8)).decode()
    paragraphs = whole.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))  # no test text in the training text
    rest = "".join(topics.values())
    for paragraph in sorted(paragraphs, key=len, reverse=True):  # and all of the text
        rest = rest.replace(paragraph, "")
    assert not rest.strip("\n")
    assert whole.startswith(topics[min(topics)].split("\n\n")[0])
    assert len(train) / (len(train) + len(test)) == pytest.approx(0.9, abs=1e-5)
    assert [chr(d) for d in arrays["delimiters"]] == [" ", "\n", ".", ",", ":", ";", "!", "?"]


def test_the_text_goes_through_the_data_stage(tmp_path: Path) -> None:
    prepare(json.dumps({"function": "text", "block": 32}), tmp_path / "a.npz", tmp_path)
    data = load(tmp_path / "a.npz")
    assert isinstance(data, Tokens)
    assert (data.shape, data.classes) == ((32,), source.constant("sparsity_cliff.data.sources.text", "VOCABULARY"))
    assert data.delimiters[:2] == (32, 10)
    assert torch.equal(data.held_out(None)[0][0][0], torch.from_numpy(text(tmp_path)["tokens_test"][:32].astype(int)))


# ------------------------------------------------------------------------------------------ shards of one's own


def test_ones_own_shards_go_through_the_data_stage(tmp_path: Path) -> None:
    train, test, other = shard_paths(tmp_path, stream(0, 9), stream(20, 9), stream(40, 9)).tolist()
    options = {"train": [train, other], "test": [test], "block": 4, "vocabulary": 49}
    prepare(json.dumps({"function": "token_files", **options}), tmp_path / "a.npz", tmp_path)
    data = load(tmp_path / "a.npz")
    assert isinstance(data, Tokens)
    assert (data.shape, data.classes, data.examples) == ((4,), 49, 4)
    assert [x.tolist() for x, _ in data.held_out(None)] == [[[20, 21, 22, 23], [24, 25, 26, 27]]]
    os.unlink(other)
    with pytest.raises(DataError, match=re.escape(f"{other}: cannot be read")):
        load(tmp_path / "a.npz")


def test_ones_own_shards_are_checked_against_their_vocabulary(tmp_path: Path) -> None:
    train, test = shard_paths(tmp_path, stream(0, 9), stream(20, 9)).tolist()
    message = refusal(token_files, tmp_path, train=[train], test=[test], vocabulary=28)
    assert message == f"{test}: token 28 at position 8; valid: below 28, the vocabulary"
    missing = str(tmp_path / "none.bin")
    assert refusal(token_files, tmp_path, train=[missing], test=[test], vocabulary=28).startswith(f"{missing}: ")


def test_options_of_every_token_source_can_be_checked() -> None:
    for name in ("text", "fineweb10b", "token_files"):
        for option in options_of("data", name).values():
            sample = {"Count": 5, "Count | None": 5, "list[str]": ["a.bin"]}[option.annotation]
            assert convert(option.annotation, sample) == sample
        assert source.constant(source.locate("data", name)[0], "KIND") == "tokens"


# ------------------------------------------------------------------------------------------ downloads


class Hub:
    """A server of files that can be told to cut connections, to ignore ranges, or to answer with an error."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []  # after so many bytes, for the next requests
        self.status: list[int] = []  # of the next requests, instead of an answer
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []  # file, range
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.lstrip("/"), request.headers["Range"]
        self.asked.append((name, wanted))
        if self.status or name not in self.files:
            request.send_error(self.status.pop(0) if self.status else 404)
            return
        content = self.files[name]
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if first >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if first else 200)
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - first))
        request.end_headers()
        request.wfile.write(content[first:][: self.cut.pop(0) if self.cut else None])

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


VALID, FIRST, SECOND = "fineweb_val_000000.bin", "fineweb_train_000001.bin", "fineweb_train_000002.bin"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setattr(fineweb, "VALIDATION", 8)
    served = Hub()
    monkeypatch.setattr(fineweb, "ADDRESS", served.address)
    served.files = {name: shard_of(range(i, i + 30)) for i, name in enumerate((VALID, FIRST, SECOND))}
    yield served
    served.stop()


def rows(tensor: Tensor) -> list[list[int]]:
    return [[int(token) for token in row] for row in tensor]


def test_missing_shards_are_fetched_and_those_that_are_there_used(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "fineweb10B"
    data = from_arrays(fineweb10b(tmp_path, shards=2, block=4))
    assert isinstance(data, Tokens)
    assert hub.asked == [(VALID, None), (FIRST, None), (SECOND, None)]
    assert {path.name for path in folder.iterdir()} == {VALID, FIRST, SECOND, "SHA256SUMS"}
    assert (data.classes, data.shape, data.examples) == (50257, (4,), 14)
    assert rows(data.held_out(None)[0][1]) == [[1, 2, 3, 4], [5, 6, 7, 8]]  # VALIDATION targets and no more
    assert rows(data.batch(torch.tensor([7]), torch.zeros(1))[0]) == [[2, 3, 4, 5]]
    (folder / SECOND).unlink()
    fineweb10b(tmp_path, shards=2)
    assert [name for name, _ in hub.asked[3:]] == [SECOND]
    hub.stop()
    fineweb10b(tmp_path, shards=2)


def test_the_manifest_is_what_sha256sum_reads(hub: Hub, tmp_path: Path) -> None:
    fineweb10b(tmp_path, shards=1)
    expected = [f"{hashlib.sha256(hub.files[name]).hexdigest()}  {name}" for name in (VALID, FIRST)]
    assert (tmp_path / "fineweb10B" / "SHA256SUMS").read_text().splitlines() == expected


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.cut = [500, 300]
    fineweb10b(tmp_path, shards=1)
    assert hub.asked[:3] == [(VALID, None), (VALID, "bytes=500-"), (VALID, "bytes=800-")]
    assert (tmp_path / "fineweb10B" / VALID).read_bytes() == hub.files[VALID]


def test_a_later_run_goes_on_with_what_an_earlier_one_left(hub: Hub, tmp_path: Path) -> None:
    hub.cut = [100] + [10] * (fetch.ATTEMPTS - 1)
    message = refusal(fineweb10b, tmp_path, shards=1)
    path = tmp_path / "fineweb10B" / VALID
    assert message.startswith(f"{path}: cannot be fetched from {hub.address}/{VALID} (cut off after ")
    assert not path.exists()
    fineweb10b(tmp_path, shards=1)
    assert hub.asked[fetch.ATTEMPTS] == (VALID, f"bytes={100 + 10 * (fetch.ATTEMPTS - 1)}-")
    assert path.read_bytes() == hub.files[VALID]


def test_a_server_that_cannot_send_parts_sends_all_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut, hub.ranges = [500], False
    fineweb10b(tmp_path, shards=1)
    assert (tmp_path / "fineweb10B" / VALID).read_bytes() == hub.files[VALID]


@pytest.mark.parametrize("left", [1084, 2000])  # all of the file, and more than that
def test_a_part_that_cannot_go_on_is_dropped(hub: Hub, tmp_path: Path, left: int) -> None:
    folder = tmp_path / "fineweb10B"
    folder.mkdir()
    (folder / f"{VALID}.part").write_bytes(bytes(left))
    fineweb10b(tmp_path, shards=1)
    assert (folder / VALID).read_bytes() == hub.files[VALID]


def test_a_busy_server_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.status = [503, 429, 500]
    fineweb10b(tmp_path, shards=1)
    assert [name for name, _ in hub.asked] == [VALID] * 4 + [FIRST]


def test_a_file_that_the_server_lacks_is_named_at_once(hub: Hub, tmp_path: Path) -> None:
    del hub.files[FIRST]
    message = refusal(fineweb10b, tmp_path, shards=1)
    assert message.startswith(f"{tmp_path / 'fineweb10B' / FIRST}: cannot be fetched from {hub.address}/{FIRST}")
    assert "HTTP 404: Not Found" in message
    assert [name for name, _ in hub.asked] == [VALID, FIRST]


def test_without_a_network_the_missing_file_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.stop()
    message = refusal(fineweb10b, tmp_path, shards=1)
    assert message.startswith(f"{tmp_path / 'fineweb10B' / VALID}: cannot be fetched from {hub.address}/{VALID}")
    assert "refused" in message


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"<html>sorry</html>", "not a token shard"),
        (shard_of(range(30))[:-2], "1082 bytes, but its header says 1084"),
        (shard_of(range(30)) + b"\0\0", "1086 bytes, but its header says 1084"),
    ],
)
def test_what_is_sent_but_is_no_shard_is_not_kept(hub: Hub, tmp_path: Path, sent: bytes, words: str) -> None:
    good, hub.files[VALID] = hub.files[VALID], sent
    message = refusal(fineweb10b, tmp_path, shards=1)
    path = tmp_path / "fineweb10B" / VALID
    assert message.startswith(f"{path}: {hub.address}/{VALID} sent an unexpected file")
    assert words in message
    assert list(path.parent.iterdir()) == []
    hub.files[VALID] = good
    fineweb10b(tmp_path, shards=1)


def test_tokens_that_gpt2_lacks_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files[VALID] = shard_of([0, 50256, 50257])
    assert "token 50257 at position 2" in refusal(fineweb10b, tmp_path, shards=1)


def test_a_file_that_has_changed_since_is_refused_until_it_is_accepted(hub: Hub, tmp_path: Path) -> None:
    fineweb10b(tmp_path, shards=2)
    path = tmp_path / "fineweb10B" / FIRST
    path.write_bytes(shard_of(range(5, 35)))
    message = refusal(fineweb10b, tmp_path, shards=2)
    assert message.startswith(f"{path}: changed since its first use")
    fineweb10b(tmp_path / "elsewhere", shards=2)  # where it was first used as it is there
    path.unlink()
    fineweb10b(tmp_path, shards=2)  # fetched again, as it was
    path.write_bytes(shard_of(range(5, 35)))
    manifest = path.with_name("SHA256SUMS")
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if FIRST not in line))
    assert fineweb10b(tmp_path, shards=2)["tokens_train"][0] == str(path)


def test_more_shards_than_there_are_is_one_line(hub: Hub, tmp_path: Path) -> None:
    assert refusal(fineweb10b, tmp_path, shards=104) == "fineweb10b.shards: 104; valid: 1 to 103"
    assert hub.asked == []
