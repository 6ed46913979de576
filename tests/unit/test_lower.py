"""Handlers: one for each operation, and an error that tells a missing one from a faulty one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from native.lower import HandlerBug, Lowered, LowerError, LowerOptions, lower
from native.lower.lowering import HANDLERS, Lowering, handler
from native.lower.strides import Operand
from native.trace import trace
from native.trace.graph import Window

PACK = Path(__file__).parents[2]


class Sorting(torch.nn.Module):
    """A module whose part does something to x."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.part = torch.nn.Identity()
        self.part.forward = function  # type: ignore[method-assign]

    def forward(self, x: torch.Tensor) -> Any:
        return self.part(x)


def _lowered(function: Callable[[torch.Tensor], Any]) -> Lowered:
    traced = trace("my model", Sorting(function), lambda m, t: m(t["x"]), {"x": torch.zeros(2, 6, 32)})
    return lower(traced, {}, LowerOptions(islands=False))


@pytest.fixture
def cumprod() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Gives torch.cumprod a handler for the length of a test."""

    def register(body: Callable[[], Any]) -> None:
        @handler("cumprod")
        def handle(low: Lowering, out: Window, x: Window, dim: int) -> Any:
            return body()

    yield register
    HANDLERS.pop("cumprod", None)


def test_a_second_handler_is_refused(cumprod: Callable[..., None]) -> None:
    """It would hide the first; the error names both."""
    cumprod(lambda: 0)
    first = HANDLERS["cumprod"]
    with pytest.raises(ValueError, match=r"cumprod has two handlers: .*handle and .*another"):

        @handler("cumprod")
        def another(low: Lowering, out: Window, x: Window) -> int:
            return 0

    assert HANDLERS["cumprod"] is first


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (lambda: {}["missing"], KeyError),
        (lambda: [][0], IndexError),
        (lambda: None + 1, TypeError),
        (lambda: int("x"), ValueError),
        (lambda: (_ for _ in ()).throw(AssertionError), AssertionError),
        (lambda: 1 << 20, IndexError),  # a tensor that is not there
        (lambda: Operand(0, (3,), (1,)), AssertionError),  # not as many elements as the output
    ],
    ids=["key", "index", "type", "value", "assertion", "no tensor", "wrong shape"],
)
def test_a_bug_of_a_handler_is_called_one(
    body: Callable[[], Any], cause: type[Exception], cumprod: Callable[..., None]
) -> None:
    """Not an unsupported operation: the error names the handler, the model and the module, and keeps the cause."""
    cumprod(body)
    with pytest.raises(
        HandlerBug, match=r"my model, in part \(aten\.cumprod.*a bug in the handler of cumprod"
    ) as error:
        _lowered(lambda x: x.cumprod(-1))
    assert type(error.value.__cause__) is cause
    assert not isinstance(error.value, LowerError)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.cumprod(-1), r"my model, in part \(aten\.cumprod.* no handler for the operation aten\.cumprod"),
        (lambda x: (-1.0) ** x, r"my model, in part \(aten\.pow.*: -1\.0 to a power that the device computes"),
        (lambda x: x.round(decimals=1), r"my model, in part \(aten\.round.*: rounding to 1 decimals"),
        (
            torch.log1p,
            r"aten\.log1p.* no handler for .*aten\.log1p.*decomposition of it no handler for .*prims\.log1p",
        ),
    ],
)
def test_what_is_not_supported_is_named(function: Callable[..., Any], message: str) -> None:
    """Whether there is no handler, or the handler refuses: with the model, the module and the operation."""
    with pytest.raises(LowerError, match=message):
        _lowered(function)


def test_torch_decomposes_what_has_no_handler() -> None:
    """Into steps that have one, in the module and the storage of the original, also in place."""
    plain = _lowered(torch.nn.functional.hardswish).program
    names = [row.name for row in plain.tensors if row.kind == "op"]
    assert "hardswish" not in HANDLERS
    assert names[-3:] == ["clamp", "mul", "scale"]
    in_place = _lowered(lambda x: torch.nn.functional.hardswish(x * 2, inplace=True))
    assert [row.name for row in in_place.program.tensors if row.kind == "op"][-3:] == names[-3:]
    assert set(in_place.module_paths) == {"", "part"}


def test_contributing_shows_what_was_added() -> None:
    """Every line that the example of CONTRIBUTING adds is a line of the code."""
    text = (PACK / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("## An operation") : text.index("## A model")]
    added = [line.strip() for line in re.findall(r"^ *\+(.*)$", section, re.MULTILINE) if line.strip()]
    files = ("native/program/parameters.py", "native/program/ops.py",
             "native/runner/graph/operations.py", "native/lower/handlers/elementwise.py",
             "tests/parity/operation_cases/elementwise.py")  # fmt: skip
    code = {line.strip() for file in files for line in (PACK / file).read_text(encoding="utf-8").splitlines()}
    assert len(added) >= 14
    assert [line for line in added if line not in code] == []


def test_a_result_without_elements_takes_no_operation() -> None:
    """A repetition zero times, joined to something, as padding that has nothing to add."""
    lowered = _lowered(lambda x: torch.cat([x * 2, (x * 3).repeat(1, 0, 1)], 1))
    assert [tensor.name for tensor in lowered.program.tensors if tensor.kind == "op"] == ["scale"]
    assert not lowered.program.constants
