"""Programs are taken again only for the same module, arguments, and code that their trace has run."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.pack import part

entry = part("native.stored.entry")
fingerprint = part("nodes.components.fingerprint")
ggml = part("native.engines.ggml")
kept_programs = part("nodes.components.kept_programs")
run_code = part("nodes.components.run_code")

import comfy.ldm.common_dit  # noqa: E402
import comfy.ldm.flux.layers  # noqa: E402
import comfy.ops  # noqa: E402


@pytest.fixture(autouse=True)
def as_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were changed just before the tests began count as old."""
    monkeypatch.setattr(run_code, "_started", time.time_ns)


class Block(comfy.ldm.flux.layers.MLPEmbedder):
    """A module of core's under this test's name."""


def module(layers: Any = comfy.ldm.flux.layers) -> Any:
    return layers.MLPEmbedder(32, 64, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)


def digest(core: Any, *more: Any, held: Any = ()) -> str:
    found: str = run_code.digest_of((core, *more), {id(x) for x in fingerprint_weights(core, held)})
    return found


def fingerprint_weights(core: Any, held: Any) -> Any:
    return part("native.trace").weights_in(core, "", held).values()


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
    assert digest(one, held=("scale",)) == digest(other, held=("scale",))


def test_what_this_session_is_is_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [digest(module())]
    with monkeypatch.context() as patch:
        patch.setattr(run_code.comfy.cli_args.args, "fp16_unet", True)
        found.append(digest(module()))
    with monkeypatch.context() as patch:
        patch.setenv("TORCH_ANYTHING", "1")
        found.append(digest(module()))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.1")
        patch.setattr(run_code, "_versions", run_code._versions.__wrapped__)
        found.append(digest(module()))
    with monkeypatch.context() as patch:
        (tmp_path / "part.py").write_text("a = 1", encoding="utf-8")
        patch.setattr(run_code, "_FOLDERS", (*run_code._FOLDERS, tmp_path))
        patch.setattr(run_code, "_own_code", run_code._own_code.__wrapped__)
        found.append(digest(module()))
        (tmp_path / "part.py").write_text("a = 2", encoding="utf-8")
        found.append(digest(module()))
    try:
        torch.set_default_dtype(torch.float64)
        found.append(digest(module()))
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(set(found)) == len(found)


def test_nothing_is_kept_where_a_file_of_ours_has_changed_since_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(run_code, "_FOLDERS", (tmp_path,))
    (tmp_path / "model.py").touch()
    with pytest.raises(fingerprint.Uncertain, match=r"model\.py has changed since ComfyUI started"):
        digest(module())


def test_nothing_is_kept_where_torch_computes_otherwise() -> None:
    with torch.autocast("cpu"), pytest.raises(fingerprint.Uncertain):
        digest(module())
    with torch.device("meta"), pytest.raises(fingerprint.Uncertain):
        digest(module())


@pytest.mark.parametrize("value", [iter([1]), torch.ones(2).to_sparse(), {object()}, b"".join],
                         ids=["iterator", "sparse", "set of objects", "bound"])  # fmt: skip
def test_nothing_is_kept_of_what_has_no_certain_description(value: Any) -> None:
    core = module()
    core.setting = value
    if isinstance(value, torch.Tensor) or not callable(value):
        with pytest.raises(fingerprint.Uncertain):
            digest(core)
    else:
        assert digest(core) != digest(module())


def test_nothing_is_read_or_kept_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = SimpleNamespace(module=module())
    monkeypatch.setenv(kept_programs.VARIABLE, "0")
    assert not isinstance(kept_programs.storable(model, "key", module), entry.Storable)
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path))
    assert isinstance(kept_programs.storable(model, "key", module), entry.Storable)


# -- a trace, whose code is a copy of core's in a package of its own

CALLS = """
from . import layers

SCALE = 1.0
NESTED = {"scale": [1.0]}


def scaled(x):
    return x * SCALE * NESTED["scale"][0] + 0.5


def call(core, given):
    return scaled(core(given["x"]))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package that counts as models' code, with core's layers and `call`."""
    folder = tmp_path / "kept_copy"
    folder.mkdir()
    (folder / "__init__.py").touch()
    core = Path(comfy.ldm.flux.layers.__file__).parent
    for name in ("layers.py", "math.py"):
        shutil.copy(core / name, folder)
    (folder / "calls.py").write_text(CALLS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for each in (fingerprint, run_code):
        monkeypatch.setattr(each, "MODELS", (*fingerprint.MODELS, "kept_copy"))
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path / "programs"))
    yield folder
    _forget()


def _forget() -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "kept_copy"]:
        del sys.modules[name]


def session() -> Any:
    """The package as after a start of ComfyUI."""
    _forget()
    importlib.invalidate_caches()
    return importlib.import_module("kept_copy.calls")


def lowered(calls: Any, change: Any = lambda core: None) -> tuple[bool, str]:
    """Whether the program of `call` was read, and the program; change: of the module."""
    core = module(calls.layers)
    change(core)
    shapes = {name: (tuple(x.shape), "F32") for name, x in core.named_parameters()}
    found = SimpleNamespace(
        name="a model", arrays={}, shapes=lambda: shapes,
        parameters={name: SimpleNamespace(rotation=0) for name in shapes},
    )  # fmt: skip
    model = ggml.GgmlModel(core, found, "CPU", runner=SimpleNamespace())
    traced: list[Any] = []
    original = model.traced
    model.traced = lambda *args: traced.append(1) or original(*args)
    made = model.lowered("key", kept_programs.storable(model, "key", calls.call), {"x": torch.zeros(2, 32)})
    return not traced, made.listing()


