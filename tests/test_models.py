"""Architectures: parity with torchvision, activation sites, independence of examples, and one step of everything."""

import io
import math
import re
from itertools import combinations, product
from typing import Any

import pytest
import torch
from small import SHAPES, VOCABULARY, batch_of, constant, dataset, entry, make, make_model, make_spec, names, planned
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site
from sparsity_cliff.networks.normalizations import OVER_BATCH
from sparsity_cliff.probes import sites
from sparsity_cliff.study import registry
from sparsity_cliff.training.build import build

MODELS = names("model")
NORMALIZATIONS: list[str | None] = [None, *names("normalization")]


def normalization(name: str | None) -> dict[str, Any]:
    return {"name": "default", "function": None} if name is None else entry("normalization", name)


def at_scale(name: str, shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """The architecture at any size, on the meta device: no memory, no arithmetic."""
    with torch.device("meta"):
        model: nn.Module = registry.load("model", name)(shape, classes, relu_site, None, **options)
    return model


def relu_site(dim: int) -> Site:
    return Site(nn.ReLU(), dim)


def gelu_site(dim: int) -> Site:
    return Site(nn.GELU(), dim)


# ------------------------------------------------------------------------------------------ known sizes


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "parameters"),
    [
        # torchvision's published counts
        ("resnet", (3, 224, 224), 1000, {"stem": "imagenet"}, 11_689_512),
        ("resnet", (3, 224, 224), 1000, {"stem": "imagenet", "blocks": (3, 4, 6, 3)}, 21_797_672),
        ("vit", (3, 224, 224), 1000, {"patch": 16, "width": 768, "depth": 12, "heads": 12}, 86_567_656),
        ("vit", (3, 224, 224), 1000, {"patch": 32, "width": 768, "depth": 12, "heads": 12}, 88_224_232),
        # Greydanus & Kobak 2020: 5,210 parameters
        ("cnn", (40,), 10, {}, 5_210),
        # by hand: 40·256 + 256·256 + 256·10
        ("mlp", (40,), 10, {"bias": False}, 78_336),
        ("mlp", (40,), 10, {"width": 100}, 15_210),  # Greydanus & Kobak 2020
    ],
)
def test_parameter_counts(
    name: str, shape: tuple[int, ...], classes: int, options: dict[str, Any], parameters: int
) -> None:
    assert sum(p.numel() for p in at_scale(name, shape, classes, **options).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "shape", "options", "count", "dim"),
    [
        ("mlp", (40,), {"depth": 4}, 4, -1),
        ("cnn", (40,), {}, 3, 1),
        ("resnet", (3, 32, 32), {}, 17, 1),  # stem, and two in each of eight blocks
        ("vit", (3, 32, 32), {"depth": 5}, 5, -1),
    ],
)
def test_site_counts(name: str, shape: tuple[int, ...], options: dict[str, Any], count: int, dim: int) -> None:
    found = sites.sites(at_scale(name, shape, 10, **options))
    assert [site.dim for _, site in found] == [dim] * count


# ------------------------------------------------------------------------------------------ torchvision


