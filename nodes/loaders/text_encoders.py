"""GGML Text Encoders: files of text encoders to the CLIP of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SDClipModel
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.flux import FluxClipModel, FluxTokenizer
from comfy.text_encoders.t5 import T5
from comfy_api.latest import io

from ...native.placement import AUTO, CPU, MIB, Placement, as_placement
from ...native.weights import WeightFile, WeightFileError, WeightSet, clip_l, identify, read_header, t5
from ..components.build import Part, text_encoders
from ..components.component import MetaOperations
from ..components.encoder import encoder
from ..components.patcher import ComponentPatcher
from .device_inputs import check_device, companion_device, device_options, load_device, residency_inputs
from .files import NONE, fingerprint, model_names, model_path, part_names, shape_errors_named
from .found import found, say

T5_TOKENS = 32128
CLIP_HEAD = 64  # channels per attention head in every CLIP-L
TYPES = (AUTO, "sdxl", *(kind.name.lower() for kind in comfy.sd.CLIPType))  # as core's CLIP loaders name them
NEEDED = {"t5": "T5-XXL (such as t5-v1_1-xxl-encoder-Q8_0.gguf)", "clip_l": "CLIP-L (such as clip_l.safetensors)"}
LOSSY = ("Q2_", "Q3_", "Q4_", "Q1_", "IQ", "TQ", "MXFP4", "NVFP4")


def t5_config(weights: WeightSet) -> dict[str, Any]:
    """The sizes of a T5 encoder, from the shapes of its tensors, as comfy/text_encoders/t5_config_xxl.json has them."""
    shapes = {name: parameter.shape for name, parameter in weights.parameters.items()}
    attention, feed_forward = "encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense"
    heads = shapes[f"{attention}.relative_attention_bias.weight"][1]
    gated = f"{feed_forward}.wi_0.weight" in shapes
    return {
        "model_type": "t5",
        "vocab_size": shapes["shared.weight"][0],
        "d_model": shapes["shared.weight"][1],
        "num_layers": len({name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}),
        "num_heads": heads,
        "d_kv": shapes[f"{attention}.q.weight"][0] // heads,
        "d_ff": shapes[f"{feed_forward}.wo.weight"][1],
        "is_gated_act": gated,
        "dense_act_fn": "gelu_pytorch_tanh" if gated else "relu",
    }


def clip_config(weights: WeightSet) -> dict[str, Any]:
    """The sizes of a CLIP-L encoder, from the shapes of its tensors, as comfy/sd1_clip_config.json has them."""
    shapes = {name: parameter.shape for name, parameter in weights.parameters.items()}
    positions, width = shapes["text_model.embeddings.position_embedding.weight"]
    return {
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[3] for name in shapes if ".encoder.layers." in name}),
        "num_attention_heads": max(1, width // CLIP_HEAD),
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "hidden_act": "quick_gelu",
        "max_position_embeddings": positions,
        "eos_token_id": 49407,
    }


def _clip_transformer(config: dict[str, Any], weights: WeightSet) -> CLIPTextModel:
    """CLIP-L without values; config: as comfy/sd1_clip_config.json."""
    core = CLIPTextModel(config, torch.float32, "meta", MetaOperations)
    if "text_projection.weight" not in weights.parameters:
        core.text_projection = torch.nn.Identity()
    return core


class FluxTextEncoders(FluxClipModel):
    """Core's FLUX.1 text encoders with their transformers in the runner."""

    def __init__(self, clip: WeightSet, t5xxl: WeightSet, placement: Placement) -> None:
        """clip, t5xxl: the weights of CLIP-L and T5.

        Raises WeightFileError when either's tensors are not all of an encoder.
        """
        torch.nn.Module.__init__(self)
        self.dtypes = {torch.float32}
        with shape_errors_named(clip):
            self.clip_l = SDClipModel(
                textmodel_json_config=clip_config(clip),
                model_class=lambda config, *_: encoder(_clip_transformer(config, clip), clip, placement),
                return_projected_pooled=False,
            )
        with shape_errors_named(t5xxl):
            self.t5xxl = SDClipModel(
                textmodel_json_config=t5_config(t5xxl),
                model_class=lambda config, *_: encoder(
                    T5(config, torch.float32, "meta", MetaOperations), t5xxl, placement
                ),
                special_tokens={"end": 1, "pad": 0},
            )


