"""Dense and potential FLOPs of the layers that an activation site feeds."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sparsity_cliff.probes.rows import Row, Rows
from sparsity_cliff.probes.sites import matrices, sites

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def flops(model: nn.Module, forward: Callable[[Any], object], batch: Any, measured: list[Row]) -> Rows:
    """Dense and potential FLOPs per example (2 per multiply-add) of the layers that each site feeds.

    Potential FLOPs are dense FLOPs x (1 - sparsity), with the sparsity from the rows `measured`. batch: one example.
    The fed layers are found by following the tensors of one forward pass. A site that feeds two layers (a convolution
    and a projection shortcut) counts both; a site that feeds a pooling layer counts none. The weight matrices of fed
    layers are marked `fed_by_activation`, because claim C2 expects them to drift.
    """
    fed = {name: 0.0 for name, _ in sites(model)}
    readers: dict[str, None] = {}  # layers whose input is a site's output
    source: dict[int, str] = {}  # address of a site's output -> the site
    alive: list[Tensor] = []  # kept to the end, so that no address is reused

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
            # weight.shape[0] counts output channels, or input channels of a transposed convolution; each weight is
            # used once for every token or pixel of that side
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
        if names.get(getattr(model, "head", None)) == name.removesuffix(".weight"):
            yield None, name, depth, "head_weight", 1.0
    yield "test", None, None, "dense_flops", sum(fed.values())
    yield (
        "test",
        None,
        None,
        "potential_flops",
        sum(dense * (1 - shares[name]) for name, dense in fed.items()),
    )
