"""ComfyUI and this pack inside the test's own process, imported as `main.py --cpu` would import them."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


@cache
def comfy() -> None:
    """Make `import comfy`, `import nodes` and their kin find the ComfyUI at COMFYUI_PATH, on the CPU."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    with patch.object(sys, "argv", ["main.py", "--cpu"]):
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args

        # As main.py does, before anything else: ComfyUI older than 0.27 puts another `utils` on the path later.
        import utils.extra_config  # noqa: F401


def load(name: str) -> ModuleType:
    """The pack, loaded from its folder under a name of its own and with its nodes imported, as ComfyUI does it."""
    comfy()
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    asyncio.run(extension.on_load())
    for node in asyncio.run(extension.get_node_list()):
        node.GET_SCHEMA()
    return module


@cache
def pack() -> ModuleType:
    """The one pack of this process."""
    return load("ggml_vulkan_pack")


def part(name: str) -> ModuleType:
    """A module of the pack, such as "nodes.components.lora"."""
    return importlib.import_module(f"{pack().__name__}.{name}")


def module_alone(name: str) -> ModuleType:
    """A module of the pack that needs no ComfyUI, without the 10 s that loading all nodes takes; for a new process."""
    package = ModuleType("ggml_vulkan_pack")
    package.__path__ = [str(ROOT)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{name}")


@cache
def schemas() -> dict[str, Any]:
    """The schema of every node, by node id."""
    nodes = asyncio.run(part("nodes.extension").GGMLExtension().get_node_list())
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in nodes)}
