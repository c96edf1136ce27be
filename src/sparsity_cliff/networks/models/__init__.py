"""Architectures: one file each, whole. A model is called as

    MODEL(shape, classes, activation, normalization, **options)

shape: one example's, (L,) for signals and speech, (T,) for tokens (int64), (C, H, W) for images. activation: feature
axis -> a new Site, one for each activation site. normalization: (features, spatial) -> a new module, or None for the
architecture's own. The sub-modules are named `stem`, `blocks` (hidden weights: Muon's part) and `head`.

Each file states, as constants that the study's validation reads, the kinds of data that it ACCEPTS, the LOSSES that
make sense for it, and what it REQUIRES: expressions over its options, the name of the `optimizer`, its `processes`, the
data's options, `channels`, `height`, `length` or `vocabulary`, and, per cell of the grid, the functions of its `loss`,
`activation` and `normalization` (None for the architecture's own), and what a control ranks `over`. One that names
what the data do not state is not asked.
"""

from collections.abc import Callable

from torch import nn

from sparsity_cliff.networks.activations import Site

NewSite = Callable[[int], Site]
NewNorm = Callable[[int, int], nn.Module] | None

MODELS = {
    "mlp": "sparsity_cliff.networks.models.mlp:MLP",
    "cnn": "sparsity_cliff.networks.models.cnn:CNN",
    "resnet": "sparsity_cliff.networks.models.resnet:ResNet",
    "vit": "sparsity_cliff.networks.models.vit:VisionTransformer",
    "gpt": "sparsity_cliff.networks.models.gpt:GPT",
    "mpsenet": "sparsity_cliff.networks.models.mpsenet:MPSENet",
}
