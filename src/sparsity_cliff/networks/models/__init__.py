"""Architectures, each complete in one file. A model is called as

    MODEL(shape, classes, activation, normalization, **options)

shape: shape of one example, (L,) for signals and speech, (T,) for tokens (int64), (C, H, W) for images. classes:
number of outputs. activation: feature axis -> a new Site, called once per activation site. normalization: (features,
spatial) -> a new module, or None for the architecture's own. The submodules are named `stem`, `blocks` (the hidden
weights, which Muon takes), and `head`.

Each file defines constants that the validation of a study reads: the kinds of data that it ACCEPTS, the LOSSES that
make sense for it, and what it REQUIRES. A requirement is an expression over the model's options, the name of the
`optimizer`, `processes`, the data's options, and `channels`, `height`, `length`, or `vocabulary`. It may also name
parts of a cell of the grid: the functions of its `loss`, `activation`, and `normalization` (None for the architecture's
own), and what a control ranks `over`. A requirement with a name whose value is not known is skipped.
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
