"""Values that functions of other nodes keep between calls, in closures, attributes, dictionaries and lists."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from ...native.trace import hangs_on_input, has_left_trace, known_value

_DEPTH, _MOST = 4, 500  # how far, and how many values, what a function keeps is looked through
_OURS = ("torch", "comfy", "numpy", "builtins", "types")  # packages whose objects are not looked into
_LEFT = "left_by_a_program"  # marks a tensor that a function has made between layers and kept
Function = Callable[..., Any]


class Same:
    """An object as a part of a key, which keeps it alive: equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class ReadsKept(Exception):
    """A function that is traced reads what it has kept from the call before."""


class KeepsValues(Exception):
    """Functions that, being traced, have kept something that no program can compute."""

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__()
        self.functions = functions


class Settled(Exception):
    """Functions that, being traced, have made something that is the same for all steps, and keep it from now on."""

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__()
        self.functions = functions


@dataclass(frozen=True)
class Left:
    """Tensors that a function leaves in a variable or an item: which, counted as `_containers` finds them, and how.

    leaves: the types of the tensors, in order, and what is no tensor as it is.
    """

    container: int
    key: Any
    nesting: TreeSpec
    leaves: tuple[Any, ...]


class _Unread(Tensor):
    """In the place of what a call before has left: whatever is done with it, the trace hears of it."""

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise ReadsKept(str(function))


_UNREAD = torch.empty(0).as_subclass(_Unread)


def kept_by(*functions: Function) -> Hashable:
    """The state of functions between calls, as a key. What a call has left counts as such, whatever its values."""
    found: list[Hashable] = []
    seen: set[int] = set()
    for function in functions:
        _keep(function, found, seen, 0)
    return tuple(found)


def form_of(*functions: Function) -> Hashable:
    """The shapes of the tensors that functions keep between calls, by which they may take another way, as a key."""
    found = kept_by(*functions)
    return tuple(each[-1] for each in found if isinstance(each, tuple))  # type: ignore[attr-defined]


def _keep(value: Any, found: list[Hashable], seen: set[int], depth: int) -> None:
    """Append what a value is, and what is in it."""
    if isinstance(value, (str, bytes, int, float, complex, type(None), type)):
        found.append(value)
        return
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        written = 0 if value.is_inference() else value._version
        found.append((_LEFT, shape) if is_left(value) else (Same(value), written, shape))
        return
    if id(value) in seen or len(found) > _MOST:
        return
    seen.add(id(value))
    found.append(Same(value) if not isinstance(value, (dict, list, tuple, set)) else type(value))
    if depth < _DEPTH and not is_model(value):
        for item in _inside(value):
            _keep(item, found, seen, depth + 1)


def is_model(value: Any) -> bool:
    """Whether a value is a model as nodes pass it on, or a module of one, whose state is no function's."""
    return isinstance(value, torch.nn.Module) or hasattr(value, "model_options") or hasattr(value, "patcher")


def modules_of(function: Function) -> list[torch.nn.Module]:
    """The torch modules that a function has, by itself or in a model that a node has loaded.

    Also those of `models`, by which functions tell ComfyUI what to load (ModelPatcher.model_patches_models).
    """
    found = [each.value for each in kept_by(function) if isinstance(each, Same)]  # type: ignore[attr-defined]
    models = getattr(function, "models", None)
    found += models() if callable(models) else []
    held = [getattr(each, "model", None) if hasattr(each, "model_options") else each for each in found]
    return [each for each in held if isinstance(each, torch.nn.Module)]


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield item
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield len(value)
        yield from value
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            yield _content(cell)
        yield value.__defaults__
        yield value.__kwdefaults__
    elif isinstance(value, types.MethodType):
        yield value.__func__
        yield value.__self__
    elif isinstance(value, partial):
        yield value.func
        yield value.args
        yield value.keywords
    elif type(value).__module__.split(".")[0] not in _OURS and hasattr(value, "__dict__"):
        yield vars(value)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def kept_by_module(core: torch.nn.Module) -> Hashable:
    """The state of a module's parts besides weights, as a key."""
    found: list[Hashable] = []
    for path, part in core.named_modules():
        for name, value in vars(part).items():
            found.append((path, name, value if isinstance(value, (int, float, str)) else Same(value)))
    return tuple(found)


