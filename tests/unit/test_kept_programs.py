"""The store of programs: what is in a key, what is refused, damaged entries, bounds; and the bytes of a value."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
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
fingerprint = part("nodes.components.fingerprint")
graph = part("native.trace.graph")
kept_programs = part("nodes.components.kept_programs")
loaded_code = part("nodes.components.loaded_code")
lower = part("native.lower")
store = part("native.stored.store")
trace = part("native.trace")
ggml = part("native.engines.ggml")
weights = part("native.weights")

import comfy.ldm.common_dit  # noqa: E402
import comfy.ldm.flux.layers  # noqa: E402
import comfy.ops  # noqa: E402

KEY = "a key"


@pytest.fixture(autouse=True)
def as_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were changed just before the tests began count as old."""
    monkeypatch.setattr(loaded_code, "_started", time.time_ns)


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    return store.Store(tmp_path / "programs")


class Block(comfy.ldm.flux.layers.MLPEmbedder):
    """A module of core's under this test's name."""


def module() -> Any:
    return comfy.ldm.flux.layers.MLPEmbedder(
        32, 64, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init
    )


def digest(core: Any, *more: Any) -> str:
    found: str = fingerprint.fingerprint(core, (), *more)
    return found


# -- what a key has


def test_equal_modules_have_one_fingerprint() -> None:
    assert digest(module(), "forward", (1, 2.0)) == digest(module(), "forward", (1, 2.0))


def _setting(core: Any) -> None:
    core.in_layer.setting = 3


def _shape(core: Any) -> None:
    core.out_layer.weight = torch.nn.Parameter(torch.empty(65, 64, device="meta"), requires_grad=False)


def _type(core: Any) -> None:
    core.out_layer.weight = torch.nn.Parameter(torch.empty(64, 64, device="meta", dtype=torch.float16))


def _buffer(core: Any) -> None:
    core.register_buffer("scale", torch.ones(3))


def _other_values(core: Any) -> None:
    core.register_buffer("scale", torch.tensor([1.0, 1.0, 2.0]))


def _layer(core: Any) -> None:
    core.silu = torch.nn.GELU()


def _other_function(core: Any) -> None:
    core.act = torch.nn.functional.silu


CHANGES = (lambda core: None, _setting, _shape, _type, _buffer, _other_values, _layer, _other_function)


def test_each_change_of_a_module_is_another_fingerprint() -> None:
    found = []
    for change in CHANGES:
        core = module()
        change(core)
        found.append(digest(core))
    assert len(set(found)) == len(CHANGES)


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), (0, None), ("1", 1), ((1,), [1]), (0.1, 0.1 + 1e-17 * 2)])
def test_arguments_that_python_takes_for_equal_are_not(pair: tuple[Any, Any]) -> None:
    first, second = (digest(module(), each) for each in pair)
    assert (first == second) == (type(pair[0]) is type(pair[1]) and pair[0] == pair[1])


def test_values_of_buffers_that_the_weights_have_do_not_count() -> None:
    one, other = module(), module()
    _buffer(one)
    _other_values(other)
    assert digest(one) != digest(other)
    first, second = (fingerprint.fingerprint(core, ("scale",)) for core in (one, other))
    assert first == second


def test_the_code_is_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = digest(module())
    source = tmp_path / "model.py"
    source.write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(loaded_code, "_FOLDERS", [*loaded_code._FOLDERS, tmp_path])
    found = [before, digest(module())]
    source.write_text("a = 2222\n", encoding="utf-8")
    found.append(digest(module()))
    os.utime(source, ns=(1, 1))
    found.append(digest(module()))
    assert len(set(found)) == 4


@pytest.mark.parametrize("name", ["torch", "transformers", "comfy_kitchen"])
def test_versions_are_in_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(module())
    real = loaded_code.version
    monkeypatch.setattr(loaded_code, "version", lambda each: "0.0.1" if each == name else real(each))
    loaded_code._versions.cache_clear()
    assert digest(module()) != before
    monkeypatch.undo()
    loaded_code._versions.cache_clear()


def test_the_command_line_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(module())
    monkeypatch.setattr(loaded_code.comfy.cli_args.args, "fp16_unet", True)
    assert digest(module()) != before


def test_a_setting_of_a_class_or_of_its_module_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [digest(module())]
    monkeypatch.setattr(comfy.ldm.flux.layers.MLPEmbedder, "flag", 1, raising=False)
    found.append(digest(module()))
    monkeypatch.setattr(comfy.ldm.flux.layers, "FLAG", 1, raising=False)
    found.append(digest(module()))
    assert len(set(found)) == 3


