"""Parameters and weight sets: what is loaded as what, what names a content, what does not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from native.weights import Parameter, Run, WeightFileError, WeightSet, check_unchanged, load_type, mappable, read_header
from native.weights.weight_set import parameter_of

Write = Callable[..., Path]
PARAMETER = Parameter("w", "F16", (4, 8), (Run("/m.gguf", "F16", 64, 64),))


def weights(path: Path) -> WeightSet:
    header = read_header(path)
    parameters = {name: parameter_of(header, tensor, name) for name, tensor in header.tensors.items()}
    return WeightSet("test model", parameters, ((header.path, header.size, header.mtime_ns),))


@pytest.mark.parametrize(
    ("stored", "shape", "scale", "loaded"),
    [
        ("BF16", (8,), 1.0, "F32"),
        ("F16", (), 1.0, "F32"),
        ("Q8_0", (32,), 1.0, "F32"),
        ("F8_E4M3", (8,), 1.0, "F32"),
        ("F32", (4, 8), 1.0, "F32"),
        ("F16", (4, 8), 1.0, "F16"),
        ("BF16", (4, 8), 1.0, "BF16"),
        ("F64", (4, 8), 1.0, "F32"),
        ("F8_E4M3", (4, 8), 1.0, "F16"),
        ("F8_E5M2", (4, 8), 1.0, "F16"),
        ("F8_E4M3", (4, 8), 146.2, "F16"),  # 448 * 146.2 = 65,498
        ("F8_E4M3", (4, 8), -146.3, "F32"),
        ("F8_E5M2", (4, 8), 1.2, "F32"),
        ("Q4_K", (4, 512), 1.0, "Q4_K"),
        ("Q4_K", (512, 4), 1.0, "F32"),  # folded rows: no whole block in a row
        ("IQ2_XXS", (4, 256), 1.0, "IQ2_XXS"),
        ("F16", (4, 4, 3, 3), 1.0, "F16"),
        ("F32", (4, 4, 3, 3), 1.0, "F32"),
        ("BF16", (4, 4, 3, 3), 1.0, "F32"),
        ("Q8_0", (4, 32, 1, 1), 1.0, "F32"),
        ("F8_E4M3", (4, 4, 3, 3), 1.0, "F16"),
        ("F8_E4M3", (4, 4, 3, 3), 200.0, "F32"),
    ],
)
def test_load_type(stored: str, shape: tuple[int, ...], scale: float, loaded: str) -> None:
    assert load_type(stored, shape, scale) == loaded


def test_mappable_is_what_ggml_can_use_where_it_lies() -> None:
    assert mappable(PARAMETER)
    (run,) = PARAMETER.runs
    assert mappable(replace(PARAMETER, runs=(replace(run, offset=66),)))
    for other in ({"offset": 65}, {"scale": 2.0}, {"parts": 2, "nbytes": 32}):
        assert not mappable(replace(PARAMETER, runs=(replace(run, **other),)))
    halves = replace(run, nbytes=32), replace(run, offset=128, nbytes=32)
    assert not mappable(replace(PARAMETER, runs=halves))
    assert not mappable(replace(PARAMETER, runs=(replace(run, stored="F8_E4M3"),)))
    assert mappable(replace(PARAMETER, type="F32", runs=(replace(run, stored="F32", offset=68),)))
    assert not mappable(replace(PARAMETER, type="F32", runs=(replace(run, stored="F32", offset=66),)))
    assert not mappable(replace(PARAMETER, type="Q4_0", runs=(replace(run, stored="Q4_0", offset=66),)))


@pytest.mark.parametrize("stored", ["I32", "I64", "Q8_1", "Q8_K"])
def test_types_that_are_no_weights(write_gguf: Write, stored: str) -> None:
    path = write_gguf("model.gguf", {"a": ((2, 256), "F32" if stored[0] == "I" else stored)})
    header = read_header(path)
    with pytest.raises(WeightFileError, match=f"the weight a is stored as {stored}"):
        parameter_of(header, replace(header.tensors["a"], stored=stored), "a")


def test_a_digest_names_files_parameters_and_arrays(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((4, 32), "Q4_0"), "b": ((8,), "F32")})
    first = weights(path)
    assert weights(path).digest == first.digest
    assert replace(first, name="another name").digest == first.digest
    one = first.with_arrays({"lora": np.ones((2, 4), np.float32)})
    variants = [
        first,
        one,
        first.with_arrays({"lora": np.zeros((2, 4), np.float32)}),
        first.with_arrays({"lora": np.ones((4, 2), np.float32)}),
        first.with_arrays({"lora2": np.ones((2, 4), np.float32)}),
        one.with_arrays({"more": np.ones(1, np.float16)}),
        replace(first, parameters={"a": first.parameters["a"]}),
        replace(first, files=((str(path), 1, 1),)),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_shapes_and_hidden_parameters(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((4, 32), "Q4_0"), "b": ((8,), "F16")})
    changed = weights(path).with_arrays({"a": np.ones((4, 32), np.float16), "c": np.ones((2, 3), np.float32)})
    assert changed.shapes() == {"a": ((4, 32), "F16"), "b": ((8,), "F32"), "c": ((2, 3), "F32")}
    assert list(changed.parameters) == ["a", "b"]  # a small one stays beside its array
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("native.weights.weight_set._STAYS", 0)
        assert list(weights(path).with_arrays({"a": changed.arrays["a"]}).parameters) == ["b"]
    assert changed.with_arrays({"e": np.ones(3, np.float32)}).shapes() == {**changed.shapes(), "e": ((3,), "F32")}
    with pytest.raises(TypeError, match="float64"):
        changed.with_arrays({"d": np.ones(3)})


def test_require_names_what_does_not_fit(write_gguf: Write) -> None:
    held = weights(write_gguf("model.gguf", {"a": ((4, 32), "Q4_0"), "b": ((8,), "F32")}))
    held.require({"a": (4, 32)})
    with pytest.raises(WeightFileError) as caught:
        held.require({"a": (4, 64), "b": (8,), "c": (1,), "d": (1,), "e": (1,)})
    assert "c [1] is missing; d [1] is missing; e [1] is missing; and 1 more" in str(caught.value)
    with pytest.raises(WeightFileError, match=r"a is \[4, 32\] where \[4, 64\] is needed"):
        held.require({"a": (4, 64)})


def test_a_file_that_changed_or_went_away_is_noticed(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((4, 32), "Q4_0")})
    held = weights(path)
    check_unchanged(held)
    os.utime(path, ns=(0, 1))
    with pytest.raises(WeightFileError, match="changed since"):
        check_unchanged(held)
    path.unlink()
    with pytest.raises(WeightFileError, match="can no longer be read"):
        check_unchanged(held)
