"""Statistics of the outputs of activation sites on held-out data. docs/definitions.md defines them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site
from sparsity_cliff.probes.rows import Row, Rows
from sparsity_cliff.probes.sites import hooked, sites, wide

NEAR_ZERO = 1e-3  # |a| <= NEAR_ZERO x RMS(a) counts as near zero


class SiteSums:
    """Sums of one site over the evaluation set, on the site's device.

    elements, zeros, negative (pre-activations < 0), and near_zero count elements. square is Σ a², pre Σ z, and
    pre_square Σ z². windows counts windows of tokens with a spike; at_first_token and at_delimiter count those whose
    spike is there.
    """

    NAMES = (
        *("elements", "zeros", "negative", "square", "near_zero", "pre", "pre_square"),
        *("windows", "at_first_token", "at_delimiter"),
    )

    def __init__(self, site: Site, device: torch.device):
        self._site, self._zero = site, torch.zeros((), dtype=wide(device), device=device)
        self._sums = self._zero.repeat(len(self.NAMES))
        self.largest: Tensor | None = None  # |a|
        self.silent: Tensor | None = None  # (units,): whether the unit was 0 on every example so far

    def add(self, **values: Tensor) -> None:
        """Add scalars to the sums with these names."""
        self._sums += torch.stack([values.get(name, self._zero).to(self._zero.dtype) for name in self.NAMES])

    @property
    def mean_square(self) -> Tensor:
        """The mean of a² so far."""
        return self._sums[self.NAMES.index("square")] / self._sums[self.NAMES.index("elements")]

    def see(self, top: Tensor, zero: Tensor) -> None:
        """Update the largest |a| with `top`, a scalar, and the silent units with `zero`, a == 0 in the shape of a."""
        self.largest = top if self.largest is None else torch.maximum(self.largest, top)
        dim = self._site.dim % zero.ndim  # axis of units; examples are reduced first, because that axis is fast
        units = zero.all(dim=0).movedim(dim - 1, 0).reshape(zero.shape[dim], -1).all(dim=1)
        self.silent = units if self.silent is None else self.silent & units

    def all(self) -> Tensor:
        """The sums, the largest |a|, and the share of silent units, as one tensor to transfer. `named` reads it."""
        assert self.largest is not None
        assert self.silent is not None
        return torch.stack([*self._sums, self.largest.to(self._zero.dtype), self.silent.to(self._zero.dtype).mean()])

    @classmethod
    def named(cls, row: list[float]) -> dict[str, float]:
        """The numbers of `all` by name, with spike, dead, rms, and the mean and standard deviation of z."""
        found = dict(zip((*cls.NAMES, "spike", "dead"), row, strict=True))
        mean, square = found["pre"] / found["elements"], found["pre_square"] / found["elements"]
        std = math.sqrt(max(0.0, square - mean**2)) if math.isfinite(square) else math.nan
        return found | {"rms": (found["square"] / found["elements"]) ** 0.5, "pre_mean": mean, "pre_std": std}


def activation_stats(
    model: nn.Module,
    forward: Callable[[Any], object],
    batches: Sequence[Any],
    delimiters: Sequence[int] | None = None,
) -> Rows:
    """Statistics per site and for the whole model, over all `batches` of held-out data.

    forward: passes a batch through the model, in eval mode and without gradients. The near-zero share needs the RMS
    over the whole set, and therefore a second pass if there is more than one batch.

    delimiters: for token data, whose batches are (tokens int64 (N, T), targets), the tokens that end a word or
    sentence. The rows then include the shares of windows whose spike, the largest |a| over tokens and features, is at
    token 0 and at a delimiter, and for the whole model, the shares under uniform placement. A window of zeros has no
    spike. A window with equal spikes at several tokens (a clipped activation) counts for each of them in equal parts.
    """
    named = sites(model)
    device = next(model.parameters(), torch.empty(0)).device
    sums = [SiteSums(site, device) for _, site in named]
    marks: list[Tensor] = []  # (N, T) per batch of token data: whether the token is a delimiter

    def count(i: int, z: Tensor, a: Tensor) -> None:
        zero = a == 0
        # per example, because a float32 sum over millions of elements has an error of 1e-5
        square = torch.linalg.vector_norm(a.flatten(1), dim=1, dtype=torch.float32).to(wide(device)).square().sum()
        elements = a.new_tensor(a.numel(), dtype=wide(device))
        found: dict[str, Tensor] = {}
        if delimiters is None or a.shape[:-1] != marks[-1].shape:
            low, high = torch.aminmax(a)
        else:
            low, high = a.amin(dim=-1), a.amax(dim=-1)  # (N, T); aminmax over an axis takes ten times as long
            found = _places(torch.maximum(-low, high), marks[-1])
        if len(batches) == 1:
            found["near_zero"] = _near_zero(a, square / a.numel())
        found |= _preactivations(z)
        sums[i].add(elements=elements, zeros=zero.count_nonzero(), square=square, **found)
        sums[i].see(torch.maximum(-low.min(), high.max()), zero)

    def count_near_zero(i: int, z: Tensor, a: Tensor) -> None:
        sums[i].add(near_zero=_near_zero(a, sums[i].mean_square))

    with hooked(model, count):
        for batch in batches:
            if delimiters is not None:
                marks.append(torch.isin(batch[0], torch.tensor(delimiters, dtype=torch.int64, device=device)))
            forward(batch)
    if len(batches) > 1:
        with hooked(model, count_near_zero):
            for batch in batches:
                forward(batch)

    ran = [i for i, found in enumerate(sums) if found.largest is not None]  # a site may be unused
    if not ran:
        return
    numbers = torch.stack([sums[i].all() for i in ran]).cpu().double().tolist()
    found = {i: SiteSums.named(row) for i, row in zip(ran, numbers, strict=True)}
    for i in ran:
        for metric, value in _of_site(found[i], bool(delimiters)):
            yield "test", named[i][0], i, metric, value
    yield from _of_model(list(found.values()), marks, bool(delimiters))


def _preactivations(z: Tensor) -> dict[str, Tensor]:
    """Σ z, Σ z², and the number of z < 0. z: (N, ...). Means and variances are first taken per example, in float32."""
    variance, mean = torch.var_mean(z.flatten(1).float(), dim=1, correction=0)
    size, mean = z[0].numel(), mean.to(wide(z.device))
    square = size * (mean.square() + variance).sum()
    return {"pre": size * mean.sum(), "pre_square": square, "negative": (z < 0).count_nonzero()}


def _near_zero(a: Tensor, mean_square: Tensor) -> Tensor:
    """Number of elements near zero, relative to the mean of a² over the whole evaluation set."""
    return (a.abs() <= NEAR_ZERO * mean_square.sqrt()).count_nonzero()


def _places(top: Tensor, delimiter: Tensor) -> dict[str, Tensor]:
    """Numbers of windows with a spike, with a spike at token 0, and with a spike at a delimiter.

    top: (N, T), the largest |a| of each token. delimiter: (N, T), whether a token is a delimiter.
    """
    highest = top.amax(dim=1, keepdim=True)
    at = ((top == highest) & (highest > 0)).float()
    at /= at.sum(dim=1, keepdim=True).clamp(min=1)  # equal spikes share the window
    windows = (highest > 0).sum()
    return {"windows": windows, "at_first_token": at[:, 0].sum(), "at_delimiter": (at * delimiter).sum()}


def _of_site(site: dict[str, float], delimiters: bool) -> Iterator[tuple[str, float]]:
    """(metric, value) pairs of one site."""
    yield "activation_sparsity", site["zeros"] / site["elements"]
    yield "near_zero_share", site["near_zero"] / site["elements"]
    yield "preactivation_negative_share", site["negative"] / site["elements"]
    yield "preactivation_mean", site["pre_mean"]
    yield "preactivation_std", site["pre_std"]
    yield "dead_unit_share", site["dead"]
    yield "activation_rms", site["rms"]
    yield "spike", site["spike"]
    yield "spike_ratio", site["spike"] / site["rms"] if site["rms"] > 0 else float("nan")
    if site["windows"]:
        yield "spike_first_token_share", site["at_first_token"] / site["windows"]
    if site["windows"] and delimiters:
        yield "spike_delimiter_share", site["at_delimiter"] / site["windows"]


def _of_model(found: list[dict[str, float]], marks: list[Tensor], delimiters: bool) -> Iterator[Row]:
    """Rows of the whole model, where shares are weighted by the elements of each site."""
    elements = sum(site["elements"] for site in found)
    shares = {
        "activation_sparsity": "zeros",
        "near_zero_share": "near_zero",
        "preactivation_negative_share": "negative",
    }
    for metric, name in shares.items():
        yield "test", None, None, metric, sum(site[name] for site in found) / elements
    yield "test", None, None, "spike", max(site["spike"] for site in found)
    if marks:
        yield "test", None, None, "first_token_share", 1 / marks[0].shape[1]
    if marks and delimiters:
        yield "test", None, None, "delimiter_share", torch.cat(marks).float().mean().item()
