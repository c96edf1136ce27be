"""The registries of what a study file can name, and the lookup of an object by its name.

A registry is one dict, name -> object, or name -> `"module:object"` if the object has a file of its own. A study file
may also name any importable object, such as `"my_lab.acts:MyAct"`. The keyword-only arguments of the object are its
options in a study file. Their annotations, which are defined below, say which values are valid.
"""

import importlib
from typing import Any

from sparsity_cliff.study.spec import Entry

# Annotations for options. sparsity_cliff.study.options.KINDS defines their valid values.
Count = int  # an integer >= 1
Size = int  # an integer >= 0
Share = float  # 0 <= x < 1
Positive = float  # > 0
NonNegative = float  # >= 0
Momentum = float  # 0 <= x < 1
ActivationName = str  # an activation in the registry whose options all have defaults

#: Kind of entry -> (module, name of the dict).
REGISTRIES = {
    "activation": ("sparsity_cliff.networks.activations", "ACTIVATIONS"),
    "normalization": ("sparsity_cliff.networks.normalizations", "NORMALIZATIONS"),
    "loss": ("sparsity_cliff.networks.losses", "LOSSES"),
    "model": ("sparsity_cliff.networks.models", "MODELS"),
    "data": ("sparsity_cliff.data.sources", "SOURCES"),
    "layout": ("sparsity_cliff.data.layouts", "LAYOUTS"),
    "optimizer": ("sparsity_cliff.training.optimizers", "OPTIMIZERS"),
    "schedule": ("sparsity_cliff.training.schedules", "SCHEDULES"),
}


def load(kind: str, function: str) -> Any:
    """The object that `function` names: an entry of the registry of `kind`, or an importable `module:object`."""
    entry: Any = function
    if ":" not in function:
        module, name = REGISTRIES[kind]
        entry = getattr(importlib.import_module(module), name)[function]
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        entry = getattr(importlib.import_module(module), attribute)
    return entry


def make(kind: str, entry: Entry, *arguments: Any) -> Any:
    """Call the function of an entry with `arguments` and the entry's options, and return the result."""
    if entry.function is None:
        raise ValueError(f"no {kind} is given")
    return load(kind, entry.function)(*arguments, **entry.options)