def is_left(tensor: Tensor) -> bool:
    """Whether `leave` has put a tensor where it is kept."""
    return hasattr(tensor, _LEFT)


def _containers(functions: Sequence[Function]) -> list[tuple[Any, Function]]:
    """The variables of closures, dictionaries, lists and sets in which functions keep values, and whose each is."""
    found: list[tuple[Any, Function]] = []
    seen: set[int] = set()

    def look(value: Any, depth: int, function: Function) -> None:
        if id(value) in seen or depth > _DEPTH or isinstance(value, (Tensor, str, bytes)) or len(seen) > _MOST:
            return
        if is_model(value):
            return
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            found.extend((cell, function) for cell in value.__closure__ or ())
        if isinstance(value, (dict, list, set)):
            found.append((value, function))
        for item in _inside(value):
            look(item, depth + 1, function)

    for function in functions:
        look(function, 0, function)
    return found


class Kept:
    """The content of what functions keep, as it was before a call.

    functions: those that are traced; islands: those that are only asked for the shapes of their results.
    """

    def __init__(self, functions: Sequence[Function], islands: Sequence[Function]) -> None:
        self._containers = _containers([*functions, *islands])
        self._settled: list[tuple[Any, Any, Any]] = []  # values by container and key, which stay
        self._before = [_copy(each) for each, _ in self._containers]
        self._count = sum(any(owner is each for each in functions) for _, owner in self._containers)  # they come first

    def prepare(self) -> None:
        """Put what calls before have left out of reach, until `put_back`, and copies that can be written for the rest.

        A trace is made outside inference mode, where torch lets nobody write into a tensor that was made in it.
        """
        copies: dict[int, Tensor] = {}
        for number, ((container, _), before) in enumerate(zip(self._containers, self._before, strict=True)):
            for key, value in [] if isinstance(container, set) else _items(container, before):
                prepared = _prepared(value, copies, hide=number < self._count)
                if prepared is not value:
                    _put(container, key, prepared)
        self._given = [_copy(each) for each, _ in self._containers]
        self._versions = [(each, each._version, function) for each, function in self._tensors()]

    def _tensors(self) -> Iterator[tuple[Tensor, Function]]:
        for (_, function), given in zip(self._containers[: self._count], self._given, strict=False):
            for each in tree_flatten(given)[0]:
                if isinstance(each, Tensor) and each is not _UNREAD:
                    yield each, function

    def left(self) -> tuple[list[Left], list[Tensor]]:
        """The places in which the call has left tensors of a trace, and these.

        Raises Settled where another model has computed in it, for what is the same at all steps, and KeepsValues where
        it has left anything else.
        """
        repeating = self._settle() if has_left_trace() else []
        places: list[Left] = []
        tensors: list[Tensor] = []
        refused = [function for each, version, function in self._versions if each._version != version]
        for number, container, key, value, function in self._left():
            if any(function is each for each in repeating):
                continue
            leaves, nesting = tree_flatten(value)
            of_the_trace = all(each is None or isinstance(each, FakeTensor) for each in leaves)
            if isinstance(container, (list, set)) or not of_the_trace:
                refused.append(function)
                continue
            tensors += [each for each in leaves if each is not None]
            places.append(Left(number, key, nesting, tuple(None if x is None else x.dtype for x in leaves)))
        if refused:
            raise KeepsValues(refused)
        return places, tensors

    def _left(self) -> Iterator[tuple[int, Any, Any, Any, Function]]:
        """Each value that the call has left: its container by number and itself, the key, the value, the function."""
        for number, (container, function) in enumerate(self._containers[: self._count]):
            before, now = _items(container, self._given[number]), dict(_items(container, _copy(container)))
            for key in _changed(dict(before), now):
                yield number, container, key, now.get(key, container), function

    def _settle(self) -> list[Function]:
        """Raise Settled where all that a function has left is known, which stays.

        Gives the functions that leave the same at every call, but have it computed with weights: it need not stay.
        """
        by_function: dict[int, list[tuple[Any, Any, Any, Function]]] = {}
        for _, container, key, value, function in self._left():
            by_function.setdefault(id(function), []).append((container, key, value, function))
        settled, repeating = [], []
        for left in by_function.values():
            function = left[0][-1]
            unknown = [each for _, _, value, _ in left for each in tree_flatten(value)[0] if _is_unknown(each)]
            if any(map(hangs_on_input, unknown)) or any(value is container for container, _, value, _ in left):
                continue
            if unknown:
                repeating.append(function)
                continue
            self._settled += [(container, key, tree_map(_known, value)) for container, key, value, _ in left]
            settled.append(function)
        if settled:
            raise Settled(settled)
        return repeating

    def put_back(self) -> None:
        """Restore all that the functions keep."""
        for (container, _), before in zip(self._containers, self._before, strict=True):
            if isinstance(container, types.CellType):
                container.cell_contents = before
            elif isinstance(container, list):
                container[:] = before
            else:
                container.clear()
                container.update(before)
        for container, key, value in self._settled:
            _put(container, key, value)