def equal_to(own: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Same output in both modes, and the same gradients of the input and of all weights together."""
    for train in (False, True):
        grads = []
        for model in (own.train(train), theirs.train(train)):
            model.zero_grad()
            inputs = x.clone().requires_grad_()
            out = model(inputs)
            out.square().sum().backward()
            norm = torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum()
            grads.append((out.detach(), inputs.grad, norm))
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-10)


def test_resnet_is_torchvisions_resnet18() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=7).double()
    own = registry.load("model", "resnet")((3, 64, 64), 7, relu_site, None, stem="imagenet").double()
    words = {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "head"}
    state = {}
    for name, weight in theirs.state_dict().items():
        first, _, rest = name.partition(".")
        if first.startswith("layer"):
            block, rest = rest.split(".", 1)
            rest = rest.replace("bn", "norm").replace("downsample", "shortcut")
            state[f"blocks.{2 * (int(first[-1]) - 1) + int(block)}.{rest}"] = weight
        else:
            state[f"{words[first]}.{rest}"] = weight
    own.load_state_dict(state)
    equal_to(own, theirs, torch.randn(2, 3, 64, 64, dtype=torch.float64))


def torchvisions(**options: Any) -> tuple[nn.Module, nn.Module]:
    """Our vision transformer and torchvision's, of one size."""
    from torchvision.models import VisionTransformer

    size = {"patch": 8, "width": 32, "depth": 3, "heads": 4} | options
    theirs = VisionTransformer(
        image_size=32,
        patch_size=size["patch"],
        num_layers=size["depth"],
        num_heads=size["heads"],
        hidden_dim=size["width"],
        mlp_dim=4 * size["width"],
        num_classes=7,
    )
    return registry.load("model", "vit")((3, 32, 32), 7, gelu_site, None, **size), theirs


def translated(theirs: nn.Module) -> dict[str, Tensor]:
    """The state of torchvision's vision transformer under our names; its fused query, key and value in three."""
    words = [
        ("class_token", "stem.token"),
        ("conv_proj", "stem.patches"),
        ("encoder.pos_embedding", "stem.position"),
        ("encoder.ln.", "norm."),
        ("heads.head", "head"),
        ("encoder.layers.encoder_layer_", "blocks."),
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("self_attention.in_proj_", "attention.qkv."),
        ("self_attention.out_proj", "attention.proj"),
        ("mlp.0", "linear1"),
        ("mlp.3", "linear2"),
    ]
    state = {}
    for name, weight in theirs.state_dict().items():
        for old, new in words:
            name = name.replace(old, new)
        thirds = zip(("query", "key", "value"), weight.chunk(3), strict=True)
        state |= {name.replace("qkv", part): third for part, third in thirds} if "qkv" in name else {name: weight}
    return state


def test_vit_is_torchvisions_vision_transformer() -> None:
    torch.manual_seed(0)
    own, theirs = torchvisions()
    nn.init.normal_(theirs.heads.head.weight)  # type: ignore[union-attr, arg-type] # zero at initialization
    nn.init.normal_(theirs.class_token)  # type: ignore[arg-type]
    own.load_state_dict(translated(theirs))
    equal_to(own.double(), theirs.double(), torch.randn(2, 3, 32, 32, dtype=torch.float64))


# ------------------------------------------------------------------------------------------ every architecture


@pytest.mark.parametrize("name", MODELS)
def test_every_site_is_its_own_and_sees_every_pass_in_order(name: str) -> None:
    model, (x, _) = make_model(name), batch_of(name, 2)
    named = sites.sites(model)
    functions = [id(module) for _, site in named for module in site.modules()]
    assert len(functions) == len(set(functions))
    seen: list[str] = []
    for site_name, site in named:
        site.register_forward_hook(lambda *_, site_name=site_name: seen.append(site_name))
    model(x)
    assert seen == [site_name for site_name, _ in named]


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "activation",
    [{"function": "relu"}, {"function": "topk", "over": "example"}, {"function": "quantile_relu", "over": "example"}],
    ids=lambda options: options["function"],
)
def test_an_example_does_not_see_the_others(name: str, norm: str | None, activation: dict[str, Any]) -> None:
    model = make_model(name, normalization=normalization(norm), activation=entry("activation", **activation))
    x, _ = batch_of(name, 4)
    others = 100 * x[1:].flip(0) if x.is_floating_point() else (x[1:] + 1) % VOCABULARY
    with torch.no_grad():
        model(x)  # fill running statistics
        model.eval()
        before = model(x)[0]
        after = model(torch.cat([x[:1], others]))[0]
    assert torch.equal(before, after)


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_processes_may_share_a_batch_where_no_example_sees_the_others_in_training(name: str, norm: str | None) -> None:
    model = make_model(name, normalization=normalization(norm))
    x, _ = batch_of(name, 4)
    with torch.no_grad():
        alone = torch.allclose(model(x)[:2], model(x[:2]), rtol=1e-4, atol=1e-5)
    conditions = [condition for condition in constant(name, "REQUIRES") if "processes" in condition]
    met = all(eval(condition, {}, {"processes": 2, "normalization": norm}) for condition in conditions)
    assert alone == (met and norm not in OVER_BATCH)


