"""Tensor names of weight files to the parameter names of ComfyUI's text encoders.

Per family: the tensor by which it is recognised, the renames of its known writers, and which parameters it must have.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator

from .identify import another_kind
from .llama_names import is_llama, names_in_transformers
from .runs import StoredTensor
from .scales import under
from .weight_file import WeightFile, WeightFileError
from .weight_set import WeightSet, parameter

log = logging.getLogger(__name__)

CLIP_MARKER = "text_model.encoder.layers.0.mlp.fc1.weight"
DEEPER_CLIP = "text_model.encoder.layers.22.mlp.fc1.weight"  # CLIP-H and CLIP-G
T5_MARKERS = ("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight")  # transformers, llama.cpp
T5_ATTENTION, T5_FEED_FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"


def clip_l(header: WeightFile) -> WeightSet:
    """The parameters of comfy.clip_model.CLIPTextModel. Raises WeightFileError for anything but a whole CLIP-L."""
    prefixes = [prefix for prefix in prefixes_of(header, CLIP_MARKER) if prefix + DEEPER_CLIP not in header.tensors]
    if not prefixes:
        raise another_kind(header, "a CLIP-L text encoder")
    tensors = under(header, prefixes[0])
    return weight_set(header, "CLIP-L text encoder", tensors, _clip_parameters(tensors), ["text_projection.weight"])


def _clip_parameters(names: Iterable[str]) -> Iterator[str]:
    embeddings = "text_model.embeddings"
    yield from (f"{embeddings}.token_embedding.weight", f"{embeddings}.position_embedding.weight")
    for index in block_range(names, "text_model.encoder.layers"):
        layer = f"text_model.encoder.layers.{index}"
        yield from affine(f"{layer}.layer_norm1", f"{layer}.layer_norm2", f"{layer}.mlp.fc1", f"{layer}.mlp.fc2")
        yield from affine(*(f"{layer}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")))
    yield from affine("text_model.final_layer_norm")


def t5(header: WeightFile) -> WeightSet:
    """The parameters of comfy.text_encoders.t5.T5. Raises WeightFileError for anything but a whole T5 encoder."""
    prefixes = [prefix for marker in T5_MARKERS for prefix in prefixes_of(header, marker)]
    if not prefixes:
        raise another_kind(header, "a T5 text encoder")
    tensors = under(header, prefixes[0])
    if is_llama(tensors):
        tensors = {new: tensors[old] for old, new in names_in_transformers(tensors).items()}
    if "shared.weight" not in tensors and "encoder.embed_tokens.weight" in tensors:
        tensors["shared.weight"] = tensors["encoder.embed_tokens.weight"]
    biases = [
        f"encoder.block.{index}.{T5_ATTENTION}.relative_attention_bias.weight"
        for index in block_range(tensors, "encoder.block")
    ]
    return weight_set(header, "T5 text encoder", tensors, [*_t5_parameters(tensors), biases[0]], biases[1:])


def _t5_parameters(names: Iterable[str]) -> Iterator[str]:
    names = set(names)
    gated = f"encoder.block.0.{T5_FEED_FORWARD}.wi.weight" not in names
    layers = [f"{T5_ATTENTION}.{part}" for part in "qkvo"] + ["layer.0.layer_norm", "layer.1.layer_norm"]
    layers += [f"{T5_FEED_FORWARD}.{part}" for part in (("wi_0", "wi_1", "wo") if gated else ("wi", "wo"))]
    yield "shared.weight"
    for index in block_range(names, "encoder.block"):
        yield from (f"encoder.block.{index}.{layer}.weight" for layer in layers)
    yield "encoder.final_layer_norm.weight"


def prefixes_of(header: WeightFile, marker: str) -> list[str]:
    """The prefixes under which a file has the tensor `marker`, shortest first."""
    prefixes = [name[: -len(marker)] for name in header.tensors if name == marker or name.endswith("." + marker)]
    return sorted(prefixes, key=len)


def block_range(names: Iterable[str], stem: str) -> range:
    """range(count) over the blocks `stem`.N. that occur in the names."""
    numbered = re.compile(re.escape(stem) + r"\.([0-9]+)\.")
    return range(len({match[1] for match in map(numbered.match, names) if match}))


def weight_set(
    header: WeightFile,
    model: str,
    tensors: dict[str, StoredTensor],
    required: Iterable[str],
    optional: Iterable[str] = (),
) -> WeightSet:
    """The WeightSet of the required tensors, and of the optional ones that the file has.

    tensors: by parameter name. model: for messages. Raises WeightFileError when a required one is missing.
    """
    needed = list(required)
    missing = [name for name in needed if name not in tensors]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightFileError(
            f"{header.path} seems to be a {model} but lacks {', '.join(missing[:3])}{more}. The file is incomplete or "
            "of a variant that is not known here: use the complete model in one file."
        )
    used = needed + [name for name in optional if name in tensors]
    unused = tensors.keys() - set(used)
    if unused:
        log.info("%s: %d tensors are not used by a %s, such as %s", header.path, len(unused), model, min(unused))
    held = {name: tensors[name] for name in used}
    parameters = {name: parameter(name, each.shape, each.runs, [each]) for name, each in held.items()}
    return WeightSet(model, parameters, header.files)


def affine(*layers: str) -> list[str]:
    """The names of the weight and the bias of each layer."""
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