def test_a_function_of_cores_in_another_place_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(module())
    monkeypatch.setattr(comfy.ldm.flux.layers.MLPEmbedder, "forward", comfy.ldm.flux.layers.EmbedND.forward)
    assert digest(module()) != before


# -- what is not kept


def _by_a_node(self: Any, x: Any) -> Any:
    return x


REPLACED: list[tuple[Any, str, Any]] = [
    (comfy.ldm.flux.layers.MLPEmbedder, "forward", _by_a_node),
    (comfy.ldm.common_dit, "pad_to_patch_size", _by_a_node),
    (torch.nn.functional, "scaled_dot_product_attention", _by_a_node),
    (torch.nn.Linear, "forward", functools.wraps(torch.nn.Linear.forward)(_by_a_node)),
    (comfy.ldm.flux.layers, "MLPEmbedder", Block),
]


@pytest.mark.parametrize("place", REPLACED, ids=lambda each: each[1])
def test_nothing_is_kept_where_a_node_replaced_functions(
    place: tuple[Any, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = module()
    monkeypatch.setattr(*place)
    with pytest.raises(loaded_code.Uncertain):
        digest(core)


@pytest.mark.parametrize(
    "value", [_by_a_node, lambda x: x, Block, threading.Lock(), object(), SimpleNamespace(f=_by_a_node)],
    ids=["function", "lambda", "class", "lock", "object", "within"],
)  # fmt: skip
def test_nothing_is_kept_of_what_has_no_certain_description(value: Any) -> None:
    core = module()
    core.by_a_node = value
    with pytest.raises(loaded_code.Uncertain):
        digest(core)
    with pytest.raises(loaded_code.Uncertain):
        digest(module(), ("options", value))


def test_a_hook_of_a_node_is_not_kept() -> None:
    core = module()
    core.in_layer.register_forward_hook(lambda *_: None)
    with pytest.raises(loaded_code.Uncertain):
        digest(core)


def test_nothing_is_kept_where_a_file_has_changed_since_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(loaded_code, "_FOLDERS", [tmp_path])
    (tmp_path / "model.py").touch()
    with pytest.raises(loaded_code.Uncertain, match=r"model\.py has changed since ComfyUI started"):
        digest(module())


def test_nothing_is_read_or_kept_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = SimpleNamespace(module=module())
    monkeypatch.setenv(kept_programs.VARIABLE, "0")
    assert not isinstance(kept_programs.storable(model, "key", len), entry.Storable)
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path))
    assert isinstance(kept_programs.storable(model, "key", len), entry.Storable)


# -- an entry of an engine


def engine(kept: Any, described: Callable[[], str | None] = lambda: "") -> tuple[Any, Any]:
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

    return model, entry.Storable("", function, kept, described)


INPUTS = {"x": torch.zeros(2, 4), "n": torch.tensor(3)}


def lowered(kept: Any, inputs: dict[str, torch.Tensor] | None = None, change: Any = None, key: str = "") -> bool:
    """Whether a new model's program is read; change: of the model."""
    model, function = engine(kept, lambda: key)
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
    lowered(kept, key="a")
    assert not lowered(kept, key="b")
    assert lowered(kept, key="a")


def test_nothing_is_kept_without_a_description_or_with_patches(kept: Any) -> None:
    model, function = engine(kept, lambda: None)
    model.lowered("key", function, INPUTS)
    model, function = engine(kept)
    model.weights = SimpleNamespace(**vars(model.weights))
    model.lowered("key", function, INPUTS)
    assert not kept.folder.exists()


def test_a_function_of_python_in_a_program_is_not_kept(kept: Any) -> None:
    model, _ = engine(kept)

    def function(core: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
        return trace.as_one_step("of a node", lambda x: x + 1, (core(given["x"]),))

    model.lowered("key", entry.Storable("", function, kept, lambda: ""), INPUTS)
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
    for name in ("aten.__class__.x", "os.system", "aten.add", "print", "aten.add.__call__"):
        plain = ["TracedOp", "x", name, ["tuple"], ["dict"], ["tuple"], ""]
        text = json.dumps(plain).encode()
        with pytest.raises(codec.Unstorable):
            codec.decoded(codec._LENGTHS.pack(len(text), 0) + text)
