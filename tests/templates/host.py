"""ComfyUI with all of its nodes and this pack's in this process, and the folders that templates load from."""

from __future__ import annotations

import asyncio
import logging
from functools import cache
from pathlib import Path

from tests import pack


@cache
def start() -> None:
    """As plan.py starts it, without a server."""
    pack.comfy()
    import nodes as core

    logging.disable(logging.ERROR)  # of nodes that want a server
    try:
        asyncio.run(core.init_extra_nodes(init_custom_nodes=False))
    finally:
        logging.disable(logging.NOTSET)
    for name, node in _ours().items():
        core.NODE_CLASS_MAPPINGS[name] = node


def _ours() -> dict[str, object]:
    nodes = asyncio.run(pack.part("nodes.extension").GGMLExtension().get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in nodes}


def use_folders(models: Path, inputs: Path) -> None:
    """Find models and inputs there, and nowhere else."""
    import folder_paths

    for kind, (_, extensions) in list(folder_paths.folder_names_and_paths.items()):
        folder_paths.folder_names_and_paths[kind] = ([str(models / kind)], extensions)
    folder_paths.filename_list_cache.clear()
    inputs.mkdir(parents=True, exist_ok=True)
    folder_paths.set_input_directory(str(inputs))
