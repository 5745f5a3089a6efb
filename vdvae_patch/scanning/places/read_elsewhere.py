"""Raw values that other code can read, where a patch replaces what a host computes of them and not the values.

def encode(self, x):                               # gives the raw value as it is, also to what is no part of the model
    return self.encoder(x).chunk(2, 1)

def forward(self, x):                              # scanned: the second line is replaced, for its bounds
    mean, log_var = self.encode(x)
    log_var = log_var.clamp(-8, 8)

def sample(self, n):                               # did not run, and computes σ of a raw value in other words
    mean, log_var = self.prior(self.start).chunk(2, 1)
    return mean + (log_var / 2).exp() * torch.randn_like(mean)
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Set
from types import CodeType, FunctionType

from torch import nn

from vdvae_patch.attach.callers import functions_of
from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.sites import Site
from vdvae_patch.attach.source import parse
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.places.reaching_sigma import OF_SIGMA, reaches_sigma
from vdvae_patch.trace import shown


def where_it_is_read(
    model: nn.Module,
    graph: Graph,
    head: Head,
    functions: Set[FunctionType],
    function_at: Callable[[Site], FunctionType],
    has_run: Callable[[FunctionType, ast.expr], bool],
) -> str:
    """A line about another place where a head's raw value is read or given away; empty where there is none.

    Args:
        functions: those of the model's classes; not what a subclass overrides, and nobody calls.
        function_at: the function in whose text a site stands.
        has_run: whether the scanned call ran an expression of a function.
    """
    sites = [site for site in head.sites if isinstance(site, Site) and not site.in_call]
    if not sites or len(sites) < len(head.sites):
        return ""
    try:
        replaced = [function_at(site) for site in sites]
    except PatchError:
        return ""
    names = {f.__name__ for f in replaced} | {site.method for site in sites}
    names |= {site.owner.rpartition(".")[2] for site in sites if site.owner}
    owner, attribute, part = _owner(model, head.path)
    parameter = any(site.parameter for site in sites)
    own = [function for function in functions_of(owner) if function in functions]
    methods = {function.__name__: function for function in reversed(own)}
    for function in own:
        if function.__name__ == "__init__" or names & set(function.__code__.co_names):
            continue
        for node in _reads(function, attribute, parameter):
            if not has_run(function, node) and reaches_sigma(function, node, head.channel_range, methods):
                return (
                    f"{shown(f'{function.__code__.co_filename}:{node.lineno}')}, `{ast.unparse(node)}` in "
                    f"{function.__qualname__}, which the scanned call did not run, reads a raw value: a σ that is "
                    "computed of it there stays the model's own. Let one method compute σ for both, or scan with a "
                    "call that runs both"
                )
    others = (function for function in own if function not in replaced)
    giving = [f for f in others if any(has_run(f, node) for node in _reads(f, attribute, False))]
    places = {(f.__code__.co_filename, site.last) for f, site in zip(replaced, sites, strict=True)}
    around = _around(graph, places) if giving else set()
    for function in giving:
        if around and function.__code__ not in around and not _is_hidden(function, part, functions, around):
            at = shown(f"{replaced[0].__code__.co_filename}:{sites[0].last[0]}")
            return (
                f"{function.__qualname__} gives raw values as before, and σ is replaced behind it, at {at}: a σ that "
                "other code computes of what it returns stays the model's own"
            )
    return ""


def _is_hidden(function: FunctionType, part: str, functions: Set[FunctionType], around: Set[CodeType]) -> bool:
    """Whether the model alone calls it, as a private method or the `forward` of a part of the model, and what does so
    computes no σ but where one is replaced."""
    name = part if part and function.__name__ == "forward" else function.__name__
    called = (f.__code__ for f in functions if f.__code__ not in around and name in f.__code__.co_names)
    return (name != function.__name__ or name.startswith("_")) and not any(OF_SIGMA & set(c.co_names) for c in called)


def _owner(model: nn.Module, path: str) -> tuple[nn.Module, str, str]:
    """The module in whose class the code stands that names a module or a parameter, by which attribute, and by which
    one its own parent names it; that is empty of the model itself."""
    parts, modules = path.split("."), dict(model.named_modules(remove_duplicate=False))
    for count in range(len(parts) - 1, 0, -1):
        owner = modules[".".join(parts[:count])]  # `get_submodule` finds no module that is named like a method
        if not host_class(owner).__module__.startswith("torch."):
            return owner, parts[count], next((p for p in parts[count - 1 :: -1] if not p.isdecimal()), "")
    return model, parts[0], ""


def _reads(function: FunctionType, attribute: str, parameter: bool) -> Iterator[ast.expr]:
    """The calls of `self.attribute`, or of an element of it; of a parameter the arithmetic that reads it."""
    try:
        tree = parse(function)
    except PatchError:
        return
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and _is_own(node.func, attribute)
        if isinstance(node, ast.expr) and (_computes_with(node, attribute) if parameter else called):
            yield node


def _is_own(node: ast.expr, attribute: str) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.value, ast.Name)


def _computes_with(node: ast.expr, attribute: str) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_own(node.left, attribute) or _is_own(node.right, attribute)
    if isinstance(node, ast.UnaryOp):
        return _is_own(node.operand, attribute)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    given = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
    return ops.kind_of(name) == "elementwise" and any(_is_own(value, attribute) for value in given)


def _around(graph: Graph, places: Set[tuple[object, ...]]) -> set[CodeType]:
    """The code of the functions that were running when what is replaced did."""
    found: set[CodeType] = set()
    for node in graph.nodes:
        frame = node.host_frame()
        if frame is not None and any(
            frame.code.co_filename == file and isinstance(span, tuple) and span[0] <= (frame.span[0] or 0) <= span[1]
            for file, span in places
        ):
            found |= {outer.code for outer in node.frames}
    return found
