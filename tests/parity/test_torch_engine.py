"""The torch engine against torch with all weights in memory: in F32, with BF16 multiplications, and with LoRA."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from native.engines.torch_cpu import TorchModel

from .model_cases import MODELS, ModelCase, randomize
from .model_files import in_memory, quantized_file, reference, worst
from .test_models import BY_NAME

EXACT = 2e-6  # relative L2: the order of summation
# What BF16 multiplications of a whole model cost; those of 8 bits in ggml are allowed 2e-2. Where a model of random
# weights makes more of them, 1.2 x what they cost torch itself.
ROUNDED, LEEWAY = 1e-2, 1.2


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_model(case: ModelCase, batch: int) -> None:
    """F32 weights are multiplied in F32, also where the processor is faster in BF16."""
    torch.manual_seed(batch)
    real, inputs = randomize(case.build("cpu")), case.inputs(batch)
    engine = TorchModel(case.build("meta").eval(), in_memory(real), "CPU", half=True)
    assert worst(engine.run(case.name, case.function, inputs), reference(real, case, inputs)) <= EXACT


def _multiply_in_half(module: torch.nn.Module) -> None:
    """Let every Linear multiply in BF16, as the engine does where that is faster."""

    def forward(part: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        product = (x.bfloat16() @ part.weight.bfloat16().T).float()
        return product if part.bias is None else product + part.bias

    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            part.forward = partial(forward, part)


@pytest.mark.parametrize("half", [False, True], ids=["F32", "BF16"])
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "IQ4_XS"])
@pytest.mark.parametrize("name", ["FLUX schnell", "T5", "CLIP-L"])
def test_quantized_model(name: str, kind: str, half: bool, tmp_path: Path) -> None:
    """Against torch with the dequantized weights."""
    case = BY_NAME[name]
    torch.manual_seed(1)
    real, inputs = randomize(case.build("cpu")), case.inputs(2)
    weights = quantized_file(tmp_path / "model.gguf", real, kind)
    results = TorchModel(case.build("meta").eval(), weights, "CPU", half).run(name, case.function, inputs)
    expected = reference(real, case, inputs)
    error = worst(results, expected)
    if half and error > ROUNDED:
        _multiply_in_half(real)
        assert error <= LEEWAY * worst(tuple(reference(real, case, inputs)), expected)
    elif not half:
        assert error <= EXACT
