"""Diffusion models from GGUF files on Vulkan GPUs and CPUs, as nodes that fit ComfyUI's own."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():  # type: ignore[no-untyped-def]  # a ComfyExtension, which only ComfyUI knows
    """Returns the extension with this pack's nodes, which are imported only now; ComfyUI calls it."""
    from .nodes.versions import require_versions

    require_versions()
    from .nodes.extension import GGMLExtension

    return GGMLExtension()
