"""Layouts of prepared data, a file each: the names of the arrays, the form of a batch, and the scores of an output.

A batch is (inputs, targets), two tensors whose first axis counts examples. KINDS maps the KIND of a source's module to
its layout. MARKS maps an array to the only layout whose files have it.
"""

LAYOUTS = {
    "labeled": "sparsity_cliff.data.layouts.labeled:Labeled",
    "tokens": "sparsity_cliff.data.layouts.tokens:Tokens",
    "speech": "sparsity_cliff.data.layouts.speech:Speech",
}
KINDS = {"signal": "labeled", "image": "labeled", "tokens": "tokens", "speech": "speech"}
MARKS = {"x_train": "labeled", "tokens_train": "tokens", "noisy_train": "speech"}
