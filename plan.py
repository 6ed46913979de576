"""Plans the memory of a workflow on this machine or another card, without running it: plan.py WORKFLOW.json --help.

Runs with ComfyUI's own Python, from this pack's folder in custom_nodes; elsewhere COMFYUI_PATH says where ComfyUI is.
What stands behind `--` are ComfyUI's own arguments, such as --base-directory.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import sys
from itertools import chain
from pathlib import Path

PACK = Path(__file__).resolve().parent
NAME = "ggml_vulkan_pack"


def main() -> int:
    """Start as much of ComfyUI as planning needs, and plan."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", PACK.parents[1]))
    if not (comfyui / "folder_paths.py").is_file():
        print(f"{comfyui} is no ComfyUI: set COMFYUI_PATH to the folder that has its main.py.", file=sys.stderr)
        return 2
    arguments = sys.argv[1:]
    behind = arguments.index("--") if "--" in arguments else len(arguments)
    sys.argv = ["main.py", "--cpu", *arguments[behind + 1 :]]
    sys.path[0] = str(comfyui)  # instead of this folder, whose `nodes` is not ComfyUI's
    logging.disable(logging.WARNING)  # of nodes that want a server
    import comfy.options

    comfy.options.enable_args_parsing()
    asyncio.run(_start(comfyui))
    logging.disable(logging.NOTSET)
    return int(importlib.import_module(f"{NAME}.nodes.planner.command").run(arguments[:behind]))


async def _start(comfyui: Path) -> None:
    """ComfyUI's nodes and this pack's, and the folders that main.py would add."""
    import utils.extra_config
    from comfy.cli_args import args

    import nodes

    usual = comfyui / "extra_model_paths.yaml"
    named = chain.from_iterable(args.extra_model_paths_config or [])
    for paths in (*([usual] if usual.is_file() else []), *named):
        utils.extra_config.load_extra_path_config(str(paths))
    await nodes.init_extra_nodes(init_custom_nodes=False)
    spec = importlib.util.spec_from_file_location(NAME, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    for node in await extension.get_node_list():
        nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node


if __name__ == "__main__":
    sys.exit(main())
