"""Checkpoints: what is saved comes back, whole, to its own run only; signals ask, they do not interrupt."""

import errno
import hashlib
import io
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import make, make_model, valid_pairs

from sparsity_cliff.training import checkpoint
from sparsity_cliff.training.checkpoint import CheckpointError
from sparsity_cliff.training.stopping import COME_BACK, Interrupted, StopRequest

STATE: dict[str, Any] = {
    "done": [{"status": "finished", "facts": [(0, 1, None, "a.weight", 2, "drift_z", -0.5)]}],
    "current": {"step": 3, "losses": [0.1, float("inf")], "rng": torch.get_rng_state()},
}


def saved(path: Path, identity: str = "mine") -> Path:
    checkpoint.save(path, identity, STATE)
    return path


def same(state: dict[str, Any] | None) -> bool:
    assert state is not None
    rng = state["current"].pop("rng")
    return torch.equal(rng, STATE["current"]["rng"]) and state == {
        "done": STATE["done"],
        "current": {key: value for key, value in STATE["current"].items() if key != "rng"},
    }


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert same(checkpoint.load(saved(tmp_path / "new" / "folder" / "state.pt"), "mine"))


def test_every_optimizers_state_comes_back(tmp_path: Path) -> None:
    for model, optimizer in valid_pairs():
        network = make_model(model)
        optimizers = make("optimizer", optimizer, network)
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        for o in optimizers:
            o.step()
        states = [o.state_dict() for o in optimizers]
        checkpoint.save(tmp_path / "state.pt", "mine", {"optimizers": states})
        loaded = checkpoint.load(tmp_path / "state.pt", "mine")
        assert loaded is not None
        for before, after in zip(states, loaded["optimizers"], strict=True):
            assert before["param_groups"] == after["param_groups"]
            torch.testing.assert_close(before["state"], after["state"], rtol=0, atol=0)


def test_there_may_be_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "state.pt", "mine") is None


def test_another_runs_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "state.pt", "another's")
    with pytest.raises(CheckpointError, match="foreign checkpoint") as caught:
        checkpoint.load(path, "mine")
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_torn_one_is_refused(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "state.pt")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="torn checkpoint") as caught:
        checkpoint.load(path, "mine")
    assert str(caught.value).startswith(f"{path}: ")


@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_is_refused(tmp_path_factory: pytest.TempPathFactory, place: float, mask: int) -> None:
    path = saved(tmp_path_factory.getbasetemp() / "changed.pt")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= mask
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="torn checkpoint"):
        checkpoint.load(path, "mine")


class Malicious:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("was_run",))


def with_checksum(path: Path, body: bytes) -> Path:
    path.write_bytes(hashlib.sha256(body).digest() + body)
    return path


def test_no_code_in_one_is_ever_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"identity": "mine", "state": Malicious()}, buffer)
    for body in (buffer.getvalue(), pickle.dumps(Malicious())):
        path = with_checksum(tmp_path / "state.pt", body)
        with pytest.raises(CheckpointError, match="not a checkpoint") as caught:
            checkpoint.load(path, "mine")
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "was_run").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    for body in (b"", b"some text", buffer.getvalue()):
        path = with_checksum(tmp_path / "state.pt", body)
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            checkpoint.load(path, "mine")


@pytest.mark.parametrize("state", [{"identity": 1, "state": {}}, {"identity": "mine", "state": [1]}, {"state": {}}])
def test_what_has_another_form_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = with_checksum(tmp_path / "state.pt", buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"not a checkpoint \(identity or state missing\)"):
        checkpoint.load(path, "mine")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt: not a checkpoint \(not a file\)$"):
        checkpoint.load(tmp_path / "state.pt", "mine")


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = saved(tmp_path / "state.pt")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(CheckpointError, match=r"state\.pt: unreadable checkpoint \(Input/output error\)$"):
        checkpoint.load(path, "mine")


# ------------------------------------------------------------------------------------------ atomic


def test_a_folder_in_its_place_is_set_aside_as_often_as_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for number in range(2):
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / f"file {number}").touch()
        assert same(checkpoint.load(saved(path), "mine"))
    assert sorted(os.listdir(tmp_path)) == ["state.pt", "state.pt.1", "state.pt.2"]
    assert os.listdir(tmp_path / "state.pt.2") == ["file 1"]
    checkpoint.remove(path)
    assert sorted(os.listdir(tmp_path)) == ["state.pt.1", "state.pt.2"]


def test_a_link_to_a_folder_in_its_place_is_replaced_and_the_folder_left(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "state.pt").symlink_to(tmp_path / "folder")
    assert same(checkpoint.load(saved(tmp_path / "state.pt"), "mine"))
    assert sorted(os.listdir(tmp_path)) == ["folder", "state.pt"]


def test_saving_leaves_nothing_but_the_checkpoint(tmp_path: Path) -> None:
    saved(saved(tmp_path / "state.pt"))
    assert os.listdir(tmp_path) == ["state.pt"]


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    path = saved(tmp_path / "state.pt")

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, at, fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, "mine", {"newer": True})
    assert os.listdir(tmp_path) == ["state.pt"]
    assert same(checkpoint.load(path, "mine"))


def test_removing_takes_the_empty_parents_and_no_others(tmp_path: Path) -> None:
    ours, other = (saved(tmp_path / "checkpoints" / run / "hash" / "state.pt") for run in ("ours", "other"))
    (ours.parent / ".4711.state.pt").touch()  # of a save that was killed
    checkpoint.remove(ours)
    assert os.listdir(tmp_path / "checkpoints") == ["other"]
    checkpoint.remove(other)
    assert os.listdir(tmp_path) == []
    checkpoint.remove(other)  # nothing there: nothing to do


def test_removing_leaves_what_is_kept_beside_it(tmp_path: Path) -> None:
    path, kept = (saved(tmp_path / "run" / "hash" / name) for name in ("state.pt", "seed-0.pt"))
    checkpoint.remove(path)
    assert os.listdir(path.parent) == ["seed-0.pt"]
    assert same(checkpoint.load(kept))  # whoever made it


# ------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_sets_the_request_and_does_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    request = StopRequest()
    with request.listening() as same_request:
        assert same_request is request
        assert not request
        os.kill(os.getpid(), number)
        assert request
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest().listening():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_run_ends_with_the_status_that_asks_to_come_back() -> None:
    with pytest.raises(SystemExit) as caught:
        raise Interrupted
    assert caught.value.code == COME_BACK == os.EX_TEMPFAIL
