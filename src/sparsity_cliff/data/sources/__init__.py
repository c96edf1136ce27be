"""Data sets. A source is a function (root, **options) -> arrays, in a file of its own that states, as constants, the
KIND of its examples ("signal", "image", "tokens" or "speech"), and their SHAPE or VOCABULARY where these are fixed. It
may state what it REQUIRES of its options, and as EXAMPLES how many there are for training and held out, None where only
the data tell. Both are expressions over its options, with which a study is checked before any job.

Sources run once, in the workflow's data stage, and their arrays go into one .npz file; training reads only that file.
The names of the arrays say which layout they are (sparsity_cliff.data.layouts): labeled examples, tokens, or speech.
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
