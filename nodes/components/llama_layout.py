"""Language models and vision towers as llama.cpp stores them, brought into transformers' layout under a recording.

Source of the layouts: convert_hf_to_gguf.py in llama.cpp, whose changes are undone here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ...native.weights import WeightFile, WeightFileError
from ...native.weights.llama_names import is_llama, names_in_transformers
from ...native.weights.tokenizers import tokenizer_of
from ...native.weights.weight_file import joined

T5_TOKENS = 32128  # of T5's own vocabulary, whose tokenizer ComfyUI has
# By architecture: rows of q and k in the order of interleaved rotary embeddings; norms that have 1 added.
INTERLEAVED = ("llama", "mistral3")
SHIFTED = ("gemma", "gemma2", "gemma3", "qwen35")
# ComfyUI knows these models by names that begin in another way.
MODEL_PREFIX = {"qwen35": "model.language_model."}
VISUAL_PREFIX = {"qwen35": "model.visual.", "qwen3vl": "model.visual."}
TOWER = "v.patch_embd.weight"
# By architecture: why it is not read, and what to do instead.
REFUSED = {
    "gpt-oss": "has the rows of its experts' gates and of their products apart, which ComfyUI has in turns: all of "
    "them would have to be converted. Use the text encoder as safetensors, as the diffusion model's page names it.",
    "gemma4": "is a Gemma 4, with which ComfyUI only writes text. Choose it in GGML Language Model for that, or load "
    "it as safetensors with ComfyUI's own CLIP loader.",
}


def with_towers(headers: Sequence[WeightFile]) -> list[WeightFile]:
    """The files, with a vision tower ("mmproj") joined to the language model that it belongs to.

    Raises WeightFileError for a tower that has no model, or that is of none which ComfyUI reads in this layout.
    """
    towers = [header for header in headers if TOWER in header.tensors and "token_embd.weight" not in header.tensors]
    rest = [header for header in headers if header not in towers]
    for tower in towers:
        kind = tower.metadata.get("clip.projector_type", tower.metadata.get("clip.vision.projector_type", "?"))
        if not str(kind).startswith("qwen"):
            raise WeightFileError(
                f"{tower.path} is a vision tower ({kind}) that is not read from GGUF. A prompt of text does without: "
                "leave it out. For prompts with pictures choose the text encoder with its tower as safetensors."
            )
        models = [header for header in rest if "blk.0.attn_q.weight" in header.tensors]
        if len(models) != 1:
            raise WeightFileError(
                f"{tower.path} is the vision tower (mmproj) of a language model, and cannot be used alone. Choose the "
                "language model's GGUF file in clip_name1 and this one in clip_name2."
            )
        rest[rest.index(models[0])] = joined([models[0], tower])
    for header in rest:
        if header.architecture == "qwen3vl" and TOWER not in header.tensors:
            raise WeightFileError(
                f"{header.path} is a Qwen3-VL, which ComfyUI knows by its vision tower. Choose the file that is called "
                "mmproj beside it in clip_name2."
            )
    return rest


def in_transformers_layout(header: WeightFile, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ComfyUI's names; of llama.cpp's those of transformers, with the tokenizer that the file has.

    Raises WeightFileError for layers that no text encoder of ComfyUI has.
    """
    if not is_llama(tensors):
        return tensors
    kind = header.architecture or ""
    if kind in REFUSED:
        raise WeightFileError(f"{header.path} {REFUSED[kind]}")
    model, visual = MODEL_PREFIX.get(kind, "model."), VISUAL_PREFIX.get(kind, "visual.")
    names = names_in_transformers(tensors, model, visual)
    unknown = [name for name in tensors if re.match(r"(enc\.|v\.)?blk\.", name) and name not in names]
    if unknown:
        raise WeightFileError(
            f"{header.path} is a GGUF file of {kind}, whose {unknown[0]} no text encoder has that is read from GGUF. "
            "Use the text encoder as safetensors, or the file that the diffusion model's page names."
        )
    made = {new: tensors[old] for old, new in names.items()}
    if kind in INTERLEAVED:
        _undo_interleaving(header, made)
    if kind in SHIFTED:
        made |= {name: made[name] - 1 for name in made if name.startswith(model) and _is_shifted(name)}
    if kind == "qwen35":
        _undo_linear_attention(header, made)
    _join_tower(made, visual)
    embedding = tensors.get("token_embd.weight")
    if embedding is not None and len(embedding) != T5_TOKENS and (tokenizer := tokenizer_of(header)):
        made[tokenizer[0]] = torch.frombuffer(bytearray(tokenizer[1]), dtype=torch.uint8)
    return made


def _is_shifted(name: str) -> bool:
    return name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight")


def _count(header: WeightFile, key: str) -> int:
    """A number of the metadata. Raises WeightFileError where it is none."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if type(value) is not int or value <= 0:
        raise WeightFileError(
            f"{header.path} says nothing of {header.architecture}.{key} in its metadata, without which the order of "
            "its rows is not known. Use a file that llama.cpp's converter has written."
        )
    return value


def _undo_interleaving(header: WeightFile, tensors: dict[str, Tensor]) -> None:
    """Rows of a head from (pair, half) to (half, pair)."""
    for layer, key in (("q_proj", "head_count"), ("k_proj", "head_count_kv")):
        heads = _count(header, f"attention.{key}")
        for name in tensors:
            if f".self_attn.{layer}." in name:
                rows = tensors[name]
                tensors[name] = rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(rows.shape)


def _undo_linear_attention(header: WeightFile, tensors: dict[str, Tensor]) -> None:
    """Qwen3.5's value heads from (of a key head, key head) to (key head, of a key head); its decay as a logarithm."""
    keys, values = _count(header, "ssm.group_count"), _count(header, "ssm.time_step_rank")

    def grouped(x: Tensor, dim: int = 0) -> Tensor:
        return x.unflatten(dim, (values // keys, keys, -1)).transpose(dim, dim + 1).reshape(x.shape)

    for name, x in tensors.items():
        layer = name.partition(".linear_attn.")[2]
        if layer == "conv1d.weight":
            x = x.unsqueeze(1)
        if layer == "A_log":
            x = torch.log(-x)
        if keys != values and layer in ("A_log", "dt_bias", "in_proj_a.weight", "in_proj_b.weight", "in_proj_z.weight"):
            x = grouped(x)
        elif keys != values and layer in ("in_proj_qkv.weight", "conv1d.weight"):
            queries = 2 * keys * _count(header, "ssm.state_size")
            x = torch.cat([x[:queries], grouped(x[queries:])])
        elif keys != values and layer == "out_proj.weight":
            x = grouped(x, 1)
        tensors[name] = x


def _join_tower(tensors: dict[str, Tensor], visual: str) -> None:
    """Put together what a vision tower has in several tensors: q, k and v; the kernel of two frames."""
    patches = f"{visual}patch_embed.proj.weight"
    if f"{patches}.1" in tensors:
        tensors[patches] = torch.stack([tensors[patches], tensors.pop(f"{patches}.1")], dim=2)
    for name in [name for name in tensors if name.startswith(f"{visual}blocks.") and ".attn.q." in name]:
        parts = [tensors.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        tensors[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
