"""The store of programs: entries of an engine, what is not kept, damaged files, bounds; and the bytes of a value."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.pack import part

codec = part("native.stored.codec")
entry = part("native.stored.entry")
graph = part("native.trace.graph")
lower = part("native.lower")
store = part("native.stored.store")
trace = part("native.trace")
ggml = part("native.engines.ggml")

KEY = "a key"


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    return store.Store(tmp_path / "programs")


class Steering:
    """Of a function whose code is always the same, or not as `before` says."""

    def __init__(self, before: str | None, after: Any = "", again: bool = True) -> None:
        self._before, self._after, self._again = before, after, again
        self.recalled: list[Any] = []

    def before(self) -> str | None:
        return self._before

    def watched(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def after(self) -> Any:
        return self._after

    def recall(self, after: Any) -> bool:
        self.recalled.append(after)
        return self._again


# -- an entry of an engine


def engine(kept: Any, steering: Any = None) -> tuple[Any, Any]:
    """A model of one layer, and a function of it that asks for a value of its input `n`."""
    layer = torch.nn.Linear(4, 4, device="meta")
    parameters = {"weight": ("F32", (4, 4)), "bias": ("F32", (4,))}
    found = SimpleNamespace(
        name="a model", arrays={}, shapes=lambda: {n: (shape, t) for n, (t, shape) in parameters.items()},
        parameters={name: SimpleNamespace(rotation=0) for name in parameters},
    )  # fmt: skip
    model = ggml.GgmlModel(layer, found, "CPU", runner=SimpleNamespace())

    def function(core: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.pad(core(given["x"]), (0, int(given["n"])))

    return model, entry.Storable("", function, kept, steering or Steering(""))


INPUTS = {"x": torch.zeros(2, 4), "n": torch.tensor(3)}


def lowered(
    kept: Any, inputs: dict[str, torch.Tensor] | None = None, change: Any = None, steering: Any = None
) -> bool:  # fmt: skip
    """Whether a new model's program is read; change: of the model."""
    model, function = engine(kept, steering)
    if change is not None:
        change(model)
    traced: list[Any] = []
    original = model.traced
    model.traced = lambda *args: traced.append(1) or original(*args)
    model.lowered("key", function, inputs or INPUTS)
    return not traced


def test_a_program_is_read_again(kept: Any) -> None:
    assert not lowered(kept)
    assert lowered(kept)


@pytest.mark.parametrize(
    "inputs",
    [{**INPUTS, "x": torch.zeros(3, 4)}, {**INPUTS, "x": torch.zeros(1, 2, 4)}, {**INPUTS, "n": torch.tensor(2)},
     {**INPUTS, "x": torch.zeros(2, 4, dtype=torch.float16)}, {**INPUTS, "n": torch.tensor(3, dtype=torch.int32)},
     dict(reversed(INPUTS.items()))],
    ids=["shape", "dimensions", "answer", "type", "whole type", "order"],
)  # fmt: skip
def test_other_inputs_are_traced(inputs: dict[str, torch.Tensor], kept: Any) -> None:
    lowered(kept)
    assert not lowered(kept, inputs)


def _options(**changed: Any) -> Any:
    def change(model: Any) -> None:
        model.options = lower.LowerOptions(**changed)

    return change


def _weight(model: Any) -> None:
    shapes = model.file_weights.shapes()
    model.file_weights.shapes = lambda: {**shapes, "weight": ((4, 4), "F16")}


def _name(model: Any) -> None:
    model.file_weights.name = "another model"


CHANGED = [
    *(_options(**{name: value}) for name, value in (
        ("flash", False), ("flash_bytes", 1), ("kv_type", "F32"), ("activation_scale", 64.0),
        ("chunk_threshold_bytes", 1), ("chunk_tokens", 1), ("islands", False), ("values", False),
    )),
    _weight, _name,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CHANGED)))
def test_other_options_and_weights_are_traced(number: int, kept: Any) -> None:
    lowered(kept)
    assert not lowered(kept, change=CHANGED[number])
    assert lowered(kept)


def test_another_description_is_traced(kept: Any) -> None:
    lowered(kept, steering=Steering("a"))
    assert not lowered(kept, steering=Steering("b"))
    assert lowered(kept, steering=Steering("a"))


def test_a_program_of_code_that_is_no_longer_so_is_traced(kept: Any) -> None:
    lowered(kept, steering=Steering("", {"found": "now"}))
    again = Steering("", again=False)
    assert not lowered(kept, steering=again)
    assert again.recalled == [{"found": "now"}]
    assert lowered(kept)


def _patched(model: Any) -> None:
    model.weights = SimpleNamespace(**vars(model.weights))


def _with_branch(model: Any) -> None:
    model._branches = {"weight": (lower.Branch("F32", 1, 0, 4, 0, 4),)}


def _joined(model: Any) -> None:
    model._joined = (SimpleNamespace(weights=SimpleNamespace(digest="another")),)


@pytest.mark.parametrize("change", [_patched, _with_branch, _joined])
def test_nothing_is_kept_or_read_with_patches_or_other_models(change: Any, kept: Any) -> None:
    lowered(kept, change=change)
    assert not kept.folder.exists()
    lowered(kept)
    assert not lowered(kept, change=change)


@pytest.mark.parametrize("steering", [Steering(None), Steering("", None)], ids=["before", "after"])
def test_nothing_is_kept_where_something_is_not_certain(steering: Any, kept: Any) -> None:
    lowered(kept, steering=steering)
    assert not kept.folder.exists()


