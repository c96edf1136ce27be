"""GPT-nano against a restatement in plain formulas, its causality, its positions, and the matrix that it shares."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import BLOCK, VOCABULARY, dataset, entry, make, make_spec, planned, train, value
from sweeps import PROJECT
from torch import Tensor, nn

from sparsity_cliff.data.layouts.base import Batch
from sparsity_cliff.networks.activations import Site
from sparsity_cliff.networks.models.gpt import GPT, Rotary
from sparsity_cliff.networks.normalizations import layer_norm
from sparsity_cliff.probes import sites
from sparsity_cliff.study import reading, source, table
from sparsity_cliff.study.spec import Study
from sparsity_cliff.training import checkpoint, stopping
from sparsity_cliff.training.batches import Batches
from sparsity_cliff.training.build import build
from sparsity_cliff.training.job import Job
from sparsity_cliff.training.loop import train_seed
from sparsity_cliff.training.optimizers import muon

SMALL = {"depth": 2, "heads": 2, "width": 16, "mlp_ratio": 3}


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gelu_site(dim: int) -> Site:
    return Site(nn.GELU(), dim)


def model(classes: int = 11, seed: int = 0, **options: Any) -> GPT:
    torch.manual_seed(seed)
    return GPT((BLOCK,), classes, gelu_site, None, **SMALL | options).eval()


def tokens(examples: int = 3, classes: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(classes, (examples, BLOCK), generator=torch.Generator().manual_seed(seed))


def spec(**parts: Any) -> dict[str, Any]:
    return make_spec("gpt", model={"function": "gpt", **SMALL}, **parts)


# ------------------------------------------------------------------------------------------ size


def test_the_defaults_are_the_papers_123551232_parameters() -> None:
    with torch.device("meta"):
        found = GPT((1024,), 50257, gelu_site, None)
    assert sum(p.numel() for p in found.parameters()) == 123_551_232
    assert [site.dim for _, site in sites.sites(found)] == [-1] * 12
    assert not [name for name, _ in found.named_parameters() if "bias" in name]


# ------------------------------------------------------------------------------------------ restatement


def turned(x: Tensor) -> Tensor:
    """RoFormer's equation 34 in complex numbers; x: (N, T, d), its halves the real and the imaginary parts."""
    half = x.shape[-1] // 2
    position, index = torch.arange(x.shape[1], dtype=torch.float64), torch.arange(half, dtype=torch.float64)
    angle = position[:, None] * 10_000.0 ** (-index / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angle)
    return torch.cat([z.real, z.imag], dim=-1)


def restated(weights: dict[str, Tensor], x: Tensor, depth: int, heads: int) -> Tensor:
    """The paper's network as formulas: a loop over heads, an explicit mask, an explicit softmax."""

    def normed(y: Tensor, name: str) -> Tensor:
        return weights[name] * y / (y.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    y = weights["stem.weight"][x]
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    for block in (f"blocks.{i}." for i in range(depth)):
        z = normed(y, f"{block}norm1.weight")
        query, key, content = (z @ weights[f"{block}attention.{name}.weight"].T for name in ("query", "key", "value"))
        mixed = []
        for q, k, v in zip(*(part.chunk(heads, dim=-1) for part in (query, key, content)), strict=True):
            scores = turned(q) @ turned(k).mT / math.sqrt(q.shape[-1])
            powers = scores.exp() * ~later
            mixed.append(powers / powers.sum(dim=-1, keepdim=True) @ v)
        y = y + torch.cat(mixed, dim=-1) @ weights[f"{block}attention.proj.weight"].T / math.sqrt(2 * depth)
        z = normed(y, f"{block}norm2.weight") @ weights[f"{block}linear1.weight"].T
        y = y + z * (1 + torch.erf(z / math.sqrt(2))) / 2 @ weights[f"{block}linear2.weight"].T
    return normed(y, "norm.weight") @ weights["stem.weight"].T


@pytest.mark.numerical
@pytest.mark.parametrize("length", [1, 7, BLOCK])
@pytest.mark.usefixtures("double")
def test_outputs_and_gradients_are_those_of_the_formulas(length: int) -> None:
    own, x = model(), tokens()[:, :length]
    with torch.no_grad():
        for p in own.parameters():
            p.copy_(torch.randn_like(p) * 0.3)  # norms included
    weights = {name: p.detach().clone().requires_grad_() for name, p in own.named_parameters()}
    found, expected = own(x), restated(weights, x, depth=2, heads=2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    (found.square().sum() + found.sum()).backward()
    (expected.square().sum() + expected.sum()).backward()
    grads = {name: p.grad for name, p in own.named_parameters()}
    torch.testing.assert_close(grads, {name: p.grad for name, p in weights.items()}, rtol=1e-8, atol=1e-8)


def test_single_precision_and_autocast_are_near_the_double_one() -> None:
    own, x = model(), tokens()
    exact = own.double()(x)
    own.float()
    assert (own(x) - exact).abs().max() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert (own(x).float() - exact).abs().max() < 0.05  # logits are of order 1, and bfloat16 has 8 bits


# ------------------------------------------------------------------------------------------ what sees what


@pytest.mark.parametrize("place", [0, 5, BLOCK - 1])
def test_a_token_sees_none_after_it(place: int) -> None:
    own, x = model(), tokens()
    changed = x.clone()
    changed[:, place] = (x[:, place] + 1) % 11
    before, after = own(x), own(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).any(dim=-1).all()  # and every one from there on does


def test_an_example_does_not_see_the_others() -> None:
    own, x = model(), tokens(4)
    others = torch.cat([x[:1], tokens(3, seed=1)])
    assert torch.equal(own(x)[0], own(others)[0])


@pytest.mark.usefixtures("double")
def test_rotary_products_depend_on_the_distance_alone() -> None:
    rotary = Rotary(8, 50)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (rotary(vector.expand(50, 8)) for vector in (q, k))
    scores = turned_q @ turned_k.T  # (position of q, position of k)
    for distance in (-20, -1, 0, 3, 49):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-12)
    assert scores[0, 0].item() == pytest.approx((q @ k).item(), abs=1e-12)
    assert abs(scores[0, 1] - scores[1, 0]) > 0.01  # before is not behind
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(50))


