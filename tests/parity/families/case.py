"""A case of a model family: how the real class is built at small width, called and fed, and run as the product does."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import comfy.ldm.modules.diffusionmodules.model as core_vae
import comfy.ops
import torch

from ..model_cases import Inputs, randomize

EXACT = 1e-5
GELU = 1e-3  # the CPU backend of ggml reads GELU from a table of F16 values; twice that where it decides more
# Relative L2 with weights of these types, where torch has the same weights in F32. ggml rounds the activations that it
# multiplies by them to 8 bits, too, which costs about 1e-2 whatever the weights; where depth makes more of it, an error
# may be ROUNDING times what such rounding costs torch.
QUANTIZED = {"Q8_0": 2e-2, "Q4_K": 2e-2}
ROUNDING = 2.0
FACTORY = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}


@contextlib.contextmanager
def narrow(module: ModuleType, **classes: dict[str, Any]) -> Iterator[None]:
    """Gives classes of a module other defaults, for what builds them at the full width and takes no width itself."""
    with contextlib.ExitStack() as stack:
        for name, config in classes.items():
            stack.enter_context(patch.object(module, name, functools.partial(getattr(module, name), **config)))
        yield


@dataclass(frozen=True)
class FamilyCase:
    """build: the module on the CPU, weights as they come; inputs(batch, size): what `function` is called with.

    fresh: it calls module.to() in forward, which stops the first trace of a process and not the next ones.
    tolerance: relative to torch, on the CPU: L2 of the difference over L2, and its maximum over the maximum.
    outliers: a pattern of the names of weights that are 1e5 times as large as others, if any.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    function: Callable[[Any, Inputs], Any]
    inputs: Callable[[int, int], Inputs]
    tolerance: float = EXACT
    fresh: bool = False
    outliers: str | None = None

    @property
    def file(self) -> str:
        """Which file of cases it is from, without .py."""
        return Path(inspect.getsourcefile(self.inputs) or "").stem

    @property
    def transformer(self) -> bool:
        """Whether files of it are quantized: diffusion models, text and vision encoders, not VAEs and convolutions."""
        return self.file.startswith(("diffusion", "text_encoders", "language_models", "vision_encoders"))

    def real(self) -> torch.nn.Module:
        """The module with random weights."""
        torch.manual_seed(0)
        with torch.device("cpu"):
            module = randomize(self.build())
        for name, p in module.named_parameters():
            if self.outliers and re.search(self.outliers, name):
                p.data *= 1e5
        return module

    def call_inputs(self, size: int) -> Inputs:
        """Batch 1 of the first size, batch 2 of the second."""
        torch.manual_seed(10 + size)
        return self.inputs(1 + size, size)


def on_meta(module: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters have no values; buffers, and tensors that are neither, are the module's own."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(p.to("meta"), requires_grad=False)
        if getattr(part, "optimized_attention", None) in _VAE_ATTENTION:
            part.optimized_attention = _override().image_attention
    return module


_VAE_ATTENTION = (core_vae.normal_attention, core_vae.pytorch_attention, core_vae.xformers_attention)


@functools.cache
def _override() -> ModuleType:
    """nodes/components/attention_override.py, which imports nothing of the pack, without loading the pack."""
    path = Path(__file__).parents[3] / "nodes" / "components" / "attention_override.py"
    spec = importlib.util.spec_from_file_location("attention_override_alone", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def product_attention() -> contextlib.AbstractContextManager[None]:
    """Gives every model the product's attention, as its components do."""
    return _override().own_attention()


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a result in the order in which a trace returns them."""
    return [x for x in torch.utils._pytree.tree_flatten(value)[0] if isinstance(x, torch.Tensor)]


def expected(module: torch.nn.Module, case: FamilyCase, size: int) -> list[torch.Tensor]:
    """torch's own result, with ComfyUI's own attention."""
    with torch.no_grad():
        return tensors(case.function(module, case.call_inputs(size)))
