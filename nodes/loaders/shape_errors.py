"""The sizes of a model, told by the shapes of its tensors: what damaged files make of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...native.weights import WeightFileError, WeightSet


@contextmanager
def shape_errors_named(weights: WeightSet) -> Iterator[None]:
    """Around code that derives a module from these shapes: raises WeightFileError where they describe none."""
    try:
        yield
    except WeightFileError:
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        paths = ", ".join(path for path, _, _ in weights.files)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightFileError(
            f"The tensors in {paths} do not describe a whole {weights.name} ({why:.300}). "
            "The file is incomplete or damaged: download it again."
        ) from error