@contextmanager
def traced(functions: Sequence[Function], islands: Sequence[Function] = ()) -> Iterator[Kept]:
    """Functions for a trace: what they keep is put back afterwards, as fake tensors are of no use to the next call."""
    kept = Kept(functions, islands)
    try:
        kept.prepare()
        yield kept
    finally:
        kept.put_back()


@contextmanager
def unless_it_fails(function: Function) -> Iterator[None]:
    """A call of a function that may end halfway, in the trace of a model: what it keeps is then as before."""
    kept = Kept([function], [])
    try:
        yield
    except Exception:
        kept.put_back()
        raise


def leave(functions: Sequence[Function], places: Sequence[Left], computed: Callable[..., Tensor]) -> None:
    """Put results of a program where the functions, had they been called, would have kept them; computed: the next."""
    containers = _containers(functions)
    for place in places:
        leaves = [None if each is None else computed(each) for each in place.leaves]
        for each in leaves:
            if each is not None:
                setattr(each, _LEFT, True)
        _put(containers[place.container][0], place.key, tree_unflatten(leaves, place.nesting))


def holding_left(functions: Sequence[Function]) -> list[Function]:
    """Those that keep what a call has left."""
    return [
        function
        for function in functions
        if any(isinstance(each, tuple) and each[0] == _LEFT for each in kept_by(function))  # type: ignore[attr-defined]
    ]


def _changed(before: dict[Any, Any], now: dict[Any, Any]) -> list[Any]:
    """The keys whose values are other objects, new or gone."""
    return [key for key in {**before, **now} if key not in now or key not in before or before[key] is not now[key]]


def _is_unknown(value: Any) -> bool:
    return isinstance(value, FakeTensor) and known_value(value) is None


def _known(value: Any) -> Any:
    return known_value(value) if isinstance(value, FakeTensor) else value


def _prepared(value: Any, copies: dict[int, Tensor], hide: bool) -> Any:
    """A value as `Kept.prepare` puts it; dictionaries and lists in it are containers of their own."""
    if type(value) is tuple:
        prepared = tuple(_prepared(each, copies, hide) for each in value)
        return prepared if any(new is not old for new, old in zip(prepared, value, strict=True)) else value
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
        return value
    if hide and is_left(value):
        return _UNREAD
    if value.is_inference() and id(value) not in copies:
        with _disable_current_modes(), torch.inference_mode(False):
            copies[id(value)] = value.clone()
    return copies.get(id(value), value)


def _copy(container: Any) -> Any:
    return _content(container) if isinstance(container, types.CellType) else container.copy()


def _items(container: Any, content: Any) -> list[tuple[Any, Any]]:
    """The content of a container by key; a set's items are their own."""
    if isinstance(container, types.CellType):
        return [(None, content)]
    if isinstance(container, dict):
        return list(content.items())
    return list(enumerate(content)) if isinstance(container, list) else [(each, each) for each in content]


def _put(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, types.CellType):
        container.cell_contents = value
    else:
        container[key] = value
