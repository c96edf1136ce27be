"""Optimizers: each steps as torch's own, and together they hold every parameter once."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site
from sparsity_cliff.networks.models import MODELS
from sparsity_cliff.networks.models.gpt import GPT
from sparsity_cliff.study import registry, source
from sparsity_cliff.study.options import options_of
from sparsity_cliff.training.optimizers import OPTIMIZERS, Muon, Optimizers, adam, adamw, muon, sgd

RATES = {"lr": 0.1, "adamw_lr": 0.01}


def required(name: str) -> dict[str, float]:
    return {option.name: RATES[option.name] for option in options_of("optimizer", name).values() if option.required}


def built(name: str) -> nn.Module:
    module = source.locate("model", name)[0]
    kind = source.constant(module, "ACCEPTS")[0]
    shape = {"signal": (40,), "image": (3, 32, 32), "tokens": (8,), "speech": (4000,)}[kind]
    model: nn.Module = registry.load("model", name)(shape, 10, lambda dim: Site(nn.ReLU(), dim), None)
    return model


class Small(nn.Module):
    """A stem, two blocks and a head, of the kinds of parameters that matter to Muon."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.blocks = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.blocks(self.stem(x)))
        return out


def trained(model: nn.Module, optimizers: Optimizers, steps: int = 5) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        model(torch.randn(16, 4, generator=random)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model


def assert_same_steps(ours: Any, torchs: Any) -> None:
    torch.manual_seed(0)
    model = Small()
    other = copy.deepcopy(model)
    start = copy.deepcopy(model)
    trained(model, ours(model))
    trained(other, torchs(other))
    for (name, mine), theirs, before in zip(
        model.named_parameters(), other.parameters(), start.parameters(), strict=True
    ):
        assert not torch.equal(mine, before), name
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.numerical
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.1}])
def test_sgd_is_torchs(options: dict[str, float]) -> None:
    assert_same_steps(lambda m: sgd(m, lr=0.1, **options), lambda m: [torch.optim.SGD(m.parameters(), 0.1, **options)])


@pytest.mark.numerical
@pytest.mark.parametrize(("ours", "torchs", "decay"), [(adam, torch.optim.Adam, 0.0), (adamw, torch.optim.AdamW, 0.01)])
def test_adam_and_adamw_are_torchs(ours: Any, torchs: Any, decay: float) -> None:
    def plain(model: nn.Module, **options: Any) -> Optimizers:
        return [torchs(model.parameters(), foreach=False, fused=False, **options)]

    assert_same_steps(lambda m: ours(m, lr=0.01), lambda m: plain(m, lr=0.01, betas=(0.9, 0.999), weight_decay=decay))
    assert_same_steps(
        lambda m: ours(m, lr=0.1, beta1=0.5, beta2=0.8, weight_decay=0.3),
        lambda m: plain(m, lr=0.1, betas=(0.5, 0.8), weight_decay=0.3),
    )


def test_muon_is_torchs_on_block_matrices_and_adamw_on_the_rest() -> None:
    def torchs(model: Small) -> Optimizers:
        hidden = [model.blocks[0].weight, model.blocks[3].weight]
        rest = [p for p in model.parameters() if all(p is not other for other in hidden)]
        return [
            torch.optim.Muon(hidden, 0.02, momentum=0.8, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),  # type: ignore[arg-type]
            torch.optim.AdamW(rest, lr=0.003, betas=(0.7, 0.9), weight_decay=0.1, foreach=False, fused=False),
        ]

    options = {"momentum": 0.8, "weight_decay": 0.1, "beta1": 0.7, "beta2": 0.9}
    torch.manual_seed(0)
    ours = Small()
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    pairs = [(ours, muon(ours, lr=0.02, adamw_lr=0.003, **options)), (theirs, torchs(theirs))]
    for _ in range(5):
        gradients = [torch.randn(p.shape) for p in start.parameters()]  # well conditioned, as torch's rounding needs
        for model, optimizers in pairs:
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
    parts = zip(ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True)
    for (name, p), other, before in parts:
        tolerance = 0.05 if name in ("blocks.0.weight", "blocks.3.weight") else 1e-4  # torch rounds to bfloat16
        assert (p - other).norm() <= tolerance * (other - before).norm(), name


