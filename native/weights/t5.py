"""T5 encoders, in the names of Hugging Face's transformers and of llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .identify import another_kind
from .mapping import Scaled, blocks, prefixes, under, weight_set
from .weight_file import WeightFile
from .weight_set import WeightSet

MARKER = "encoder.block.0.layer.0.SelfAttention.q.weight"
LLAMA_MARKER = "enc.blk.0.attn_q.weight"
ATTENTION, FEED_FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"
LLAMA_WHOLE = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
LLAMA_BLOCK = {  # gguf's tensor_mapping.py; ne of attn_rel_b is [heads, buckets], so its torch shape is the module's
    "attn_norm": "layer.0.layer_norm",
    "attn_q": f"{ATTENTION}.q",
    "attn_k": f"{ATTENTION}.k",
    "attn_v": f"{ATTENTION}.v",
    "attn_o": f"{ATTENTION}.o",
    "attn_rel_b": f"{ATTENTION}.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": f"{FEED_FORWARD}.wi_0",
    "ffn_up": f"{FEED_FORWARD}.wi_1",
    "ffn_down": f"{FEED_FORWARD}.wo",
}
IN_BLOCK = re.compile(r"enc\.blk\.([0-9]+)\.(\w+)\.weight")


def t5(header: WeightFile) -> WeightSet:
    """The parameters of comfy.text_encoders.t5.T5; raises WeightFileError for anything but a whole T5 encoder."""
    found = prefixes(header, MARKER) + prefixes(header, LLAMA_MARKER)
    if not found:
        raise another_kind(header, "a T5 text encoder")
    tensors = {_parameter_name(name): tensor for name, tensor in under(header, found[0]).items()}
    if "shared.weight" not in tensors and "encoder.embed_tokens.weight" in tensors:
        tensors["shared.weight"] = tensors["encoder.embed_tokens.weight"]
    biases = [
        f"encoder.block.{index}.{ATTENTION}.relative_attention_bias.weight"
        for index in blocks(tensors, "encoder.block")
    ]
    return weight_set(header, "T5 text encoder", tensors, [*_required(tensors), biases[0]], biases[1:])


def _parameter_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in LLAMA_WHOLE:
        return f"{LLAMA_WHOLE[stem]}.weight"
    in_block = IN_BLOCK.fullmatch(name)
    if in_block and in_block[2] in LLAMA_BLOCK:
        return f"encoder.block.{in_block[1]}.{LLAMA_BLOCK[in_block[2]]}.weight"
    return name


def _required(tensors: dict[str, Scaled]) -> Iterator[str]:
    gated = f"encoder.block.0.{FEED_FORWARD}.wi.weight" not in tensors
    layers = [f"{ATTENTION}.{part}" for part in "qkvo"] + ["layer.0.layer_norm", "layer.1.layer_norm"]
    layers += [f"{FEED_FORWARD}.{part}" for part in (("wi_0", "wi_1", "wo") if gated else ("wi", "wo"))]
    yield "shared.weight"
    for index in blocks(tensors, "encoder.block"):
        yield from (f"encoder.block.{index}.{layer}.weight" for layer in layers)
    yield "encoder.final_layer_norm.weight"
