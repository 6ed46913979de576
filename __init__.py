"""Diffusion models from GGUF files on Vulkan GPUs and CPUs, as nodes that fit ComfyUI's own."""

from .nodes.versions import refuse_what_is_too_old

WEB_DIRECTORY = "./js"

refuse_what_is_too_old()


async def comfy_entrypoint():  # type: ignore[no-untyped-def]  # a ComfyExtension, which only ComfyUI knows
    """What ComfyUI calls for this pack's nodes; they are imported only now."""
    from .nodes.extension import GGMLExtension

    return GGMLExtension()