def test_matrices_of_all_shapes_are_orthogonalized_as_if_each_were_alone() -> None:
    """The polynomial of Jordan et al. 2024 in float64, for matrices of one shape, of its transpose, and of another."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((6, 6), (8, 6), (6, 8), (6, 6), (3, 9))]
    idle = nn.Parameter(torch.randn(6, 6))  # without a gradient
    before = [p.detach().clone() for p in (*weights, idle)]
    for p in weights:
        p.grad = torch.randn(p.shape)
    Muon([*weights, idle], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    for p, start in zip(weights, before, strict=False):
        update = near_orthogonal(0.19 * p.grad.double(), torch.float64)  # type: ignore[union-attr]
        expected = start.double() * (1 - 0.1 * 0.5) - 0.1 * 0.2 * max(p.shape) ** 0.5 * update
        torch.testing.assert_close(p.detach().double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(idle, before[-1])


def test_muon_moves_every_matrix_by_an_orthogonal_step_of_adamws_size() -> None:
    # Newton-Schulz brings the singular values of a step near 1 (Jordan et al. 2024), and 0.2 √max(rows, cols) its root
    # mean square near 0.2 of the learning rate, whatever the shape (Liu et al. 2025)
    torch.manual_seed(0)
    model = Small()
    before = {i: model.blocks[i].weight.detach().clone() for i in (0, 3)}  # type: ignore[operator]
    trained(model, muon(model, lr=0.02, adamw_lr=0.003), steps=1)
    for i, weight in before.items():  # 6 × 6 and 8 × 6
        step = torch.linalg.svdvals((model.blocks[i].weight - weight).double()) / 0.02  # type: ignore[operator]
        assert 0.5 < step.max() / (0.2 * max(weight.shape) ** 0.5) < 1.5


# ------------------------------------------------------------------------------------------ the paper's code


def near_orthogonal(x: Tensor, precision: torch.dtype) -> Tensor:
    """Five quintic Newton-Schulz steps with the coefficients of Jordan et al. 2024, from x / |x|."""
    x = (x / x.norm()).to(precision)
    if len(x) > x.shape[1]:
        return near_orthogonal(x.mT, precision).mT
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ (gram @ x)
    return x.double()


def published(start: Tensor, gradients: list[Tensor], lr: float, precision: torch.dtype) -> Tensor:
    """A matrix after Muon's steps as the paper's code (arXiv 2605.17659) has them. A matrix with three times as many
    rows as columns is query, key and value: each is made orthogonal by itself. Momentum 0.95, Nesterov's form."""
    weight, momentum = start.double(), torch.zeros_like(start, dtype=torch.float64)
    for gradient in gradients:
        momentum = 0.95 * momentum + gradient
        ahead = gradient + 0.95 * momentum
        parts = ahead.chunk(3) if len(ahead) == 3 * ahead.shape[1] else [ahead]
        scale = max(parts[0].shape) ** 0.5
        weight = weight - lr * scale * torch.cat([near_orthogonal(part, precision) for part in parts])
    return weight


def test_twenty_steps_of_muon_on_gpt_are_those_of_the_papers_code_at_a_fifth_of_the_learning_rate() -> None:
    torch.manual_seed(0)
    model = GPT((12,), 20, lambda dim: Site(nn.ReLU(), dim), None, width=32, depth=2, heads=2)
    blocks = [f"blocks.{i}" for i in range(2)]
    matrices = {
        f"{block}.{name}": [f"{block}.{part}.weight" for part in parts]
        for block in blocks
        for name, parts in {
            "qkv": ["attention.query", "attention.key", "attention.value"],  # one matrix there
            **{name: [name] for name in ("attention.proj", "linear1", "linear2")},
        }.items()
    }

    def read(of: Callable[[Tensor], Tensor | None]) -> dict[str, Tensor]:
        found = {name: of(p) for name, p in model.named_parameters()}
        return {name: torch.cat([found[part] for part in parts]).detach().clone() for name, parts in matrices.items()}  # type: ignore[misc]

    start, gradients = read(lambda p: p), []
    optimizers = muon(model, lr=2.5e-3, adamw_lr=5e-3)
    for _ in range(20):
        tokens = torch.randint(20, (16, 13))
        nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients.append(read(lambda p: p.grad))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    end = read(lambda p: p)
    for name, before in start.items():
        exact, rounded = (
            published(before, [g[name] for g in gradients], 5e-4, precision) - before
            for precision in (torch.float64, torch.bfloat16)
        )
        ours = (end[name] - before).double()
        # Newton-Schulz is in bfloat16 there, and in float32 here
        assert (ours - exact).norm() < 1e-3 * exact.norm(), name
        assert (ours - exact).norm() < (rounded - exact).norm() < 0.2 * exact.norm(), name


def test_muon_without_matrices_in_the_blocks_is_refused() -> None:
    model = Small()
    model.blocks = nn.Sequential(nn.LayerNorm(6), nn.Conv1d(6, 6, 3))
    with pytest.raises(ValueError, match=r"^muon needs 2-D weights in model\.blocks, but this model has none$"):
        muon(model, lr=0.1, adamw_lr=0.1)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_of_every_architecture_is_held_once_or_the_study_refuses(name: str, architecture: str) -> None:
    model = built(architecture)
    requires = source.constant(source.locate("model", architecture)[0], "REQUIRES", ())
    if name == "muon" and "optimizer != 'muon'" in requires:
        with pytest.raises(ValueError, match="muon needs 2-D weights"):
            OPTIMIZERS[name](model, **required(name))
        return
    optimizers = OPTIMIZERS[name](model, **required(name))
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_muon_takes_the_hidden_matrices_of_the_mlp_and_no_more() -> None:
    model = built("mlp")
    hidden, _ = muon(model, lr=0.1, adamw_lr=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in hidden.param_groups[0]["params"]] == ["blocks.0.linear.weight"]


def test_optimizers_do_not_import_the_compiler() -> None:
    """Importing torch._dynamo takes as long as importing torch; torch's own methods do so at their first call."""
    code = """
import sys, torch
from sparsity_cliff.training.optimizers import OPTIMIZERS
for name, make in OPTIMIZERS.items():
    model = torch.nn.Module()
    model.blocks = torch.nn.Linear(3, 4)
    for optimizer in make(model, lr=0.1, **({"adamw_lr": 0.1} if name == "muon" else {})):
        optimizer.zero_grad()
        sum(p.square().sum() for p in model.parameters()).backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n", found.stderr


@pytest.mark.parametrize("make", [sgd, adam, adamw])
def test_a_step_records_no_gradient(make: Callable[..., Optimizers]) -> None:
    weight = nn.Linear(2, 2)
    (optimizer,) = make(weight, lr=0.1)
    weight.weight.sum().backward()
    optimizer.step()
    assert weight.weight.grad_fn is None
    assert torch.is_grad_enabled()