def read_encoders(headers: Sequence[WeightFile]) -> dict[str, WeightSet]:
    """The weights of each encoder, by the key `identify` gives it.

    Raises WeightFileError for files that are no encoders of FLUX.1, or not one of each.
    """
    readers = {"t5": t5, "clip_l": clip_l}
    found: dict[str, WeightSet] = {}
    for header in headers:
        kinds = [kind.key for kind in identify(header) if kind.key in readers]
        if not kinds:
            t5(header)  # raises, and says what the file is
        for key in kinds:
            if key in found:
                raise WeightFileError(
                    f"{header.path} and {found[key].files[0][0]} are both a {found[key].name}. FLUX.1 takes one T5-XXL "
                    "and one CLIP-L: leave one of the two out."
                )
            found[key] = readers[key](header)
    for key, name in NEEDED.items():
        if key not in found:
            paths = ", ".join(header.path for header in headers)
            raise WeightFileError(
                f"FLUX.1 needs two text encoders, and {paths} holds no {name}. Choose one in another input."
            )
    tokens = found["t5"].parameters["shared.weight"].shape[0]
    if tokens != T5_TOKENS:
        raise WeightFileError(
            f"{found['t5'].files[0][0]} has {tokens:,} tokens in its vocabulary, FLUX.1's T5-XXL {T5_TOKENS:,}: it is "
            "another model, such as Wan's UMT5, and would draw nonsense. Choose a T5-XXL v1.1, or in `type` the "
            "model that this encoder is for."
        )
    return found


def lossy(weights: WeightSet) -> str | None:
    """The type most bytes of an encoder are stored in, where it is one that loses the prompt; else None."""
    bytes_by_type: Counter[str] = Counter()
    for parameter in weights.parameters.values():
        bytes_by_type[parameter.stored] += parameter.nbytes
    stored = bytes_by_type.most_common(1)[0][0]
    return stored if stored.startswith(LOSSY) else None


def tokenizer(embedding_directory: list[str], positions: int, **_: Any) -> FluxTokenizer:
    """A tokenizer of FLUX.1 for one CLIP; its vocabularies, which take half a second to read, are those of all.

    positions: tokens that its CLIP-L takes at once, 77 or LongCLIP's 248.
    """
    own = copy(_vocabularies(tuple(embedding_directory)))
    own.clip_l, own.t5xxl = copy(own.clip_l), copy(own.t5xxl)
    own.clip_l.max_length = positions
    return own


@lru_cache(maxsize=1)
def _vocabularies(embedding_directory: tuple[str, ...]) -> FluxTokenizer:
    return FluxTokenizer(list(embedding_directory))


def load_encoders(clip: WeightSet, t5xxl: WeightSet, placement: Placement | str) -> comfy.sd.CLIP:
    """A CLIP for FLUX.1, computed where `placement` says."""
    placement = as_placement(placement)
    torch_device = load_device(placement.device)
    positions = clip.parameters["text_model.embeddings.position_embedding.weight"].shape[0]
    target = ClipTarget(partial(tokenizer, positions=positions), lambda **_: FluxTextEncoders(clip, t5xxl, placement))
    loaded = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        # Where it is "initially" differs from where it is loaded, or the constructor would load it there and then.
        model_options={"load_device": torch_device, "initial_device": torch.device("meta"), "dtype": torch.float32},
        disable_dynamic=True,
    )
    _patch(loaded, torch_device)
    return loaded


def encoders_of(
    clip_name1: str,
    device: str,
    clip_name2: str = NONE,
    clip_name3: str = NONE,
    weights: str = AUTO,
    budget: int = 0,
    engine: str = AUTO,
    type: str = AUTO,  # noqa: A002  # as the input is called
    clip_name4: str = NONE,
) -> tuple[comfy.sd.CLIP, list[WeightSet]]:
    """The CLIP of the node's inputs, and the weights of each encoder."""
    names = [name for name in (clip_name1, clip_name2, clip_name3, clip_name4) if name != NONE]
    placement = Placement(companion_device(device), weights, budget * MIB, engine)
    headers = [read_header(model_path("text_encoders", name)) for name in names]
    if type == "flux" or (type == AUTO and all(_is_of_flux(header) for header in headers)):
        found = read_encoders(headers)
        clip, held = load_encoders(found["clip_l"], found["t5"], placement), list(found.values())
    else:
        clip, held = load_any_encoders(headers, type, placement)
    return clip, held


def found_clip(clip: comfy.sd.CLIP, encoders: Sequence[WeightSet]) -> str:
    """A CLIP in words."""
    return found(type(clip.cond_stage_model).__name__, encoders)


def lossy_warnings(encoders: Iterable[WeightSet]) -> list[str]:
    """Warnings for the user of text encoders that lose the prompt."""
    return [
        f"{encoder.files[0][0]} is stored as {stored}: a text encoder below Q5 loses much of the prompt. "
        "Use Q5_K_M, Q8_0, F16 or FP8."
        for encoder in encoders
        if (stored := lossy(encoder))
    ]


