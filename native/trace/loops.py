"""Reads `for` statements of a model's source: what their body does to what is outside it."""

from __future__ import annotations

import ast
import dis
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType

_GROWING = {"add", "append", "appendleft", "extend", "insert", "pop", "remove", "setdefault", "update"}


def for_statement(frame: FrameType) -> ast.For | None:
    """The `for` statement whose next element a frame asks for; None where that is another kind of code."""
    line, asked = frame.f_lineno, dis.opname[frame.f_code.co_code[frame.f_lasti]]
    found = [
        node
        for node in ast.walk(_source(frame.f_code.co_filename))
        if isinstance(node, ast.For) and node.lineno <= line <= (node.iter.end_lineno or 0) < node.body[0].lineno
    ]
    return found[0] if len(found) == 1 and asked == "FOR_ITER" else None


def goes_over(statement: ast.For, numbered: bool) -> bool:
    """Whether each pass of a loop takes one row of a tensor; numbered: it may count the passes."""
    iterated = statement.iter
    if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name):
        names = ("enumerate", "zip") if numbered and not iterated.keywords else ()
        return iterated.func.id in names and all(map(_is_tensor, iterated.args))
    return _is_tensor(iterated) and (numbered or isinstance(statement.target, ast.Name))


def _is_tensor(node: ast.expr) -> bool:
    """Whether an expression can be a tensor and nothing made of its rows: a name, what operators or methods make."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and _is_tensor(node.func.value) and not _calls(*node.args)
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        return _is_tensor(node.value)
    return isinstance(node, (ast.Name, ast.Compare, ast.BinOp, ast.UnaryOp))


def leaves_nothing(frame: FrameType, statement: ast.For) -> bool:
    """Whether the variables of a loop's body are its own, so that all it leaves are writes into tensors."""
    function = _function(frame)
    if function is None or statement.orelse or _leaves(statement):
        return False
    inside = {id(node) for node in ast.walk(statement)} - {id(node) for node in ast.walk(statement.iter)}
    own = _names([statement.target, *statement.body], ast.Store)
    read = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in inside
    }
    return not own & (read | _read_first(statement))


def skips(statement: ast.For, line: int) -> bool:
    """Whether a line of a loop's body is an `if` that does no more than `continue`, and asks a tensor for no more."""
    for node in statement.body:
        if isinstance(node, ast.If) and node.test.lineno <= line <= (node.test.end_lineno or 0):
            alone = len(node.body) == 1 and isinstance(node.body[0], ast.Continue) and not node.orelse
            return alone and _plain(node.test)
    return False


def _plain(test: ast.expr) -> bool:
    """Whether a condition is one tensor, or one comparison: not the negation of one, nor several."""
    if isinstance(test, ast.Compare):
        comparisons = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
        return len(test.ops) == 1 and isinstance(test.ops[0], comparisons) and not _calls(test.left, *test.comparators)
    return isinstance(test, (ast.Name, ast.Attribute))


def _calls(*nodes: ast.expr) -> bool:
    """Whether expressions call functions, or are conditions themselves."""
    asks = (ast.Call, ast.Compare, ast.BoolOp, ast.IfExp, ast.ListComp, ast.GeneratorExp)
    return any(isinstance(each, asks) for node in nodes for each in ast.walk(node))


def _leaves(statement: ast.For) -> bool:
    """Whether the body ends the loop, or names what it changes beyond tensors."""
    for node in (node for each in statement.body for node in ast.walk(each)):
        if isinstance(node, (ast.Break, ast.Return, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal, ast.NamedExpr)):
            return True
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Attribute) for target in targets for each in _targets(target)):
                return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and function.attr in _GROWING:
                return True
    return False


def _targets(target: ast.expr) -> list[ast.expr]:
    return list(target.elts) if isinstance(target, (ast.Tuple, ast.List)) else [target]


def _read_first(statement: ast.For) -> set[str]:
    """Names that the body reads before it sets them for sure: in them the pass before may have left something."""
    read: set[str] = set()
    known = _names([statement.target], ast.Store)
    for each in statement.body:
        changed = [node.target for node in ast.walk(each) if isinstance(node, ast.AugAssign)]
        read |= (_names([each], ast.Load) | {name.id for name in changed if isinstance(name, ast.Name)}) - known
        if isinstance(each, (ast.Assign, ast.AnnAssign)):
            known |= _names([each], ast.Store)
    return read


def _names(nodes: Sequence[ast.AST], context: type[ast.expr_context]) -> set[str]:
    return {
        node.id
        for each in nodes
        for node in ast.walk(each)
        if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }


def _function(frame: FrameType) -> ast.AST | None:
    """The function that a frame runs."""
    first = frame.f_code.co_firstlineno
    for node in ast.walk(_source(frame.f_code.co_filename)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = [node.lineno, *(each.lineno for each in node.decorator_list)]
            if min(lines) == first:
                return node
    return None


@lru_cache(maxsize=8)
def _source(path: str) -> ast.Module:
    """A file as a syntax tree; an empty one where it cannot be read."""
    try:
        return ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])