def kept(package: Path) -> int:
    """How many programs there are in the store."""
    folder = package.parent / "programs"
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def test_a_program_is_read_in_the_next_session(package: Path) -> None:
    first = lowered(session())
    assert not first[0]
    assert lowered(session()) == (True, first[1])


EDITS = [
    ("layers.py", "return self.out_layer(self.silu(self.in_layer(x)))", "return self.out_layer(self.in_layer(x))"),
    ("calls.py", "SCALE = 1.0", "SCALE = 2.0"),
    ("calls.py", '"scale": [1.0]', '"scale": [3.0]'),
    ("calls.py", "x * SCALE", "x + SCALE"),
    ("calls.py", "+ 0.5", "+ 0.25"),
    ("calls.py", 'scaled(core(given["x"]))', 'scaled(core(-given["x"]))'),
]


@pytest.mark.parametrize("edit", EDITS, ids=["layer", "setting", "nested setting", "function", "constant", "call"])
def test_an_edited_file_is_traced(edit: tuple[str, str, str], package: Path) -> None:
    before = lowered(session())
    path, old, new = package / edit[0], *edit[1:]
    stat, text = path.stat(), path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))  # Python keeps compiled code by the second
    was_read, listing = lowered(session())
    assert not was_read
    assert listing != before[1]
    assert lowered(session()) == (True, listing)


def _by_a_node(*args: Any, **_: Any) -> Any:
    return args[-1]


class _Callable:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x


REPLACED: list[tuple[Any, str, Any]] = [
    ("kept_copy.layers.MLPEmbedder", "forward", _by_a_node),
    ("kept_copy.calls", "scaled", _by_a_node),
    ("kept_copy.calls", "scaled", _Callable()),
    ("kept_copy.calls", "scaled", functools.partial(_by_a_node, 1)),
    ("kept_copy.calls", "SCALE", 4.0),
    ("comfy.ops.disable_weight_init.Linear", "forward", _by_a_node),
    ("comfy.ops", "run_every_op", lambda: None),
    ("torch.nn.SiLU", "forward", functools.wraps(torch.nn.SiLU.forward)(_by_a_node)),
    ("torch.nn.Module", "_call_impl", lambda self, *args, **kwargs: self.forward(*args, **kwargs)),
    ("kept_copy.calls", "scaled", torch.sigmoid),
    ("torch.nn.functional", "silu", torch.nn.functional.relu),
    ("torch.nn.functional", "linear", _by_a_node),
    ("torch.Tensor", "__mul__", _by_a_node),
    ("torch.nn.modules.module", "_global_forward_hooks", {1: lambda *_: None}),
]


def _place(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        found = sys.modules.get(".".join(parts[:length]))
        if found is not None:
            return functools.reduce(getattr, parts[length:], found)
    raise AssertionError(name)


@pytest.mark.parametrize("place", REPLACED, ids=lambda each: f"{each[0]}.{each[1]}")
def test_what_was_replaced_is_not_served_the_old_program(
    place: tuple[str, str, Any], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lowered(session())
    calls = session()
    with monkeypatch.context() as patch:
        patch.setattr(_place(place[0]), *place[1:])
        was_read, _ = lowered(calls)
        assert not was_read
    assert lowered(session())[1] == before[1]


def test_a_program_of_replaced_functions_is_not_served_without_them(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in REPLACED:
        calls = session()
        with monkeypatch.context() as patch:
            patch.setattr(_place(place[0]), *place[1:])
            lowered(calls)
        was_read, _ = lowered(session())
        assert not was_read, place
        shutil.rmtree(package.parent / "programs", ignore_errors=True)


def test_nothing_is_kept_where_code_of_a_node_runs(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered(session(), lambda core: core.register_forward_hook(lambda *_: None))
    lowered(session(), lambda core: (delattr(core, "silu"), setattr(core, "silu", _Callable())))
    calls = session()
    monkeypatch.setattr(calls.layers.MLPEmbedder, "forward", _by_a_node)
    lowered(calls)
    assert not kept(package)


UNCERTAIN = [
    ("import os\nSCALE = 1.0", 'float(os.environ.get("KEPT", "1"))'),
    ("import os\nSCALE = 1.0", 'float(os.getenv("KEPT", "1"))'),
    ("SCALE = iter([1.0] * 9)", "next(SCALE)"),
]


@pytest.mark.parametrize("edit", UNCERTAIN, ids=["environment", "variable", "iterator"])
def test_nothing_is_kept_where_code_reads_what_cannot_be_told(edit: tuple[str, str], package: Path) -> None:
    text = CALLS.replace("SCALE = 1.0", edit[0]).replace("x * SCALE", f"x * {edit[1]}")
    (package / "calls.py").write_text(text, encoding="utf-8")
    lowered(session())
    assert not kept(package)


def test_nothing_is_kept_under_a_debugger_or_of_a_trace_that_was_left(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.settrace(lambda *_: None)
    try:
        lowered(session())
    finally:
        sys.settrace(None)
    monkeypatch.setattr(kept_programs, "has_left_trace", lambda: True)
    lowered(session())
    assert not kept(package)


def test_a_trace_of_before_is_not_taken_for_one_that_was_watched(package: Path) -> None:
    """Where a trace was known already no code has run, so that nothing tells what it hung on."""
    steering = kept_programs.storable(SimpleNamespace(module=module()), "key", module).steering
    assert steering.after() is None


@pytest.mark.parametrize("name", ["digest_of", "found_by", "is_found_again"])
def test_what_cannot_even_be_looked_at_is_no_error(name: str, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError

    if name == "is_found_again":
        lowered(session())
    monkeypatch.setattr(kept_programs, name, fails)
    assert not lowered(session())[0]
    assert name == "is_found_again" or not kept(package)