def _is_of_flux(header: WeightFile) -> bool:
    """Whether a file holds one of FLUX.1's encoders."""
    return any(kind.key in NEEDED for kind in identify(header))


def load_any_encoders(
    headers: list[WeightFile], model: str, placement: Placement, sizes: dict[str, Any] | None = None
) -> tuple[comfy.sd.CLIP, list[WeightSet]]:
    """A CLIP of the encoders that core knows, computed where `placement` says, and the weights of each.

    model: one of TYPES; sdxl is what core takes without one. sizes: as text_encoders has it.
    """
    kind = None if model == AUTO else getattr(comfy.sd.CLIPType, model.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    clip, parts = text_encoders(headers, kind, sizes)
    place_encoders(clip, parts, placement)
    return clip, [part.weights for part in parts]


def place_encoders(clip: comfy.sd.CLIP, parts: Iterable[Part], placement: Placement) -> None:
    """Have the modules of core's CLIP computed where `placement` says."""
    for part in parts:
        setattr(part.owner, part.name, encoder(part.core, part.weights, placement))
    _patch(clip, load_device(placement.device))


def _patch(clip: comfy.sd.CLIP, device: torch.device) -> None:
    """Give a CLIP the patcher of components."""
    clip.cond_stage_model.device = torch.device("cpu")
    clip.patcher = ComponentPatcher(clip.cond_stage_model, device, torch.device("cpu"))
    clip.patcher.hook_mode = comfy.hooks.EnumHookMode.MinVram
    clip.patcher.is_clip = True


class GGMLTextEncoders(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        names = model_names("text_encoders")
        return io.Schema(
            node_id="GGMLTextEncoders",
            display_name="GGML Text Encoders",
            category="loaders/GGML",
            description="Loads the text encoders of any model that ComfyUI knows from GGUF or safetensors files.",
            search_aliases=["GGUF", "CLIP loader", "T5", "DualCLIPLoader", "Vulkan", "AMD", "low VRAM", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "clip_name1", options=names,
                    tooltip="A file with a text encoder, such as T5-XXL or CLIP-L for FLUX.1, in any order. Take Q5 or "
                    "better: below that much of the prompt is lost.",
                ),
                io.Combo.Input(
                    "clip_name2", options=[NONE, *part_names("text_encoders")], default=NONE, optional=True,
                    tooltip="The other encoder, for models that have two, the vision tower (mmproj) of a language "
                    "model in GGUF, or the checkpoint that has the rest of it, as LTX-2's. Leave it on none if the "
                    "first file holds all.",
                ),
                io.Combo.Input(
                    "clip_name3", options=[NONE, *names], default=NONE, optional=True, advanced=True,
                    tooltip="A third encoder, for models that have one, such as SD3. Else leave it on none.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=CPU,
                    tooltip="Where the encoders compute. auto: the CPU, which leaves the GPU to the diffusion model. "
                    "They are faster on a GPU.",
                ),
                *residency_inputs(),
                io.Combo.Input(
                    "type", options=list(TYPES), default=AUTO, optional=True,
                    tooltip="Which model the encoders are for, as in ComfyUI's own CLIP loaders. auto: FLUX.1 for T5 "
                    "and CLIP-L, else what ComfyUI takes such a file for. T5 alone needs it, as many models have it.",
                ),
                io.Combo.Input(
                    "clip_name4", options=[NONE, *names], default=NONE, optional=True, advanced=True,
                    tooltip="A fourth encoder, for HiDream, which has CLIP-L, CLIP-G, T5-XXL and Llama"
                    ". Else leave it on none.",
                ),
            ],
            outputs=[io.Clip.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(cls, device: str, engine: str = AUTO) -> bool | str:
        """Whether this machine has the device."""
        return await check_device(device, engine)

    @classmethod
    def fingerprint_inputs(
        cls, clip_name1: str, clip_name2: str = NONE, clip_name3: str = NONE, clip_name4: str = NONE, **_: Any
    ) -> Any:
        """Changes with the files."""
        return fingerprint("text_encoders", (clip_name1, clip_name2, clip_name3, clip_name4))

    @classmethod
    def execute(
        cls,
        clip_name1: str,
        device: str,
        clip_name2: str = NONE,
        clip_name3: str = NONE,
        weights: str = AUTO,
        budget: int = 0,
        engine: str = AUTO,
        type: str = AUTO,  # noqa: A002
        clip_name4: str = NONE,
    ) -> io.NodeOutput:
        """Reads the headers; weights are read when the first prompt is encoded."""
        clip, held = encoders_of(clip_name1, device, clip_name2, clip_name3, weights, budget, engine, type, clip_name4)
        say(cls, [found_clip(clip, held)], lossy_warnings(held))
        return io.NodeOutput(clip)