def test_rotary_angles_are_exact_far_from_the_start() -> None:
    rotary = Rotary(64, 1024)
    assert rotary.cos[1023, 0].item() == pytest.approx(math.cos(1023), abs=1e-7)
    assert rotary.sin[1000, 16].item() == pytest.approx(math.sin(1000 / 100), abs=1e-7)


# ------------------------------------------------------------------------------------------ the shared matrix


def test_embedding_and_head_are_one_parameter_in_every_account() -> None:
    own = model()
    listed = [name for name, _ in sites.matrices(own)]
    assert [name for name in listed if not name.startswith("blocks.")] == ["stem.weight"]
    assert own.head.weight is own.stem.weight
    hidden, rest = (
        [p for group in optimizer.param_groups for p in group["params"]]
        for optimizer in muon(own, lr=1e-3, adamw_lr=1e-3)
    )
    assert len(hidden) == 6 * SMALL["depth"]  # query, key, value, projection, and two of the MLP
    assert sum(p is own.stem.weight for p in rest) == 1
    assert sum(p.numel() for p in hidden + rest) == sum(p.numel() for p in own.parameters())


def test_the_shared_matrix_is_still_shared_after_loading_moving_and_converting(tmp_path: Path) -> None:
    first, second = model(classes=5000), model(classes=5000, seed=1)
    checkpoint.save(tmp_path / "state.pt", "", {"model": first.state_dict()})
    assert set(first.state_dict()) == {name for name, _ in first.named_parameters()} | {"head.weight"}
    size = 4 * sum(p.numel() for p in first.parameters())
    assert size < (tmp_path / "state.pt").stat().st_size < size + 20_000  # bytes: each number once
    state = checkpoint.load(tmp_path / "state.pt", "")
    assert state is not None
    second.load_state_dict(state["model"])
    second.to("cpu").double().float()
    assert second.head.weight is second.stem.weight
    x = tokens(classes=5000)
    assert torch.equal(first(x), second(x))


def test_the_matrices_that_an_activation_feeds_are_the_second_ones_of_the_mlps() -> None:
    facts = train(spec(), dataset("tokens"))["facts"]
    fed = {f[3] for f in facts if f[5] == "fed_by_activation"}
    assert fed == {"blocks.0.linear2.weight", "blocks.1.linear2.weight"}
    # 2 · 48 · 16 operations a token and block, for the tokens of one example
    assert value(facts, "dense_flops") == 2 * 2 * 48 * 16 * BLOCK


# ------------------------------------------------------------------------------------------ start and training


def test_weights_start_uniform_within_one_over_root_of_inputs() -> None:
    own = model(classes=2000, width=64)
    for name, p in sites.matrices(own):
        bound, n = 1 / math.sqrt(p.shape[1]), p.numel()
        assert p.abs().max() <= bound, name
        assert abs(p.mean()) < 4 * bound / math.sqrt(3 * n), name  # four standard errors
        assert abs(p.square().mean() - bound**2 / 3) < 4 * bound**2 * math.sqrt(4 / 45 / n), name
    assert all((p == 1).all() for p in own.parameters() if p.ndim == 1)


def test_the_studys_normalization_replaces_every_norm() -> None:
    own = GPT((BLOCK,), 5, gelu_site, layer_norm, **SMALL)
    assert [type(m) for m in own.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm)] == [nn.LayerNorm] * 5


