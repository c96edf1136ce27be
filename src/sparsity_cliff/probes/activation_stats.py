"""What the outputs of activation sites are like on held-out data. Definitions are those of docs/definitions.md."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site
from sparsity_cliff.probes.rows import Row, Rows
from sparsity_cliff.probes.sites import hooked, sites, wide

NEAR_ZERO = 1e-3  # |a| <= NEAR_ZERO x RMS(a) counts as near zero


class SiteSums:
    """Sums over the evaluation set, of one site, on its device.

    elements, zeros, negative (pre-activations < 0), square (Σ a²) and near_zero count elements. windows: windows of
    tokens with a spike; at_first_token, at_delimiter: how many of these have it there.
    """

    NAMES = ("elements", "zeros", "negative", "square", "near_zero", "windows", "at_first_token", "at_delimiter")

    def __init__(self, site: Site, device: torch.device):
        self._site, self._zero = site, torch.zeros((), dtype=wide(device), device=device)
        self._sums = self._zero.repeat(len(self.NAMES))
        self.largest: Tensor | None = None  # |a|
        self.silent: Tensor | None = None  # per unit: 0 on every example so far

    def add(self, **values: Tensor) -> None:
        """Add to the sums of these names."""
        self._sums += torch.stack([values.get(name, self._zero).to(self._zero.dtype) for name in self.NAMES])

    @property
    def mean_square(self) -> Tensor:
        """The mean of a² so far."""
        return self._sums[self.NAMES.index("square")] / self._sums[self.NAMES.index("elements")]

    def see(self, top: Tensor, zero: Tensor) -> None:
        """Keep the largest |a|, `top`, and the units that were never anything but 0. zero: a == 0, as shaped as a."""
        self.largest = top if self.largest is None else torch.maximum(self.largest, top)
        dim = self._site.dim % zero.ndim  # of units; first over examples, which is the fast axis to reduce
        units = zero.all(dim=0).movedim(dim - 1, 0).reshape(zero.shape[dim], -1).all(dim=1)
        self.silent = units if self.silent is None else self.silent & units

    def all(self) -> Tensor:
        """The sums, the largest |a| and the share of silent units, in one tensor to bring back; `named` reads it."""
        assert self.largest is not None
        assert self.silent is not None
        return torch.stack([*self._sums, self.largest.to(self._zero.dtype), self.silent.to(self._zero.dtype).mean()])

    @classmethod
    def named(cls, row: list[float]) -> dict[str, float]:
        """The numbers of `all`, by name; also spike, dead and rms."""
        found = dict(zip((*cls.NAMES, "spike", "dead"), row, strict=True))
        return found | {"rms": (found["square"] / found["elements"]) ** 0.5}


def activation_stats(
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
    sums = [SiteSums(site, device) for _, site in named]
    marks: list[Tensor] = []  # per batch of token data (N, T): whether the token is a delimiter

    def count(i: int, z: Tensor, a: Tensor) -> None:
        zero = a == 0
        # example by example: over millions of elements at once, a float32 sum is off by 1e-5
        square = torch.linalg.vector_norm(a.flatten(1), dim=1, dtype=torch.float32).to(wide(device)).square().sum()
        elements = a.new_tensor(a.numel(), dtype=wide(device))
        found: dict[str, Tensor] = {}
        if delimiters is None or a.shape[:-1] != marks[-1].shape:
            low, high = torch.aminmax(a)
        else:
            low, high = a.amin(dim=-1), a.amax(dim=-1)  # (N, T); aminmax takes ten times as long over an axis
            found = _places(torch.maximum(-low, high), marks[-1])
        if len(batches) == 1:
            found["near_zero"] = _near_zero(a, square / a.numel())
        negative = (z < 0).count_nonzero()
        sums[i].add(elements=elements, zeros=zero.count_nonzero(), negative=negative, square=square, **found)
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

    ran = [i for i, found in enumerate(sums) if found.largest is not None]  # a site may lie unused
    if not ran:
        return
    numbers = torch.stack([sums[i].all() for i in ran]).cpu().double().tolist()
    found = {i: SiteSums.named(row) for i, row in zip(ran, numbers, strict=True)}
    for i in ran:
        for metric, value in _of_site(found[i], bool(delimiters)):
            yield "test", named[i][0], i, metric, value
    yield from _of_model(list(found.values()), marks, bool(delimiters))


def _near_zero(a: Tensor, mean_square: Tensor) -> Tensor:
    """How many elements are near zero, against the mean of a² over the whole evaluation set."""
    return (a.abs() <= NEAR_ZERO * mean_square.sqrt()).count_nonzero()


def _places(top: Tensor, delimiter: Tensor) -> dict[str, Tensor]:
    """Windows with a spike, and how many of these have it at token 0, and at a delimiter.

    top: largest |a| of each token (N, T). delimiter: whether the token is one (N, T).
    """
    highest = top.amax(dim=1, keepdim=True)
    at = ((top == highest) & (highest > 0)).float()
    at /= at.sum(dim=1, keepdim=True).clamp(min=1)  # equal spikes share the window
    windows = (highest > 0).sum()
    return {"windows": windows, "at_first_token": at[:, 0].sum(), "at_delimiter": (at * delimiter).sum()}


def _of_site(site: dict[str, float], delimiters: bool) -> Iterator[tuple[str, float]]:
    """(metric, value) of one site."""
    yield "activation_sparsity", site["zeros"] / site["elements"]
    yield "near_zero_share", site["near_zero"] / site["elements"]
    yield "preactivation_negative_share", site["negative"] / site["elements"]
    yield "dead_unit_share", site["dead"]
    yield "activation_rms", site["rms"]
    yield "spike", site["spike"]
    yield "spike_ratio", site["spike"] / site["rms"] if site["rms"] > 0 else float("nan")
    if site["windows"]:
        yield "spike_first_token_share", site["at_first_token"] / site["windows"]
    if site["windows"] and delimiters:
        yield "spike_delimiter_share", site["at_delimiter"] / site["windows"]


def _of_model(found: list[dict[str, float]], marks: list[Tensor], delimiters: bool) -> Iterator[Row]:
    """Rows of the whole model: weighted by elements over sites."""
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
