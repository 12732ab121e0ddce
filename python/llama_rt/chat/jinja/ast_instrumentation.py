"""The syntax of a template, changed so that the environment sees what Jinja has no hook for.

Each operation becomes a filter, which a template cannot shadow: `rounds`, `made`, `compared` and
`joined`, all methods of the environment.
"""

from __future__ import annotations

from typing import Any

import jinja2.ext
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

__all__ = ["GenerationTag", "Instrumentation"]


class Instrumentation(NodeTransformer):
    """Lets the environment see the operations for which Jinja's sandbox has no hook."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja's naming
        """Counts the rounds."""
        self.generic_visit(node)
        node.iter = _through("rounds", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """Limits the length."""
        self.generic_visit(node)
        return _through("joined", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        """Counts the comparisons."""
        self.generic_visit(node)
        node.expr = _through("compared", node.expr)
        for operand in node.ops:
            operand.expr = _through("compared", operand.expr)
        return node

    def _visit_call(self, node: nodes.Call) -> nodes.Call:
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _through("rounds", node.dyn_args)
        return node

    def _visit_made(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        assigned = getattr(node, "ctx", "load") != "load"
        index = isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice)
        return node if assigned or index else _through("made", node)

    visit_Call = visit_Filter = visit_Test = _visit_call  # noqa: N815
    visit_List = visit_Dict = visit_Tuple = visit_Getitem = _visit_made  # noqa: N815


def _through(hook: str, first: Any, *others: nodes.Expr) -> nodes.Filter:  # noqa: ANN401
    """Passes a value through one of the environment's hooks, as a filter: none can shadow it."""
    return nodes.Filter(first, hook, list(others), [], None, None, lineno=first.lineno)


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks answers for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Any) -> list[nodes.Node]:  # noqa: ANN401
        """Returns the body."""
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body
