"""The sizes of text encoders of which there are others than core's, from the shapes of a file's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import comfy.sd
from torch import Tensor


@dataclass(frozen=True)
class _Size:
    """A dimension of a tensor over a number or another size; without a dimension the number of blocks of that name."""

    tensor: str
    dimension: int | None = None
    over: str | int = 1


_T5, _CLIP = "encoder.block.0.layer", "text_model.encoder.layers"
_OF_T5 = {
    "num_layers": _Size("encoder.block."),
    "d_model": _Size("shared.weight", 1),
    "d_ff": _Size(f"{_T5}.1.DenseReluDense.wo.weight", 1),
    "num_heads": _Size(f"{_T5}.0.SelfAttention.relative_attention_bias.weight", 1),
    "d_kv": _Size(f"{_T5}.0.SelfAttention.q.weight", 0, "num_heads"),
}
# By core's name of an encoder: its name in core's options, and where a file has each value of its configuration.
# Of T5's vocabulary there is one size: a T5 with another one has another tokenizer.
_SIZES: dict[str, tuple[str, dict[str, _Size]]] = {
    "T5_XXL": ("t5xxl", _OF_T5),
    "T5_BASE": ("t5xxl", _OF_T5),
    "CLIP_L": (
        "clip_l",
        {
            "num_hidden_layers": _Size(f"{_CLIP}."),
            "hidden_size": _Size("text_model.embeddings.position_embedding.weight", 1),
            "intermediate_size": _Size(f"{_CLIP}.0.mlp.fc1.weight", 0),
            "num_attention_heads": _Size("text_model.embeddings.position_embedding.weight", 1, 64),
        },
    ),
}


def options_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """Core's `model_options` that say the sizes of a text encoder."""
    kind = comfy.sd.detect_te_model(tensors)
    name, sizes = _SIZES.get("" if kind is None else kind.name, ("", {}))
    if any(size.dimension is not None and size.tensor not in tensors for size in sizes.values()):
        return {}  # the file is not whole, which core's own sizes show as well
    found: dict[str, int] = {}
    for key, size in sizes.items():
        if size.dimension is None:
            blocks = (rest[len(size.tensor) :] for rest in tensors if rest.startswith(size.tensor))
            found[key] = len({block.partition(".")[0] for block in blocks})
        else:
            over = found[size.over] if isinstance(size.over, str) else size.over
            found[key] = max(1, tensors[size.tensor].shape[size.dimension] // over)
    return {f"{name}_model_config": found} if found else {}