def cells() -> list[Any]:
    """Every (architecture, activation, normalization). A choice of them that holds every pair is in each run of the
    suite, the others are large: with more activations and normalizations than architectures, a shift by one suffices.
    """
    found = []
    for (a, activation), (n, norm) in product(enumerate(names("activation")), enumerate(NORMALIZATIONS)):
        for m, name in enumerate(MODELS):
            often = (a + n) % len(MODELS) == m
            found.append(pytest.param(name, activation, norm, marks=[] if often else [pytest.mark.large]))
    return found


def test_every_pair_is_in_each_run_of_the_suite() -> None:
    often = [cell.values for cell in cells() if not cell.marks]
    for first, second in combinations(range(3), 2):
        every = {(cell.values[first], cell.values[second]) for cell in cells()}
        assert {(cell[first], cell[second]) for cell in often} == every


@pytest.mark.parametrize(("name", "activation", "norm"), cells())
def test_one_step_is_finite_and_moves_every_parameter(name: str, activation: str, norm: str | None) -> None:
    x, y = batch_of(name)
    for loss in constant(name, "LOSSES"):
        model = make_model(name, activation=entry("activation", activation), normalization=normalization(norm))
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        seen: set[int] = set()
        with sites.hooked(model, lambda i, z, a, seen=seen: seen.add(i)):
            outputs = model(x)
        assert seen == set(range(len(sites.sites(model))))
        value = make("loss", loss)(outputs, y)
        value.backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        assert value.isfinite()
        # a bias in front of batch or instance norm has no effect, and so no gradient but what rounding leaves
        void = (
            "bias"
            if (norm or "").endswith("batch_norm")
            else ("conv.bias", "up.bias")
            if name == "mpsenet"
            else "nothing"
        )
        still = [key for key, p in model.named_parameters() if torch.equal(p, before[key])]
        assert [key for key in still if not key.endswith(void)] == []
    # what a checkpoint holds is all of it
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = make_model(name, seed=1, activation=entry("activation", activation), normalization=normalization(norm))
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        outputs = other.eval()(x[:2]), model.eval()(x[:2])
    torch.testing.assert_close(*outputs, rtol=0, atol=0, equal_nan=True)  # squares may overflow after such a step


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_state_goes_round(name: str, norm: str | None) -> None:
    x, _ = batch_of(name, 8)
    first, second = (make_model(name, seed=seed, normalization=normalization(norm)) for seed in (0, 1))
    first(x)  # fill running statistics
    assert not torch.equal(first.eval()(x), second.eval()(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = make_model(name).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    second, other = make_model(name).state_dict(), make_model(name, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_output_has_one_logit_per_class(name: str) -> None:
    for kind in set(constant(name, "ACCEPTS")) - {"speech"}:
        for classes in (2, 11):
            model = registry.load("model", name)(SHAPES[kind], classes, relu_site, None, **small_options(name))
            x = torch.zeros(5, *SHAPES[kind], dtype=torch.int64 if kind == "tokens" else torch.float32)
            per_token = SHAPES[kind] if kind == "tokens" else ()
            assert model(x).shape == (5, *per_token, classes)


def small_options(name: str) -> dict[str, Any]:
    return {key: value for key, value in make_spec(name)["model"].items() if key != "function"}


# ------------------------------------------------------------------------------------------ initialization


def within_standard_error(weight: Tensor, std: float) -> bool:
    """Mean 0 and this standard deviation, within four standard errors of normal draws."""
    n = weight.numel()
    return abs(weight.mean()) < 4 * std / n**0.5 and abs(weight.std() - std) < 4 * std / (2 * n) ** 0.5


def test_mlp_starts_as_kaiming_normal() -> None:
    model = registry.load("model", "mlp")((40,), 10, relu_site, None)
    for layer in (model.stem.linear, model.blocks[0].linear, model.head):
        assert within_standard_error(layer.weight, math.sqrt(2 / layer.in_features))
        assert not layer.bias.any()


def test_mlp_can_start_as_torch_does() -> None:
    model = registry.load("model", "mlp")((40,), 10, relu_site, None, init="torch")
    weight = model.blocks[0].linear.weight
    assert weight.abs().max() <= 1 / math.sqrt(256)  # uniform within 1 / sqrt(fan_in)
    assert 0.99 / math.sqrt(256) < weight.abs().max()
    assert model.head.bias.any()


def test_resnet_starts_as_torchvision_does() -> None:
    model = registry.load("model", "resnet")((3, 32, 32), 10, relu_site, None)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        fan_out = conv.weight.shape[0] * conv.weight[0, 0].numel()
        assert within_standard_error(conv.weight, math.sqrt(2 / fan_out))


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """First, second and fourth moment of independent draws (n,), and the standard error of each. The fourth tells a
    uniform distribution from a normal one of equal variance: 1.8 against 3 variances squared."""
    powers = torch.stack([values.double() ** k for k in (1, 2, 4)])
    return powers.mean(dim=1), powers.std(dim=1) / values.numel() ** 0.5


def test_every_parameter_of_vit_but_the_heads_weight_starts_as_torchvisions() -> None:
    torch.manual_seed(0)
    drawn: dict[str, list[list[Tensor]]] = {}  # kind of parameter -> ours, theirs
    for _ in range(8):  # initializations: a bias has few entries
        own, theirs = torchvisions(width=64)
        for side, state in enumerate((own.state_dict(), translated(theirs))):
            for name, values in state.items():
                kind = re.sub(r"blocks\.\d+", "blocks", name)
                drawn.setdefault(kind, [[], []])[side].append(values.flatten())
    assert drawn.pop("head.weight")[0][0].any()  # the one that is meant to differ
    for kind, sides in drawn.items():
        (ours, error), (expected, other) = (moments(torch.cat(side)) for side in sides)
        assert ((ours - expected).abs() <= 5 * (error.square() + other.square()).sqrt()).all(), (kind, ours, expected)
    # what torchvision draws, in numbers: see nn.MultiheadAttention and MLPBlock
    width = 64
    uniform = {"query.weight": (6 / (4 * width)) ** 0.5, "proj.weight": width**-0.5}
    for name, bound in uniform.items():
        values = torch.cat(drawn[f"blocks.attention.{name}"][0])
        assert 0.99 * bound < values.abs().max() <= bound
    assert within_standard_error(torch.cat(drawn["blocks.linear1.bias"][0]), 1e-6)


def test_vit_head_does_not_start_at_zero() -> None:
    model = registry.load("model", "vit")((3, 32, 32), 100, gelu_site, None)
    assert within_standard_error(model.head.weight, 0.02)
    assert within_standard_error(model.stem.position, 0.02)
    assert not model.stem.token.any()


def test_small_build_from_a_spec_takes_its_normalization_or_the_architectures_own() -> None:
    data = dataset("image")
    own = build(planned(make_spec("vit")), data, 0)
    given = build(planned(make_spec("vit", normalization=normalization("batch_norm"))), data, 0)
    assert [type(m).__name__ for m in (own.get_submodule("blocks.0.norm1"), own.get_submodule("norm"))] == [
        "LayerNorm"
    ] * 2
    assert [type(m).__name__ for m in (given.get_submodule("blocks.0.norm1"), given.get_submodule("norm"))] == [
        "TokenBatchNorm"
    ] * 2
