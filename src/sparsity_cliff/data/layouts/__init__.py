"""Layouts of prepared data, a file each: what the arrays are called, what a batch is, how an output is scored.

A batch is (inputs, targets), two tensors with one entry per example in the first axis. KINDS says which layout examples
of a kind have (the KIND that a source's module states); MARKS, which array only files of a layout have.
"""

LAYOUTS = {
    "labeled": "sparsity_cliff.data.layouts.labeled:Labeled",
    "tokens": "sparsity_cliff.data.layouts.tokens:Tokens",
    "speech": "sparsity_cliff.data.layouts.speech:Speech",
}
KINDS = {"signal": "labeled", "image": "labeled", "tokens": "tokens", "speech": "speech"}
MARKS = {"x_train": "labeled", "tokens_train": "tokens", "noisy_train": "speech"}
