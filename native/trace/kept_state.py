"""Modules that keep tensors from one call to the next: rotary caches, keys and values.

While they are traced these are fake tensors, which mean nothing to the next call.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

_PLAIN = (type(None), bool, int, float, str, torch.dtype)  # most of what parts hold


@contextlib.contextmanager
def unchanged(module: torch.nn.Module) -> Iterator[None]:
    """Puts back what a module's parts hold, and empties the caches of its classes' functions that grew.

    Inside, `part.to(...)` moves nothing: a trace has one device and one dtype.
    """
    attributes = [(part, dict(vars(part))) for part in module.modules()]
    containers: dict[int, tuple[Any, Any]] = {}
    packages = _packages(module)
    for _, held in attributes:
        for value in held.values():
            if type(value) not in _PLAIN:
                _remember(value, containers, packages)
    caches = [(cache, cache.cache_info().misses) for cache in _caches(module)]
    for part, _ in attributes:
        vars(part)["_apply"] = _stays(part)
    try:
        yield
    finally:
        for container, content in containers.values():
            _refill(container, content)
        for part, held in attributes:
            _refill(vars(part), held)
        for cache, misses in caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _stays(part: torch.nn.Module) -> Callable[..., torch.nn.Module]:
    return lambda *_args, **_kwargs: part


def _remember(value: Any, containers: dict[int, tuple[Any, Any]], packages: Collection[str]) -> None:
    """Notes the content of a dict, list or set and of those in it, and of objects of the model's own packages."""
    if not isinstance(value, torch.nn.Module) and _package(type(value)) in packages and hasattr(value, "__dict__"):
        value = vars(value)
    if not isinstance(value, (dict, list, set)) or id(value) in containers:
        return
    containers[id(value)] = value, value.copy()
    for item in list(value.values()) if isinstance(value, dict) else list(value):
        _remember(item, containers, packages)


def _package(kind: type) -> str:
    return kind.__module__.rpartition(".")[0]


def _packages(module: torch.nn.Module) -> set[str]:
    """Packages that the classes of a module's parts come from, where it may keep caches in plain objects."""
    found = {_package(type(part)) for part in module.modules()}
    return {each for each in found if "." in each and not each.startswith("torch.")}  # not comfy as a whole


def _refill(container: Any, content: Any) -> None:
    """Gives a container its content again, in place, as others may hold it too."""
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


def _caches(module: torch.nn.Module) -> list[Any]:
    """Functions under functools.lru_cache: methods of the parts' classes, and functions beside these classes."""
    kinds = {
        kind for part in module.modules() for kind in type(part).__mro__ if kind.__module__.split(".")[0] != "torch"
    }
    modules = {kind.__module__ for kind in kinds} & sys.modules.keys()
    places = [*map(vars, kinds), *(vars(sys.modules[name]) for name in modules)]
    found = {id(value): value for place in places for value in list(place.values()) if _is_cache(value)}
    return list(found.values())


def _is_cache(value: Any) -> bool:
    return callable(getattr(value, "cache_info", None)) and callable(getattr(value, "cache_clear", None))