def test_a_function_of_python_in_a_program_is_not_kept(kept: Any) -> None:
    model, _ = engine(kept)

    def function(core: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
        return trace.as_one_step("of a node", lambda x: x + 1, (core(given["x"]),))

    model.lowered("key", entry.Storable("", function, kept, Steering("")), INPUTS)
    assert not kept.folder.exists()


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "foreign", "other value", "unknown class"])
def test_a_damaged_entry_is_removed_and_traced(damage: str, kept: Any) -> None:
    lowered(kept)
    (path,) = kept.folder.iterdir()
    held = path.read_bytes()
    changed = {"empty": b"", "short": held[:-1], "flipped": held[:-1] + bytes([held[-1] ^ 1]), "foreign": b"x" * 99}
    if damage in changed:
        path.write_bytes(changed[damage])
    else:
        content = codec.encoded((1, 2), 1 << 20) if damage == "other value" else b"\0" * 64
        head = store._MAGIC + store.hashlib.sha256(content).digest()
        path.write_bytes(head + content)
    assert not lowered(kept)
    assert lowered(kept)


# -- the folder


@pytest.mark.parametrize("place", [0, 10, -1])
def test_content_that_is_not_as_it_was_written_is_removed(place: int, tmp_path: Path) -> None:
    kept = store.Store(tmp_path)
    kept.put(KEY, bytes(100))
    assert kept.get(KEY) == bytes(100)
    held = bytearray(kept.path(KEY).read_bytes())
    held[place] ^= 1
    kept.path(KEY).write_bytes(held)
    assert kept.get(KEY) is None
    assert not kept.path(KEY).exists()


def test_entries_are_bounded_and_the_one_used_least_recently_goes(tmp_path: Path) -> None:
    kept = store.Store(tmp_path, capacity=300, largest=150)
    kept.put("too large", bytes(151))
    assert kept.get("too large") is None
    for number, name in enumerate("ab"):
        kept.put(name, bytes(100))
        os.utime(kept.path(name), (number, number))
    kept.get("a")
    kept.put("c", bytes(100))
    assert [kept.get(name) is not None for name in "abc"] == [True, False, True]


def test_what_a_process_left_unfinished_is_removed_later(tmp_path: Path) -> None:
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    old.touch()
    os.utime(old, (1, 1))
    new.touch()
    store.Store(tmp_path).put(KEY, b"")
    assert not old.exists()
    assert new.exists()


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    kept = store.Store(tmp_path / "file" / "programs")
    kept.put(KEY, b"1")
    assert kept.get(KEY) is None
    full = store.Store(tmp_path)

    def replace(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", replace)
    full.put(KEY, b"1")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_many_write_and_read_at_once(tmp_path: Path) -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        own = store.Store(tmp_path, capacity=4000)
        for count in range(50):
            own.put(str(count % 7), str(count % 7).encode() * 500)
            found = own.get(str((count + number) % 7))
            if found is not None and found != str((count + number) % 7).encode() * 500:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not list(tmp_path.glob("*.part"))


# -- the bytes of a value


def test_values_come_back_with_their_types() -> None:
    window = graph.Window(-3, (2, 3), (3, 1), 5, torch.bfloat16)
    step = graph.TracedOp(
        "aten.add.Tensor", torch.ops.aten.add.Tensor, (window, 1.5, (True, None)), {"alpha": 2}, (None,), "a"
    )
    value = {"a": [1, 1.0, True, None, float("inf"), -0.0, 0.1],
             3: (window, step, torch.Size((1, 2)), torch.float8_e4m3fn),
             "device": torch.device("cpu"), "memory": torch.channels_last}  # fmt: skip
    found = codec.decoded(codec.encoded(value, 1 << 20))
    assert repr(found) == repr(value)
    assert found[3][1].function is torch.ops.aten.add.Tensor
    assert type(found["a"][0]) is int
    assert type(found["a"][1]) is float


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_tensors_come_back(dtype: torch.dtype) -> None:
    for shape in ((), (0,), (3, 5)):
        tensor = (torch.randn(shape) * 3).to(dtype)
        found = codec.decoded(codec.encoded((tensor, np.arange(7)), 1 << 20))
        assert found[0].dtype == dtype
        assert torch.equal(found[0], tensor)
        np.testing.assert_array_equal(found[1], np.arange(7))


@pytest.mark.parametrize(
    "value", [print, object(), torch.zeros(2, 3).T, {1, 2}, json, np.array(["a"]), torch.zeros(3, device="meta")],
    ids=["function", "object", "layout", "set", "module", "texts", "meta"],
)  # fmt: skip
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(codec.Unstorable):
        codec.encoded(value, 1 << 20)
    with pytest.raises(codec.Unstorable):
        codec.encoded(bytes(10), 1 << 20)
    with pytest.raises(codec.Unstorable):
        codec.encoded(torch.zeros(100), 300)


def test_reading_finds_no_functions_but_those_of_programs() -> None:
    for name in ("aten.__class__.x", "os.system", "aten.add", "print", "aten.add.__call__", "aten.from_file.default"):
        plain = ["TracedOp", "x", name, ["tuple"], ["dict"], ["tuple"], ""]
        text = json.dumps(plain).encode()
        with pytest.raises(codec.Unstorable):
            codec.decoded(codec._LENGTHS.pack(len(text), 0) + text)
