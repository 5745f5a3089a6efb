"""The user's own lines between the call of the model and that of `backward`, as a function that runs them again.

    for x in loader:                     called with a model, they give the loss:
        optimizer.zero_grad()
        recon, mean, logvar = model(x)       recon, mean, logvar = model(x)
        loss = criterion(recon, x) + kl(mean, logvar)    loss = criterion(recon, x) + kl(mean, logvar)
        history.append(loss.item())
        loss.backward()                      loss.backward()

A loss is computed beside the model more often than in it. The function that called both is known, and its variables are
those of that moment; of its lines those are run again on which the loss depends, each at its own line number. What they
assign goes into a copy of the variables. A line that is only run for what it does (`history.append`) is left out, but
where the loss cannot be had without it (`self.forward()` and `self.backward()` leave all in attributes): then the line
that calls the model is run, too, or all lines are.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vdvae_patch.errors import PatchError
from vdvae_patch.guarding.passes import Backward
from vdvae_patch.guarding.signals import Reached, captured
from vdvae_patch.scanning.watching.outcome import loss_of
from vdvae_patch.trace import shown

Position = tuple[int, int]

_RETURNED, _ENDED = "_returned", "_ended"

Which = Literal["needed", "with the call", "all"]

_SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign)
_BLOCKS = (ast.With, ast.If, ast.For, ast.While, ast.Try)


class _Ending(ast.NodeTransformer):
    """What leaves the function or the loop around the lines (`return`, `continue`) ends them."""

    def __init__(self) -> None:
        self._loops = 0

    def visit(self, node: ast.AST) -> Any:
        """A statement, or the statements in its place."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            return node
        if isinstance(node, ast.Return):
            end = _end_at(node)
            value = node.value or ast.copy_location(ast.Constant(None), node)
            return [ast.copy_location(ast.Assign([ast.Name(_RETURNED, ast.Store())], value), node), end]
        if isinstance(node, ast.Continue | ast.Break) and not self._loops:
            return _end_at(node)
        if isinstance(node, ast.For | ast.While):
            self._loops += 1
            node.body = self._all(node.body)
            self._loops -= 1
            node.orelse = self._all(node.orelse)
            return node
        return self.generic_visit(node)

    def _all(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        return [part for statement in statements for part in _listed(self.visit(statement))]


def _end_at(node: ast.stmt) -> ast.stmt:
    return ast.copy_location(ast.Raise(ast.Name(_ENDED, ast.Load()), None), node)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Bare(ast.NodeTransformer):
    """What the user does about an error of the step (`except ValueError: skip(batch)`), and at its end (`finally`), was
    done in the step itself, and is not done a second time: in place of a `try` around the model's call stand its lines.

    Args:
        call: where the model was called. A handler that calls it is what the step came to, and stays.
    """

    def __init__(self, call: Position) -> None:
        self._call = call

    def visit_Try(self, node: ast.Try) -> Any:
        """Its body, and what comes where nothing is raised."""
        self.generic_visit(node)
        if any(_has(statement, self._call) for statement in node.body):
            return [*node.body, *node.orelse]
        return node


class Known(torch.autograd.Function):
    """A loss whose gradients were computed together with it, as `torch.func.grad` does."""

    @staticmethod
    def of(value: Tensor, gradients: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The loss, such that these are its gradients with respect to these parameters."""
        parameters, found = [p for p, _ in gradients], [gradient for _, gradient in gradients]
        loss: Tensor = Known.apply(value, found, *parameters)  # type: ignore[no-untyped-call]
        return loss

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *of_loss: Tensor) -> Any:
        return None, None, *(of_loss[0] * gradient for gradient in ctx.gradients)


class Lines:
    """Runs the lines of one call of `backward`.

    Args:
        which: those on which the loss depends, by the variables that they assign; or with them the statement that
            called the model; or all, in which other calls of `backward` then do nothing.
        parameters: of the model.

    Raises:
        PatchError: there is no function that called both, or its source is not at hand, or has changed.
    """

    def __init__(self, backward: Backward, which: Which = "needed", parameters: Sequence[Tensor] = ()) -> None:
        if backward.frame is None or backward.called_at is None:
            raise PatchError("no function of yours called both the model and backward, so that no loss can be computed")
        self.file = backward.frame.code.co_filename
        start, end = backward.called_at.position, backward.frame.position
        self.first, self.last = start[0], end[0]
        self._variables = {**backward.module_variables, **backward.variables}
        tree = _parsed(self.file)
        if not _is_source_of(backward.frame.code, tree, self.file):
            raise PatchError(f"the source of {shown(self.file)} is not what is running")
        before, between = _between(tree, start, end, self.file)
        needed = _needed(between, which)
        self.calls_model = len(between) == 1 or needed[0] is between[0]
        """Whether the statement in which the model was called is among them."""
        self._backward, self._parameters = backward, parameters
        chosen = _with_beginnings(before, needed)
        given = {n for s in chosen for n in _read(s)} - {n for s in chosen for n in _written(s)}
        self.data = [v for name, v in self._variables.items() if name in given and _is_data(v)]
        """The tensors that the lines read and did not compute, such as targets."""
        read = {name for statement in chosen for name in _read(statement)}
        self.values = [value for name, value in backward.variables.items() if name in read] + [
            value
            for name, value in backward.module_variables.items()
            if name in read and name not in backward.variables and not isinstance(value, type | ModuleType)
        ]
        """What the lines can change: the variables that they read, those of the file, too."""
        _refuse_iterators(chosen, self._variables, f"lines {self.first} to {self.last} of {shown(self.file)}")
        given_by = chosen if backward.of_error else chosen[-1:]  # the last may be what refuses, as an assertion
        self._results = sorted({name for statement in given_by for name in _written(statement)})
        self.text = "\n".join(ast.unparse(statement) for statement in chosen)
        chosen = [part for statement in copy.deepcopy(chosen) for part in _listed(_Bare(start).visit(statement))]
        chosen = [part for statement in chosen for part in _listed(_Ending().visit(statement))]
        try:
            self._code = compile(ast.fix_missing_locations(ast.Module(chosen, [])), self.file, "exec")
        except SyntaxError as error:  # an await, a yield
            raise PatchError(f"lines {self.first} to {self.last} of {shown(self.file)}: {error.msg}") from None
        # as a function whose names are these variables: what they call has names of its own
        self.values.append(FunctionType(self._code, self._variables))

    def __call__(self) -> Tensor:
        """The loss, or the sum of what was differentiated.

        Raises:
            PatchError: the lines came to no call of `backward`, and to no loss, or they name what is not known here, as
                those of a comprehension may.
        """
        variables = {**self._variables, _ENDED: Reached}
        waited = captured(self._backward.site, by_grad=self._backward.by_grad, parameters=self._parameters)
        with waited as found, suppress(Reached):
            try:
                exec(self._code, variables)
            except NameError as error:
                if not _is_of(error, variables):
                    raise
                raise PatchError(
                    f"lines {self.first} to {self.last} of {shown(self.file)} cannot be run again: {error}"
                ) from error
        if found.known is not None:
            return Known.of(*found.known)
        if roots := found.roots or found.others:
            return roots[0] if len(roots) == 1 and roots[0].numel() == 1 else sum_of(roots)
        loss, is_loss = loss_of([variables[name] for name in (*self._results, _RETURNED) if name in variables])
        if loss is None or not (is_loss or self._backward.of_error):
            raise PatchError(
                f"lines {self.first} to {self.last} of {shown(self.file)}, run again, differentiated nothing"
            )
        return loss


def _is_of(error: BaseException, variables: Mapping[str, Any]) -> bool:
    """Whether an error was raised in code with these global variables, and not in what it calls."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals is variables


def _refuse_iterators(statements: Sequence[ast.stmt], variables: Mapping[str, Any], where: str) -> None:
    """Refuse lines that take the next batch: the loop would miss it."""
    for node in (inner for statement in statements for inner in ast.walk(statement)):
        taken: list[Any] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("next", "anext"):
            raise PatchError(f"{where} take the next batch (next), which cannot be given back")
        if isinstance(node, ast.For | ast.comprehension):
            taken = [variables.get(n.id) for n in ast.walk(node.iter) if isinstance(n, ast.Name)]
        if any(isinstance(value, DataLoader) or hasattr(value, "__next__") for value in taken):
            raise PatchError(f"{where} go through the data, which they would do a second time")


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.requires_grad


def sum_of(roots: Iterable[Tensor]) -> Tensor:
    """What `backward` of several is the gradient of."""
    total = None
    for root in roots:
        total = root.sum() if total is None else total + root.sum()
    if total is None:
        raise PatchError("nothing was differentiated")
    return total


def _parsed(file: str) -> ast.Module:
    source = "".join(linecache.getlines(file))  # also of a notebook's cell
    if not source:
        raise PatchError(f"the source of {file} is not at hand")
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise PatchError(f"the source of {file} cannot be read: {error.msg}") from None


def _is_source_of(code: CodeType, tree: ast.Module, file: str) -> bool:
    """Whether this text, compiled, has the function that is running: a file may have been saved since.

    A notebook compiles each statement of a cell by itself, so that one of them is what runs, under a name of its own.
    """
    if not code.co_flags & inspect.CO_NEWLOCALS:
        parts = [tree, *(ast.Module([statement], []) for statement in tree.body)]
        if any(_lines_of(compile(part, file, "exec", dont_inherit=True)) == _lines_of(code) for part in parts):
            return True
    todo: list[Any] = [compile(tree, file, "exec", dont_inherit=True)]
    while todo:
        found = todo.pop()
        if found.co_name == code.co_name and found.co_firstlineno == code.co_firstlineno:
            return _lines_of(found) == _lines_of(code)  # not the instructions: pytest has assertions of its own
        todo += [constant for constant in found.co_consts if isinstance(constant, CodeType)]
    return False


def _lines_of(code: CodeType) -> set[int | None]:
    return {line for _, _, line in code.co_lines()}


def _between(tree: ast.Module, first: Position, last: Position, file: str) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The statements from the one that is at `first` to the one that is at `last`, in the innermost block that has
    both; in front of them, those that come before in that block."""
    found: tuple[list[ast.stmt], list[ast.stmt]] | None = None
    for block in _blocks(tree):
        start = next((n for n, s in enumerate(block) if _has(s, first)), None)
        end = next((n for n, s in enumerate(block) if _has(s, last)), None)
        if start is not None and end is not None:
            found = block[:start], block[start : end + 1]  # a block that comes later lies further inside
    if found is None:
        raise PatchError(f"lines {first[0]} and {last[0]} of {file} are not of one block")
    if not found[1]:
        raise PatchError(
            f"backward is called in line {last[0]}, before the model's call in line {first[0]} of the same loop"
        )
    return found


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for _, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value
    for child in ast.iter_child_nodes(node):
        yield from _blocks(child)


def _has(statement: ast.stmt, position: Position) -> bool:
    end = (statement.end_lineno or statement.lineno, statement.end_col_offset or 0)
    return (statement.lineno, statement.col_offset) <= position <= end


def _needed(statements: Sequence[ast.stmt], which: Which = "needed") -> list[ast.stmt]:
    """The last statement, and of those before it the ones that what it uses depends on."""
    last = statements[-1]
    if isinstance(last, ast.Return) and last.value is not None:
        last = ast.copy_location(ast.Assign([ast.Name(_RETURNED, ast.Store())], last.value), last)
    kept = [last]
    wanted = _read(last)
    for statement in reversed(statements[:-1]):
        written = _written(statement)
        if (
            (isinstance(statement, _SIMPLE + _BLOCKS) and written & wanted)
            or (which != "needed" and statement is statements[0])
            or (which == "all" and isinstance(statement, (*_SIMPLE, *_BLOCKS, ast.Expr)))
        ):
            kept.append(statement)
            wanted |= _read(statement)
    return kept[::-1]


def _with_beginnings(before: Sequence[ast.stmt], chosen: list[ast.stmt]) -> list[ast.stmt]:
    """What begins a variable that the statements read and then write (`loss = 0`, a state that goes through time): its
    value is now the one that they gave it."""
    kept = list(chosen)
    for statement in reversed(before):
        changed = _read_first(kept) & {name for s in kept for name in _written(s)}
        if not changed:
            break
        if isinstance(statement, _SIMPLE + _BLOCKS) and _bound(statement) & changed:
            kept.insert(0, statement)
    # an object whose attributes are written to (`self.step += 1`) is the same one
    left = _read_first(kept) & {name for s in kept for name in _bound(s)}
    if left:
        raise PatchError(f"what {', '.join(sorted(left))} was before these lines is not known any more")
    return kept


def _read_first(statements: Sequence[ast.AST]) -> set[str]:
    """The variables whose value before these statements is read."""
    needed: set[str] = set()
    known: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                known.add(node.id)
            elif node.id not in known:
                needed.add(node.id)
            return
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id not in known:
            needed.add(node.target.id)
        # in the order of evaluation, which for these is not that of their fields
        parts: list[Any] = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Assign):
            parts = [node.value, *node.targets]
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            parts = [node.value, node.target] if node.value is not None else []
        elif isinstance(node, ast.For):
            parts = [node.iter, node.target, *node.body, *node.orelse]
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            parts = [*node.generators, node.elt]
        elif isinstance(node, ast.DictComp):
            parts = [*node.generators, node.key, node.value]
        elif isinstance(node, ast.comprehension):
            parts = [node.iter, node.target, *node.ifs]
        for part in parts:
            visit(part)

    for statement in statements:
        visit(statement)
    return needed


def _read(node: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return names | {
        n.target.id for n in ast.walk(node) if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    }


def _written(node: ast.AST) -> set[str]:
    """The variables that a statement assigns, or into which it writes (`losses["kl"] = ...`)."""
    return {name.id for target in _targets(node) for name in ast.walk(target) if isinstance(name, ast.Name)}


def _bound(node: ast.AST) -> set[str]:
    """Those that it assigns."""
    names = (name for target in _targets(node) for name in ast.walk(target) if isinstance(name, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _targets(node: ast.AST) -> list[ast.AST]:
    targets: list[ast.AST] = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign):
            targets += inner.targets
        elif isinstance(inner, ast.AugAssign | ast.AnnAssign | ast.NamedExpr | ast.For):
            targets.append(inner.target)
        elif isinstance(inner, ast.withitem) and inner.optional_vars is not None:
            targets.append(inner.optional_vars)
    return targets
