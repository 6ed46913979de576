"""Quantizations of other programs that are not read here, told by the names of their tensors."""

from __future__ import annotations

from .weight_file import WeightFile, WeightFileError

_FORMS = (  # what to call it; endings of names of which each must be there; the first that fits counts
    ("bitsandbytes NF4", (".quant_state.bitsandbytes__nf4",)),  # bitsandbytes, functional.py: QuantState.as_dict
    ("bitsandbytes FP4", (".quant_state.bitsandbytes__fp4",)),
    ("bitsandbytes, whose file lacks the states", (".weight.absmax",)),
    ("bitsandbytes LLM.int8()", (".SCB",)),
    ("SVDQuant for nunchaku", (".qweight", ".wscales")),  # nunchaku, models/linear.py
    ("GPTQ", (".qweight", ".g_idx")),  # AutoGPTQ, nn_modules/qlinear
    ("AWQ", (".qweight", ".qzeros")),  # AutoAWQ, modules/linear
    ("GPTQ, AWQ or nunchaku", (".qweight",)),
    ("optimum-quanto", (".weight._data",)),  # optimum-quanto, tensor/weights
    ("torchao", ("._weight_qdata",)),  # torchao, prototype/safetensors
    ("torchao", (".weight:qdata",)),
    ("compressed-tensors", (".weight_packed",)),  # compressed-tensors, compressors/quantized_compressors
    ("HQQ", (".W_q",)),  # hqq, core/quantize.py
)


def refuse_foreign(header: WeightFile) -> None:
    """Raise WeightFileError for a file whose weights are quantized in a form of another program."""
    for name, endings in _FORMS:
        found = [next((tensor for tensor in header.tensors if tensor.endswith(ending)), None) for ending in endings]
        if all(found):
            raise WeightFileError(
                f"{header.path} is quantized by {name} (it has {found[0]}), which is not read here. Use the model's "
                "GGUF file, or a safetensors file in F16, BF16, FP8 or a format of ComfyUI (INT8, MXFP8, NVFP4)."
            )
