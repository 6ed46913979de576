"""Diffusion models from GGUF files on Vulkan GPUs and CPUs, as nodes that fit ComfyUI's own."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():  # type: ignore[no-untyped-def]  # a ComfyExtension, which only ComfyUI knows
    """What ComfyUI calls for this pack's nodes; they are imported only now."""
    from .nodes.versions import refuse_what_is_too_old

    refuse_what_is_too_old()
    from .nodes.extension import GGMLExtension

    return GGMLExtension()
