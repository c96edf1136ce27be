"""Digests of source code: what a run, a table or a figure reaches by imports decides whether it is stale."""

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


@cache
def _imported(module: str) -> set[tuple[str, str | None]]:
    """(module, name) of every import, anywhere in a module's text, of our and the user's own code.

    name is None where a whole module is imported.
    """
    package = module if path_of(module).name == "__init__.py" else module.rpartition(".")[0]
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(tree_of(module)):
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
    """Whether it is ours or the user's: not of Python, and not installed."""
    if module.partition(".")[0] == PACKAGE:
        return True
    try:
        path = path_of(module)
    except SourceError:
        return False
    # by the folder's name: a virtual environment may see the packages of the system or of the user as well
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
def reach(roots: frozenset[str]) -> frozenset[str]:
    """The modules of our and the user's own code that `roots` reach by imports, themselves included."""
    seen: set[str] = set()
    todo = set(roots)
    while todo:
        module = todo.pop()
        seen.add(module)
        parent = module.rpartition(".")[0]
        parents = {parent} if parent and _is_module(parent) else set()  # a folder without __init__.py has no code
        todo |= ({name for name, _ in _imported(module)} | parents) - seen
    return frozenset(seen)


@cache
def module_digest(module: str, used: frozenset[str]) -> str:
    """Digest of a module's code; comments, docstrings and formatting do not count.

    In the home of a registry, only the entries in `used` count, with what they use, and what is no entry's own.
    `used` also holds names that other modules import from it.
    """
    statements = list(tree_of(module).body)
    lines = []
    for kind, (home, name) in REGISTRIES.items():
        if home == module:
            table = entries(kind)
            lines += [f"{key} = {ast.unparse(value)}" for key, value in table.items() if key in used]
            statements = [s for s in statements if name not in bound(s)]
            private = _closure(statements, [value for key, value in table.items() if key not in used])
            public = [s for s in statements if not (bound(s) & private) or bound(s) & used]
            shared = _closure(statements, [*public, *(table[key] for key in table if key in used)])
            statements = [s for s in statements if s in public or not (bound(s) & (private - shared))]
    lines += [ast.unparse(statement) for statement in statements]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@cache
def file_digest(path: Path) -> str:
    """Digest of the code in a file that is no module of the package, such as a script of the workflow."""
    return hashlib.sha256(ast.unparse(tree_of_file(path)).encode()).hexdigest()[:12]


def forget() -> None:
    """Read everything anew from now on: the files may have changed."""
    importlib.invalidate_caches()
    for module in (source, options, sys.modules[__name__]):
        for function in list(vars(module).values()):
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def _closure(statements: list[ast.stmt], roots: Sequence[ast.AST]) -> set[str]:
    """Names bound by `statements` that `roots` use, directly or through one another."""
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
def code(roots: str | tuple[str, ...], selected: frozenset[tuple[str, str]] = frozenset()) -> dict[str, str]:
    """Module -> digest, of all that `roots`, a module or several, reach by imports.

    selected: (kind of registry, name or module:object) of what it will look up at run time. Entries with a file of
    their own, and importable objects, add that file and what it imports; other entries of a registry do not count.
    """
    named = {roots} if isinstance(roots, str) else set(roots)
    modules = reach(frozenset(named | {locate(kind, function)[0] for kind, function in selected}))
    used: dict[str, set[str]] = {REGISTRIES[kind][0]: set() for kind, _ in selected}
    for kind, function in selected:
        used[REGISTRIES[kind][0]].add(function)
    for module in modules:
        for home, name in _imported(module):
            # of a module imported as a whole, any name may be used
            names = {n for s in tree_of(home).body for n in bound(s)} if name in (None, "*") else {str(name)}
            used.setdefault(home, set()).update(names)
    return {module: module_digest(module, frozenset(used.get(module, ()))) for module in sorted(modules)}
