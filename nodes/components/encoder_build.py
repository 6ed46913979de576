"""ComfyUI's text encoders built by its own detection from headers, and the place of each parameter in the files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.sd
import comfy.text_encoders.long_clipl
import folder_paths
import torch
from torch import Tensor

from ...native.lru import LRU
from ...native.weights import WeightFile, WeightFileError, WeightSet
from .build import described, weights_of
from .component import MetaOperations
from .core_function import with_names
from .encoder_sizes import options_of
from .identify import another_kind, encoders_in, refuse_adapters
from .llama_layout import in_transformers_layout, with_towers
from .recording import Recording

# By core's names of two encoders: the model that they are for. Core takes other files for one without a choice.
PAIRS = {
    ("CLIP_L", "CLIP_G"): "STABLE_DIFFUSION",
    ("T5_XXL", "CLIP_L"): "FLUX",
    ("T5_BASE", "CLIP_L"): "FLUX",  # as core calls a T5 of another size
    ("LLAMA3_8", "CLIP_L"): "HUNYUAN_VIDEO",
    ("GEMMA_3_4B", "JINA_CLIP_2"): "NEWBIE",
}
SHARED = ("T5_XXL",)  # which several models have alone
OTHER_SHAPE = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)")  # as torch says it
_OTHER_NAME = "encoder.embed_tokens.weight"  # under which transformers, too, writes T5's table of tokens
_OPEN_CLIP = "transformer.resblocks.0.ln_1.weight"
_tokenizers: LRU[Any, Any] = LRU(4)  # which take up to a second to read


@dataclass(frozen=True, eq=False)
class Part:
    """A module inside a model of core's, to be replaced by a component: the attribute `name` of `owner`."""

    owner: torch.nn.Module
    name: str
    core: torch.nn.Module
    weights: WeightSet


@torch.inference_mode(False)  # ComfyUI runs nodes in it, and what is made in it cannot be traced
def text_encoders(
    headers: Sequence[WeightFile], kind: comfy.sd.CLIPType | None, sizes: Mapping[str, Any] | None = None
) -> tuple[comfy.sd.CLIP, list[Part]]:
    """Core's CLIP of these files, and its modules without values.

    kind: which model the encoders are for; None: for the one that they leave no doubt of.
    sizes: `model_options` of core that give encoders other sizes than their files have.
    Raises WeightFileError where core does not know the encoders, or the files have not all of them.
    """
    for header in headers:
        refuse_adapters(header, "a text encoder")
    headers = with_towers(headers)
    recordings = [Recording(header) for header in headers]
    with ExitStack() as stack:
        stack.enter_context(described(headers[0], "set of text encoders"))
        stack.enter_context(_variants_named(headers[0]))
        for each in recordings:
            stack.enter_context(each)
        stack.enter_context(torch.no_grad())
        found = [(each.header, tensors) for each in recordings for tensors in _tensors_of(each)]
        kind, tensors = _kind_of(found, kind), [tensors for _, tensors in found]
        clip = _loader()(
            tensors, embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=kind, model_options=encoder_options(sizes), disable_dynamic=True,
        )  # fmt: skip
    _refuse_unused(clip.cond_stage_model, recordings)
    return clip, list(parts_of(clip.cond_stage_model, recordings))


def _refuse_unused(owner: torch.nn.Module, recordings: Sequence[Recording]) -> None:
    """Raise WeightFileError for a file of which these text encoders have nothing."""
    values = owner.state_dict(keep_vars=True).values()
    for recording in recordings:
        if any(map(recording.knows, values)):
            continue
        name, path = type(owner).__name__, recording.header.path
        if not any(comfy.sd.detect_te_model(each) for each in _tensors_of(recording)):
            raise another_kind(recording.header, f"a text encoder of {name}")
        raise WeightFileError(
            f"{path} is none of the text encoders of {name}, or another file has it too. Leave it out, or choose the "
            "model that it is for in `type`."
        )


def _tensors_of(recording: Recording) -> list[dict[str, Tensor]]:
    """The tensors of each text encoder of a file, in the names that core takes."""
    tensors = in_transformers_layout(recording.header, dict(recording.state_dict))
    found = encoders_in(tensors) or [tensors]
    for each in found:
        if _OTHER_NAME in each:
            each.setdefault("shared.weight", each[_OTHER_NAME])
    return found


def _loader() -> Callable[..., comfy.sd.CLIP]:
    """Core's loader of text encoders, with the sizes that the files have and tokenizers that were read before."""
    long_clip = comfy.text_encoders.long_clipl.model_options_long_clip

    def with_sizes(tensors: Mapping[str, Tensor], tokenizer_data: Any, options: dict[str, Any]) -> Any:
        tokenizer_data, changed = long_clip(tensors, tokenizer_data, options)
        for name, found in options_of(tensors).items():
            changed = {**changed, name: {**found, **options.get(name, {}), **changed.get(name, {})}}
        return tokenizer_data, changed

    def with_tokenizer(target: Any, *args: Any, **kwargs: Any) -> comfy.sd.CLIP:
        make = target.tokenizer
        target.tokenizer = lambda **given: _tokenizer(make, **given)
        return comfy.sd.CLIP(target, *args, **kwargs)

    names = {"comfy.text_encoders.long_clipl.model_options_long_clip": with_sizes, "comfy.sd.CLIP": with_tokenizer}
    return with_names(comfy.sd.load_text_encoder_state_dicts, names)


