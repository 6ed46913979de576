"""CLIP-L text encoders."""

from __future__ import annotations

from collections.abc import Iterator

from .identify import another_kind
from .mapping import Scaled, affine, blocks, prefixes, under, weight_set
from .weight_file import WeightFile
from .weight_set import WeightSet

MARKER = "text_model.encoder.layers.0.mlp.fc1.weight"
DEEPER = "text_model.encoder.layers.22.mlp.fc1.weight"  # CLIP-H and CLIP-G


def clip_l(header: WeightFile) -> WeightSet:
    """The parameters of comfy.clip_model.CLIPTextModel; raises WeightFileError for anything but a whole CLIP-L."""
    found = [prefix for prefix in prefixes(header, MARKER) if prefix + DEEPER not in header.tensors]
    if not found:
        raise another_kind(header, "a CLIP-L text encoder")
    tensors = under(header, found[0])
    return weight_set(header, "CLIP-L text encoder", tensors, _required(tensors), ["text_projection.weight"])


def _required(tensors: dict[str, Scaled]) -> Iterator[str]:
    embeddings = "text_model.embeddings"
    yield from (f"{embeddings}.token_embedding.weight", f"{embeddings}.position_embedding.weight")
    for index in blocks(tensors, "text_model.encoder.layers"):
        layer = f"text_model.encoder.layers.{index}"
        yield from affine(f"{layer}.layer_norm1", f"{layer}.layer_norm2", f"{layer}.mlp.fc1", f"{layer}.mlp.fc2")
        yield from affine(*(f"{layer}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")))
    yield from affine("text_model.final_layer_norm")
