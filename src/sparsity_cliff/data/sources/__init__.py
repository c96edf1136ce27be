"""Data sets. A source is a function (root, **options) -> arrays, in a file of its own.

The file defines constants: the KIND of the examples ("signal", "image", "tokens", or "speech"), and their SHAPE or
VOCABULARY if these are fixed. Two further constants are optional: REQUIRES has conditions on the options, and EXAMPLES
has the numbers of training and held-out examples (None if only the data show them). Both hold expressions over the
options, with which a study is checked before any job.

A source runs once, in the data stage of the workflow. Its arrays go into one .npz file, and training reads only this
file. The names of the arrays determine the layout (sparsity_cliff.data.layouts).
"""

SOURCES = {
    "mnist1d": "sparsity_cliff.data.sources.mnist1d:mnist1d",
    "digits": "sparsity_cliff.data.sources.digits:digits",
    "cifar10": "sparsity_cliff.data.sources.cifar:cifar10",
    "cifar100": "sparsity_cliff.data.sources.cifar:cifar100",
    "text": "sparsity_cliff.data.sources.text:text",
    "fineweb10b": "sparsity_cliff.data.sources.fineweb:fineweb10b",
    "token_files": "sparsity_cliff.data.sources.fineweb:token_files",
    "speech": "sparsity_cliff.data.sources.speech:speech",
    "voicebank": "sparsity_cliff.data.sources.voicebank:voicebank_demand",
}
