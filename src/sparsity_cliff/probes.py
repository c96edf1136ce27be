"""What is measured, and the hooks that feed it.

Definitions are those of docs/definitions.md. Every probe reads: none changes a weight, a buffer, a gradient or the
state of a random generator, so that probing more or less changes no other number. Sums stay on the device; each
measurement brings them back in one transfer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsity_cliff.activations import Site
from sparsity_cliff.parallel import ALONE, Ranks
from sparsity_cliff.traces import HISTOGRAM_EDGES

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NEAR_ZERO = 1e-3  # |a| <= NEAR_ZERO x RMS(a) counts as near zero

Row = tuple[str | None, str | None, int | None, str, float]  # split, layer, depth, metric, value
Rows = Iterator[Row]


def schedule(steps: int, every: int) -> list[int]:
    """Steps that are measured: 0, the powers of two below `every`, the multiples of `every`, and the last."""
    powers = {2**k for k in range(every.bit_length()) if 2**k < min(every, steps)}
    return sorted({0, steps} | powers | set(range(every, steps, every)))


def sites(model: nn.Module) -> list[tuple[str, Site]]:
    """Activation sites by name, in the order of their definition, which is the order from the input."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Site)]


def matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weight matrices by name: every parameter with two axes or more of a layer, convolution kernels included."""
    return [(name, p) for name, p in model.named_parameters() if name.endswith("weight") and p.ndim >= 2]


@contextmanager
def _hooked(model: nn.Module, hook: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """Within: hook(index of site, pre-activation, activation) at every pass through a site."""

    def register(index: int, site: Site) -> torch.utils.hooks.RemovableHandle:
        return site.register_forward_hook(lambda _, inputs, output: hook(index, inputs[0], output))

    handles = [register(index, site) for index, (_, site) in enumerate(sites(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


# ---------------------------------------------------------------------------------------------- evaluation set


def activations(
    model: nn.Module,
    forward: Callable[[Any], object],
    batches: Sequence[Any],
    delimiters: Sequence[int] | None = None,
) -> Rows:
    """Per site, accumulated over all `batches` of held-out data, and for the whole model.

    forward: passes a batch through the model, in eval mode and without gradients. The near-zero share needs the RMS
    over the whole set, hence a second pass where the set is more than one batch.

    delimiters: of token data, whose batches are (tokens (N, T) int64, targets): the tokens that end a word or sentence.
    Then also the share of windows whose spike, the largest |a| over tokens and features, sits at token 0, and at a
    delimiter, and for the whole model what uniform placement would give. A window of zeros has no spike; one with equal
    spikes at several tokens (a clipped activation) counts for each in equal parts.
    """
    named = sites(model)
    device = next(model.parameters(), torch.empty(0)).device
    wide = _wide(device)
    sums = {i: torch.zeros(8, dtype=wide, device=device) for i in range(len(named))}
    largest: dict[int, Tensor] = {}
    silent: dict[int, Tensor] = {}  # per unit: 0 on every example so far
    nowhere = torch.zeros(3, dtype=wide, device=device)
    marks: list[Tensor] = []  # per batch of token data (N, T): whether the token is a delimiter

    def first(i: int, z: Tensor, a: Tensor) -> None:
        zero = a == 0
        # example by example: over millions of elements at once, a float32 sum is off by 1e-5
        square = torch.linalg.vector_norm(a.flatten(1), dim=1, dtype=torch.float32).to(wide).square().sum()
        near = close_to_zero(a, square / a.numel()) if len(batches) == 1 else torch.zeros_like(square)
        n, zeros, negative = a.new_tensor(a.numel(), dtype=wide), zero.count_nonzero(), (z < 0).count_nonzero()
        place = nowhere
        if delimiters is None or a.shape[:-1] != marks[-1].shape:
            low, high = torch.aminmax(a)
        else:
            low, high = a.amin(dim=-1), a.amax(dim=-1)  # (N, T); aminmax takes ten times as long over an axis
            place = _places(torch.maximum(-low, high), marks[-1]).to(wide)
        sums[i] += torch.cat([torch.stack([n, zeros.to(wide), negative.to(wide), square, near]), place])
        top = torch.maximum(-low.min(), high.max()).to(wide)
        largest[i] = torch.maximum(largest[i], top) if i in largest else top
        dim = named[i][1].dim % a.ndim  # of units; first over examples, which is the fast axis to reduce
        units = zero.all(dim=0).movedim(dim - 1, 0).reshape(a.shape[dim], -1).all(dim=1)
        silent[i] = silent[i] & units if i in silent else units

    def second(i: int, z: Tensor, a: Tensor) -> None:
        sums[i][4] += close_to_zero(a, sums[i][3] / sums[i][0])

    def close_to_zero(a: Tensor, mean_square: Tensor) -> Tensor:
        return (a.abs() <= NEAR_ZERO * mean_square.sqrt()).count_nonzero().to(wide)

    for hook in (first, second)[: 1 if len(batches) == 1 else 2]:
        with _hooked(model, hook):
            for batch in batches:
                if delimiters is not None and hook is first:
                    marks.append(torch.isin(batch[0], torch.tensor(delimiters, dtype=torch.int64, device=device)))
                forward(batch)

    ran = [i for i in sums if i in largest]  # a site may lie unused
    if not ran:
        return
    table = torch.stack([torch.stack([*sums[i], largest[i], silent[i].to(wide).mean()]) for i in ran])
    rows = table.cpu().double().tolist()
    for i, row in zip(ran, rows, strict=True):
        n, zeros, negative, square, near, windows, first_token, delimiter, top, dead = row
        name, rms = named[i][0], (square / n) ** 0.5
        yield "test", name, i, "activation_sparsity", zeros / n
        yield "test", name, i, "near_zero_share", near / n
        yield "test", name, i, "preactivation_negative_share", negative / n
        yield "test", name, i, "dead_unit_share", dead
        yield "test", name, i, "activation_rms", rms
        yield "test", name, i, "spike", top
        yield "test", name, i, "spike_ratio", top / rms if rms > 0 else float("nan")
        if windows:
            yield "test", name, i, "spike_first_token_share", first_token / windows
        if windows and delimiters:
            yield "test", name, i, "spike_delimiter_share", delimiter / windows
    n, zeros, negative, _, near, *_ = (sum(column) for column in zip(*rows, strict=True))
    yield "test", None, None, "activation_sparsity", zeros / n
    yield "test", None, None, "near_zero_share", near / n
    yield "test", None, None, "preactivation_negative_share", negative / n
    yield "test", None, None, "spike", max(row[8] for row in rows)
    if marks:
        yield "test", None, None, "first_token_share", 1 / marks[0].shape[1]
    if marks and delimiters:
        yield "test", None, None, "delimiter_share", torch.cat(marks).float().mean().item()


def _places(top: Tensor, delimiter: Tensor) -> Tensor:
    """Windows with a spike, and how many of these have it at token 0, and at a delimiter: (3,).

    top: largest |a| of each token (N, T). delimiter: whether the token is one (N, T).
    """
    highest = top.amax(dim=1, keepdim=True)
    at = ((top == highest) & (highest > 0)).float()
    at /= at.sum(dim=1, keepdim=True).clamp(min=1)  # equal spikes share the window
    return torch.stack([(highest > 0).sum(), at[:, 0].sum(), (at * delimiter).sum()])


def flops(model: nn.Module, forward: Callable[[Any], object], batch: Any, measured: list[Row]) -> Rows:
    """Per site: dense and potential FLOPs per example (2 per multiply-add) of the layers that the site feeds.

    Potential is dense x (1 - sparsity), with the sparsity found in the rows `measured`. batch: of one example.
    The fed layers are found by following the very tensors of one forward pass: a site that feeds two layers (a
    convolution and a projection shortcut) gets both, one that feeds a pooling layer gets none. The weight matrices
    found so are marked `fed_by_activation`: those are the ones that claim C2 expects to drift.
    """
    fed = {name: 0.0 for name, _ in sites(model)}
    readers: dict[str, None] = {}  # layers whose input is a site's output
    source: dict[int, str] = {}  # address of a site's output -> the site
    alive: list[Tensor] = []  # until the end, so that no address is used twice

    def leave(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            source[output.data_ptr()] = name
            alive.append(output)

        return hook

    def enter(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        alive.extend((inputs[0], output))
        if name := source.get(inputs[0].data_ptr()):
            weight: Tensor = layer.weight  # type: ignore[assignment]
            readers[names[layer]] = None
            # weight.shape[0] counts output channels, of a transposed convolution input channels: at each of that
            # side's tokens or pixels every weight is used once
            side = inputs[0] if isinstance(layer, TRANSPOSED) else output
            fed[name] += 2.0 * weight.numel() * (side.numel() // weight.shape[0])

    names = {module: name for name, module in model.named_modules()}
    handles = [site.register_forward_hook(leave(name)) for name, site in sites(model)]
    layers = (module for module in names if isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)))
    handles += [layer.register_forward_hook(enter) for layer in layers]
    try:
        forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    shares = {layer: value for _, layer, _, metric, value in measured if layer and metric == "activation_sparsity"}
    for depth, (name, dense) in enumerate(fed.items()):
        yield "test", name, depth, "dense_flops", dense
        yield "test", name, depth, "potential_flops", dense * (1 - shares[name])
    for depth, (name, _) in enumerate(matrices(model)):
        if name.removesuffix(".weight") in readers:
            yield None, name, depth, "fed_by_activation", 1.0
    yield "test", None, None, "dense_flops", sum(fed.values())
    yield (
        "test",
        None,
        None,
        "potential_flops",
        sum(dense * (1 - shares[name]) for name, dense in fed.items()),
    )


# ---------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class InitialWeights:
    """Mean and standard deviation of every weight matrix at initialization: what drift is measured from."""

    mean: dict[str, float]
    std: dict[str, float]

    @staticmethod
    def of(model: nn.Module) -> "InitialWeights":
        named = matrices(model)
        stats = _mean_std_negative(named)
        return InitialWeights(
            {name: mean for (name, _), (mean, _, _) in zip(named, stats, strict=True)},
            {name: std for (name, _), (_, std, _) in zip(named, stats, strict=True)},
        )


def _mean_std_negative(named: list[tuple[str, nn.Parameter]]) -> list[list[float]]:
    def stats(weight: Tensor) -> Tensor:
        wide = weight.detach().to(_wide(weight.device))
        return torch.stack([wide.mean(), wide.std(correction=0), (wide < 0).to(wide.dtype).mean()])

    values: list[list[float]] = torch.stack([stats(p) for _, p in named]).cpu().double().tolist()
    return values


def weights(model: nn.Module, initial: InitialWeights) -> Rows:
    """Per weight matrix: mean, standard deviation, negative share, and drift z, which is
    (mean W_t - mean W_0) / (std W_0 / sqrt n)."""
    named = matrices(model)
    for depth, ((name, p), (mean, std, negative)) in enumerate(zip(named, _mean_std_negative(named), strict=True)):
        yield None, name, depth, "weight_mean", mean
        yield None, name, depth, "weight_std", std
        yield None, name, depth, "weight_negative_share", negative
        if initial.std[name] > 0:
            drift = (mean - initial.mean[name]) / (initial.std[name] / p.numel() ** 0.5)
            yield None, name, depth, "drift_z", drift


def histograms(model: nn.Module, initial: InitialWeights) -> Rows:
    """Per weight matrix: share of weights per bin of HISTOGRAM_EDGES, in units of the initial standard deviation.

    Row `weight_histogram.i` is the bin between edges i - 1 and i; the first and the last bin are open.
    """
    for depth, (name, p) in enumerate(matrices(model)):
        if initial.std[name] > 0:
            edges = torch.tensor(HISTOGRAM_EDGES, device=p.device)
            bins = torch.bucketize(p.detach().float().flatten() / initial.std[name], edges)
            shares = torch.bincount(bins, minlength=len(HISTOGRAM_EDGES) + 1).cpu().double() / p.numel()
            for i, share in enumerate(shares.tolist()):
                yield None, name, depth, f"weight_histogram.{i:02d}", share


# ---------------------------------------------------------------------------------------------- gradients


class GradientSigns:
    """∂L/∂z at every site over one training step, L summed over the batch: means over z > 0, z <= 0 and all z.

    Use as a context around the forward passes of the step, call backward, then `rows()`. Multiplying by `terms`, the
    number of examples or tokens, undoes the loss's mean, so that the numbers are per example, as in the closed forms.
    Where ranks share the batch, each watches its part, and the rows, which all ranks must ask for, are of the whole.
    """

    def __init__(self, model: nn.Module, terms: int):
        self._named = sites(model)
        self._terms = terms
        self._sums: list[Tensor | None] = [None] * len(self._named)
        self._hooks = _hooked(model, self._watch)

    def _watch(self, i: int, z: Tensor, a: Tensor) -> None:
        positive = (z.detach() > 0).to(z.dtype)

        def accumulate(gradient: Tensor) -> None:
            wide = _wide(gradient.device)
            count = positive.sum(dtype=wide)
            up, total = (gradient * positive).sum(dtype=wide), gradient.sum(dtype=wide)
            # not z.numel(): a hook on z that holds z is a cycle, and keeps the step's whole graph from being freed
            sums = torch.stack([up, total - up, count, gradient.numel() - count])
            before = self._sums[i]
            self._sums[i] = sums if before is None else before + sums

        z.register_hook(accumulate)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "GradientSigns":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(None, None, None)

    def rows(self, ranks: Ranks = ALONE) -> Rows:
        found = [
            (depth, name, sums)
            for depth, ((name, _), sums) in enumerate(zip(self._named, self._sums, strict=True))
            if sums is not None
        ]
        if not found:
            return
        sums_of_all = torch.stack([sums for _, _, sums in found])
        ranks.add([sums_of_all])
        values = sums_of_all.cpu().double().tolist()
        for (depth, name, _), (up, down, n_up, n_down) in zip(found, values, strict=True):
            scale = float(self._terms)
            if n_up:
                yield "train", name, depth, "gradient_positive", scale * up / n_up
            if n_down:
                yield "train", name, depth, "gradient_nonpositive", scale * down / n_down
            yield "train", name, depth, "gradient_all", scale * (up + down) / (n_up + n_down)