def _tokenizer(make: Any, embedding_directory: Sequence[str] | None, tokenizer_data: Mapping[str, Any]) -> Any:
    """A tokenizer of core's; one whose vocabulary core has is read once."""
    if any(isinstance(value, Tensor) for value in tokenizer_data.values()):
        return make(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data)
    key = make, tuple(embedding_directory or ()), repr(sorted(tokenizer_data.items()))
    found = _tokenizers.get(key)
    if found is None:
        made = make(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data)
        found = _tokenizers.put(key, made)
    return found


def encoder_options(sizes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Core's `model_options` of text encoders without values."""
    # The patcher is replaced. A device that is not the initial one keeps core from loading the model now; two that are
    # the same keep it from asking how much memory they have.
    meta = torch.device("meta")
    devices = {"load_device": meta, "offload_device": meta, "initial_device": torch.device("cpu")}
    return {"dtype": torch.float32, "custom_operations": MetaOperations, **devices, **(sizes or {})}


@contextmanager
def _variants_named(header: WeightFile) -> Iterator[None]:
    """Around core's loading of encoders: raises WeightFileError where one has other sizes than core's."""
    try:
        yield
    except RuntimeError as error:
        if not (other := OTHER_SHAPE.search(" ".join(str(error).split()))):
            raise
        raise WeightFileError(
            f"{header.path} does not fit the text encoders that ComfyUI takes it for: {other[1]} is {other[2]}, where "
            f"{other[3]} is needed. It is a variant of one (as UMT5 and T5XXL-Unchained are of T5), or it is for "
            "another model: choose the file that the diffusion model's page names, or its `type`."
        ) from error


def _kind_of(
    encoders: Sequence[tuple[WeightFile, Mapping[str, Tensor]]], kind: comfy.sd.CLIPType | None
) -> comfy.sd.CLIPType:
    """The model that encoders, each with the file that has it, are for.

    Raises WeightFileError for a file that is none, and for encoders that several models, or none, have together.
    """
    paths = " and ".join(dict.fromkeys(header.path for header, _ in encoders))
    found = [getattr(comfy.sd.detect_te_model(tensors), "name", None) for _, tensors in encoders]
    for (header, each), known in zip(encoders, found, strict=True):
        if known is None and _OPEN_CLIP not in each and (kind is None or len(found) == 1):
            raise another_kind(header, "a text encoder")
    name = None if kind is None else kind.name
    if name is None and len(found) == 1 and found[0] in SHARED:
        raise WeightFileError(
            f"{paths} is a {found[0]}, which several models have. Choose the model in `type`, or the other encoder "
            "in another input: FLUX.1 has CLIP-L (such as clip_l.safetensors) besides."
        )
    for pair, of_pair in PAIRS.items():
        if name == of_pair != "STABLE_DIFFUSION" and len(found) == 1 and found[0] in pair:
            other = next(each for each in pair if each != found[0])
            raise WeightFileError(
                f"{paths} is a {found[0]}, beside which {name} has a {other}. Choose that in another input."
            )
        if name is None and (set(found) == set(pair) or len(found) != 2 or None in found):
            return getattr(comfy.sd.CLIPType, of_pair)
    if kind is None:
        raise WeightFileError(
            f"{paths}: {' and '.join(map(str, found))} do not say which model they are for. Choose it in `type`."
        )
    return kind


def parts_of(owner: torch.nn.Module, recordings: Sequence[Recording]) -> Iterator[Part]:
    """The transformers of text encoders, and other modules with parameters beside them.

    Raises WeightFileError for one of which no file has anything, or not all.
    """
    for holder, name, module in transformers_of(owner):
        tensors = module.state_dict(keep_vars=True).values()
        known = [sum(each.knows(tensor) for tensor in tensors) for each in recordings]
        if not any(known):
            place = next(path for path, part in owner.named_modules() if part is module)
            paths = " and ".join(each.header.path for each in recordings)
            raise WeightFileError(
                f"{type(owner).__name__} has a {type(module).__name__} ({place}), of which {paths} have nothing. "
                "Choose the file that has it in another input, or another `type`."
            )
        source = recordings[known.index(max(known))]
        _drop_absent(module, source)
        yield Part(holder, name, module, weights_of(module, source, f"{type(module).__name__} ({name})"))


def transformers_of(owner: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Of text encoders: the owner of each transformer or module with parameters beside one, its name there and it."""
    for name, module in list(owner.named_children()):
        if any(isinstance(getattr(part, "transformer", None), torch.nn.Module) for part in module.modules()):
            yield from transformers_of(module)
        elif any(True for _ in module.parameters()):
            yield owner, name, module


def _drop_absent(module: torch.nn.Module, recording: Recording) -> None:
    """Take away parts of which the file has nothing: the projection of a CLIP, the eyes of a language model."""
    asked: Any = getattr(module, "get_input_embeddings", None)
    needed = asked() if asked else None
    for name, part in list(module.named_children()):
        tensors = list(part.state_dict(keep_vars=True).values())
        if tensors and part is not needed and not any(map(recording.knows, tensors)):
            setattr(module, name, None)
