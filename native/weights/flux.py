"""FLUX.1 diffusion models, in both namings of their GGUF files and as safetensors."""

from __future__ import annotations

from collections.abc import Iterator

from .identify import another_kind, identify
from .mapping import Scaled, affine, blocks, prefixes, under, weight_set
from .weight_file import WeightFile
from .weight_set import WeightSet

MARKER = "double_blocks.0.img_attn.qkv.weight"


def flux(header: WeightFile) -> WeightSet:
    """The parameters of comfy.ldm.flux.model.Flux; raises WeightFileError for anything but a whole FLUX.1 model."""
    found = prefixes(header, MARKER)
    if not found or "flux" not in {kind.key for kind in identify(header)}:
        raise another_kind(header, "a FLUX.1 diffusion model")
    tensors = {_parameter_name(name): tensor for name, tensor in under(header, found[0]).items()}
    optional = affine("guidance_in.in_layer", "guidance_in.out_layer")
    return weight_set(header, "FLUX.1 diffusion model", tensors, _required(tensors), optional)


def _parameter_name(name: str) -> str:
    """Files call the weights of the query and key norms `scale`."""
    return name.removesuffix("scale") + "weight" if name.endswith("_norm.scale") else name


def _required(tensors: dict[str, Scaled]) -> Iterator[str]:
    yield from affine("img_in", "txt_in")
    yield from affine("time_in.in_layer", "time_in.out_layer", "vector_in.in_layer", "vector_in.out_layer")
    for index in blocks(tensors, "double_blocks"):
        for stream in (f"double_blocks.{index}.img", f"double_blocks.{index}.txt"):
            yield from affine(f"{stream}_mod.lin", f"{stream}_attn.qkv", f"{stream}_attn.proj")
            yield from affine(f"{stream}_mlp.0", f"{stream}_mlp.2")
            yield from (f"{stream}_attn.norm.{norm}.weight" for norm in ("query_norm", "key_norm"))
    for index in blocks(tensors, "single_blocks"):
        block = f"single_blocks.{index}"
        yield from affine(f"{block}.linear1", f"{block}.linear2", f"{block}.modulation.lin")
        yield from (f"{block}.norm.{norm}.weight" for norm in ("query_norm", "key_norm"))
    yield from affine("final_layer.linear", "final_layer.adaLN_modulation.1")