def test_training_reaches_the_entropy_of_the_next_token_and_random_tokens_stay_at_theirs() -> None:
    # the tokens of tests/small.py count up by 1 or by 2: ln 2, whatever the model; uniform ones: ln of the vocabulary
    optimizer = entry("optimizer", "adam", lr=3e-3)
    parts = {"steps": 150, "every": 150, "batch_size": 32, "optimizer": optimizer, "measure": []}
    facts = train(spec(**parts), dataset("tokens", train=400))["facts"]
    assert value(facts, "loss@test") == pytest.approx(math.log(2), abs=0.05)
    assert value(facts, "accuracy") == pytest.approx(0.5, abs=0.1)
    chance = train(spec(**parts, data={"axis": "random"}), dataset("tokens", train=400))["facts"]
    assert value(chance, "loss@test") == pytest.approx(math.log(VOCABULARY), abs=0.1)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", source.entries("activation"))
def test_one_step_is_finite_and_moves_every_parameter(activation: str, loss: str) -> None:
    data = dataset("tokens")
    own = build(planned(spec(activation=entry("activation", activation))), data, 0)
    x, y = data.batch(torch.arange(8), torch.zeros(8))
    before = {name: p.detach().clone() for name, p in own.named_parameters()}
    result = make("loss", loss)(own(x), y)
    result.backward()
    torch.optim.SGD(own.parameters(), lr=1.0).step()
    assert result.isfinite()
    assert not [name for name, p in own.named_parameters() if torch.equal(p, before[name])]


def test_a_run_taken_up_from_a_checkpoint_ends_as_one_that_was_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = entry("optimizer", "muon", lr=1e-2, adamw_lr=1e-2)
    asked, data = spec(optimizer=both, precision="bfloat16"), dataset("tokens")
    plan = planned(asked)
    jobs = [Job(plan, tmp_path / "state.pt", "", log=lambda line: None, save_every=math.inf) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", at_step(7, jobs[0].stop))
        with pytest.raises(stopping.Interrupted):
            train_seed(plan, 0, data, torch.device("cpu"), jobs[0], None)
    state = jobs[1].resume()
    assert state is not None
    assert state["step"] == 8
    assert train_seed(plan, 0, data, torch.device("cpu"), jobs[1], state) == train(asked, data)


def at_step(last: int, stop: stopping.StopRequest) -> Callable[[Batches, int], Batch]:
    """Batches as ever, and the request to stop with that of step `last`."""
    original = Batches.__call__

    def batch(batches: Batches, step: int) -> Batch:
        stop.requested = step == last
        return original(batches, step)

    return batch


# ------------------------------------------------------------------------------------------ what a study may ask


def plan(data: dict[str, Any], loss: str = "cross_entropy", **options: Any) -> Study:
    """The smallest study with this data and these options of the model."""
    config = table.read(PROJECT / "workflow" / "studies" / "smoke.yaml")
    architecture = config["architectures"]["mlp"] | {"model": {"function": "gpt", **SMALL, **options}, "data": "words"}
    grid = [{"architectures": ["gpt"], "activations": ["relu", "tanh"], "losses": [loss]}]
    cliff = {"baseline": "relu", "losses": [loss]}
    changed = {"data": {"words": data}, "architectures": {"gpt": architecture}, "grid": grid, "cliff": cliff}
    return table.load(config | changed)


def test_a_study_may_train_it_on_bytes_with_either_loss() -> None:
    for loss in ("cross_entropy", "mse"):
        assert f"gpt.relu.{loss}.real.s0-1" in plan({"function": "text"}, loss).runs


@pytest.mark.parametrize(
    ("data", "loss", "options", "words"),
    [
        ({"function": "text"}, "cross_entropy", {"heads": 3}, ["width % heads == 0", "width=16, heads=3"]),
        ({"function": "text"}, "cross_entropy", {"heads": 16}, ["(width // heads) % 2 == 0", "heads=16"]),
        ({"function": "digits"}, "cross_entropy", {}, ["gpt takes tokens data, but digits is image data"]),
        ({"function": "fineweb10b"}, "mse", {}, ["vocabulary <= 1024", "loss=mse, vocabulary=50257"]),
        (
            {"function": "token_files", "train": ["a"], "test": ["b"], "vocabulary": 2000},
            "mse",
            {},
            ["vocabulary <= 1024", "vocabulary=2000"],
        ),
    ],
    ids=["heads", "odd", "images", "fineweb", "files"],
)
def test_what_it_cannot_do_is_one_line(
    data: dict[str, Any], loss: str, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(reading.StudyError) as caught:
        plan(data, loss, **options)
    assert "\n" not in str(caught.value)
    assert not [word for word in words if word not in str(caught.value)], caught.value
