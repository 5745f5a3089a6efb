"""Point a host's imports of its own modules, by bare name, at the package that the host is imported as."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from types import CodeType


def compile_redirected(source: bytes, path: str, own: Collection[str], prefix: str) -> CodeType:
    """Compile a module, with every import of one of `own` (top-level names) resolved below `prefix`.

    The source's text, lines and columns stay what they are, so tracebacks, `inspect.getsource` and TorchScript see the
    file as it was written. Imports inside functions and classes are redirected too, and so is
    `importlib.import_module("name")` with the name spelled out.

    Raises:
        SyntaxError, ValueError: as `compile` does.
    """
    tree = _Redirect(frozenset(own), prefix).visit(ast.parse(source, filename=path))
    code = compile(tree, path, "exec", dont_inherit=True)
    assert isinstance(code, CodeType)
    return code


class _Redirect(ast.NodeTransformer):
    def __init__(self, own: frozenset[str], prefix: str) -> None:
        self.own = own
        self.prefix = prefix

    def _is_own(self, dotted: str) -> bool:
        return dotted.partition(".")[0] in self.own

    def visit_Import(self, node: ast.Import) -> ast.Import:
        node.names = [renamed for alias in node.names for renamed in self._redirect_alias(alias)]
        return node

    def _redirect_alias(self, alias: ast.alias) -> Iterator[ast.alias]:
        if not self._is_own(alias.name):
            yield alias
            return

        def below_prefix(dotted: str, bound: str) -> ast.alias:
            return ast.copy_location(ast.alias(name=f"{self.prefix}.{dotted}", asname=bound), alias)

        top = alias.name.partition(".")[0]
        yield below_prefix(alias.name, alias.asname or top)
        if alias.asname is None and alias.name != top:
            # `import a.b` loads b and binds a; with the prefix in front, that takes a second name.
            yield below_prefix(top, top)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and node.module and self._is_own(node.module):
            node.module = f"{self.prefix}.{node.module}"
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if called == "import_module" and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and self._is_own(name.value):
                name.value = f"{self.prefix}.{name.value}"
        return self.generic_visit(node)
