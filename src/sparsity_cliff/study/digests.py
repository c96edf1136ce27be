"""Digests of source code. The code that a run, table, or figure reaches by imports decides whether it is stale."""

import ast
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sparsity_cliff.study import options, source
from sparsity_cliff.study.registry import REGISTRIES
from sparsity_cliff.study.source import PACKAGE, SourceError, bound, entries, locate, path_of, tree_of, tree_of_file

#: A module by its dotted name, or a script of the workflow by its path.
Part = str | Path


def _tree(part: Part) -> ast.Module:
    """The syntax tree of a part, without docstrings."""
    return tree_of_file(part) if isinstance(part, Path) else tree_of(part)


@cache
def _imported(part: Part) -> set[tuple[str, str | None]]:
    """(module, name) of every import of the package's or the user's own code, anywhere in a module or a script.

    name is None if a whole module is imported.
    """
    module = PACKAGE if isinstance(part, Path) else part
    package = module if path_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(_tree(part)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = _is_module(f"{base}.{alias.name}")
                found.add((f"{base}.{alias.name}", None) if whole else (base, alias.name))
    top = module.partition(".")[0]
    return {(name, item) for name, item in found if name.partition(".")[0] == top or _is_own(name)}


@cache
def _is_own(module: str) -> bool:
    """Whether a module is the package's or the user's own: neither Python's nor installed."""
    if module.partition(".")[0] == PACKAGE:
        return True
    try:
        path = path_of(module)
    except SourceError:
        return False
    # judged by the folder's name, because a virtual environment may also see packages of the system or the user
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not path.is_relative_to(sysconfig.get_path("stdlib"))


@cache
def _is_module(name: str) -> bool:
    try:
        path_of(name)
    except SourceError:
        return False
    return True


@cache
def reach(roots: frozenset[Part]) -> frozenset[Part]:
    """`roots`, and the modules of the package's and the user's own code that they reach by imports."""
    seen: set[Part] = set()
    todo = set(roots)
    while todo:
        part = todo.pop()
        seen.add(part)
        parent = "" if isinstance(part, Path) else part.rpartition(".")[0]
        parents = {parent} if parent and _is_module(parent) else set()  # a folder without __init__.py has no code
        todo |= ({name for name, _ in _imported(part)} | parents) - seen
    return frozenset(seen)


@cache
def part_digest(part: Part, used: frozenset[str]) -> str:
    """Digest of the code of a module or a script, without comments, docstrings, and formatting.

    In a module that holds a registry, the digest covers the entries in `used`, the code that they use, and all code
    that does not belong to an entry. `used` also holds names that other modules import from this one.
    """
    statements = list(_tree(part).body)
    lines = []
    for kind, (home, name) in REGISTRIES.items():
        if home == part:
            table = entries(kind)
            lines += [f"{key} = {ast.unparse(value)}" for key, value in table.items() if key in used]
            statements = [s for s in statements if name not in bound(s)]
            private = _closure(statements, [value for key, value in table.items() if key not in used])
            public = [s for s in statements if not (bound(s) & private) or bound(s) & used]
            shared = _closure(statements, [*public, *(table[key] for key in table if key in used)])
            statements = [s for s in statements if s in public or not (bound(s) & (private - shared))]
    lines += [ast.unparse(statement) for statement in statements]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def forget() -> None:
    """Clear all caches, because the files may have changed."""
    importlib.invalidate_caches()
    for module in (source, options, sys.modules[__name__]):
        for function in list(vars(module).values()):
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def _closure(statements: list[ast.stmt], roots: Sequence[ast.AST]) -> set[str]:
    """Names bound by `statements` that `roots` use, directly or through other statements."""
    homes = {name: statement for statement in statements for name in bound(statement)}
    seen: set[str] = set()
    todo = list(roots)
    while todo:
        for node in ast.walk(todo.pop()):
            if isinstance(node, ast.Name) and node.id in homes and node.id not in seen:
                seen.add(node.id)
                todo.append(homes[node.id])
    return seen


@cache
def code(roots: str | tuple[Part, ...], selected: frozenset[tuple[str, str]] = frozenset()) -> dict[str, str]:
    """Module, or file name of a script -> digest, for all code that `roots` reach by imports.

    roots: one module, or several modules and scripts.
    selected: pairs (kind of registry, name or module:object) that the code looks up at run time. An entry in a file of
    its own, or an importable object, adds that file and its imports. Other entries of a registry do not count.
    """
    named: set[Part] = {roots} if isinstance(roots, str) else set(roots)
    parts = reach(frozenset(named | {locate(kind, function)[0] for kind, function in selected}))
    used: dict[str, set[str]] = {REGISTRIES[kind][0]: set() for kind, _ in selected}
    for kind, function in selected:
        used[REGISTRIES[kind][0]].add(function)
    for part in parts:
        for home, name in _imported(part):
            # if a whole module is imported, any of its names may be used
            names = {n for s in tree_of(home).body for n in bound(s)} if name in (None, "*") else {str(name)}
            used.setdefault(home, set()).update(names)
    names_of = {part.name if isinstance(part, Path) else part: part for part in parts}
    return {name: part_digest(part, frozenset(used.get(name, ()))) for name, part in sorted(names_of.items())}
