"""Functions of core's called with some of the names that they use replaced, while core itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any


class _Instead:
    """A module in which some names are others."""

    def __init__(self, module: ModuleType, names: Mapping[str, Any]) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def with_names(function: Any, names: Mapping[str, Any]) -> Callable[..., Any]:
    """A copy of a function of Python in which these names mean something else.

    names: "comfy.utils.load_torch_file" and the like, under whichever part of it the function's module has imported:
    `comfy`, `utils` or `load_torch_file`. What the function calls finds them as they are.
    """
    replaced = dict(function.__globals__)
    for known in {part for name in names for part in name.split(".")} & replaced.keys():
        replaced[known] = _replaced(known, replaced[known], names)
    return with_globals(function, replaced)


def with_globals(function: Any, names: dict[str, Any]) -> Callable[..., Any]:
    """A copy of a function of Python with these as its module's names."""
    copied = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _replaced(known: str, value: Any, names: Mapping[str, Any]) -> Any:
    """The new meaning of a name in a module: a function among these, or a module that has some of them."""
    path = getattr(value, "__name__", known)
    if not isinstance(value, ModuleType):
        return next((new for name, new in names.items() if name.rpartition(".")[2] == known), value)
    inner: dict[str, dict[str, Any]] = {}
    for name, new in names.items():
        if name.startswith(f"{path}."):
            first, _, rest = name[len(path) + 1 :].partition(".")
            inner.setdefault(first, {})[rest] = new
    if not inner:
        return value
    return _Instead(
        value,
        {
            first: rest[""] if "" in rest else _replaced(first, getattr(value, first), names)
            for first, rest in inner.items()
        },
    )
