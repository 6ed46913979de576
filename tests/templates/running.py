"""Templates run small in a real ComfyUI, with core's loaders and with ours, on the same random models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from tests import comfy_server, pack
from tools.server import link_folder

from . import host, inputs, planning, small_files, small_prompts
from .comparing import Kept, Unlike, alike, is_finite
from .packages import Template
from .report import ALIKE

_SIZE = inputs.Size(small_prompts.SIDE, small_prompts.SIDE, 2 * small_prompts.FRAMES - 1)
# The attention that core has on a GPU: its other one adds a mask of truth values to the scores as ones.
_AS_ON_GPUS = ("--use-pytorch-cross-attention",)
_NODES, _COUNTING = (Path(__file__).parent / name for name in ("server_nodes", "counting_nodes"))
_PRODUCTS = "/test/products"
_LONGEST = 300  # characters of a failure


class Runs:
    """Runs templates one after another in one server, which is started when it is needed and again after a failure.

    folder: of small models, inputs and the server's own files, kept there. device: of all our models.
    size: of what is loaded. Where it counts, products says where ComfyUI's process multiplied by torch, and how often,
    in the last run of core's and of ours, and placed on which device each model of ours was after it.
    """

    def __init__(self, folder: Path, device: str = "CPU", counts: bool = False, size: inputs.Size = _SIZE) -> None:
        self.products: dict[str, dict[str, int]] = {}
        self.placed: list[tuple[str, str]] = []
        self._base, self._device, self._counts, self._size = folder / "server", device, counts, size
        self._client: comfy_server.Client | None = None
        self._open = ExitStack()

    def close(self) -> None:
        """Ends the server."""
        self._client = None
        self._open.close()

    def run(self, template: Template, result: planning.Result) -> None:
        """Runs a template both ways and notes how far the results are apart."""
        self._run(template, result)
        result.why = list(dict.fromkeys(result.why))

    def _run(self, template: Template, result: planning.Result) -> None:
        host.start()
        if (prompt := planning.opened(template, result)) is None:
            return
        missing = small_files.write_small(self._base / "models", template.files_of(prompt))
        host.use_folders(self._base / "models", self._base / "input")
        if missing:
            result.why += missing.values()
            return
        prompt, ours = prompts(prompt, result, self._device)
        inputs.write_inputs(prompt, self._base / "input", self._size)
        if not any(node["class_type"].startswith("GGML") for node in ours.values()):
            result.why.append("no model of it is computed by this pack")
            return
        try:
            expected, classes = self._kept(prompt, "core")
            without = [name for name, each in zip(classes, expected, strict=True) if not all(map(is_finite, each))]
            if without:
                raise Unlike(f"its results have values that are no numbers, in {', '.join(dict.fromkeys(without))}")
        except (*_FAILURES, Unlike) as failure:
            self._failed(failure, result, "core's own small run")
            return
        result.run = False
        try:
            found, classes = self._kept(ours, "ours")
            result.run = True
            each = [alike(*pair) for pair in zip(found, expected, strict=True)]
            result.equal = min(each)
            if result.equal < ALIKE:
                apart = {name: f"{value:.0f}" for name, value in zip(classes, each, strict=True)}
                result.why.append(f"unlike core, dB: {', '.join(f'{name} {value}' for name, value in apart.items())}")
        except (*_FAILURES, Unlike) as failure:
            self._failed(failure, result, "run small")

    def _kept(self, prompt: Mapping[str, Any], beginning: str) -> tuple[list[Kept], list[str]]:
        """The results of a run, and the classes of the nodes that they are from."""
        if self._client is None:
            nodes = {"small-models": _NODES, **({"counting": _COUNTING} if self._counts else {})}
            self._client = self._open.enter_context(_serving(self._base, nodes))
        client = self._client
        client.send("/free", {"unload_models": True, "free_memory": True})
        keeping, classes = small_prompts.keeping(prompt, _classes(), beginning)
        if self._counts:
            client.get(_PRODUCTS)
        job = client.run(keeping)
        if self._counts:
            self.products[beginning] = client.get(_PRODUCTS)
            models = (client.get("/ggml/health")["memory"] or {}).get("models", ())
            self.placed = sorted((each["name"], each["device"]) for each in models)
        names = sorted(name for output in job.outputs.values() for name in output.get("kept", ()))
        paths = [client.server.output / name for name in names]
        kept = [torch.load(path, weights_only=True) for path in paths]
        for path in paths:
            path.unlink()
        return kept, classes

    def _failed(self, failure: Exception, result: planning.Result, what: str) -> None:
        result.why.append(f"{what}: {' '.join(str(failure).split())[:_LONGEST] or type(failure).__name__}")
        if not isinstance(failure, comfy_server.JobFailed | comfy_server.Refused | Unlike):
            with contextlib.suppress(OSError):
                self.close()


_FAILURES = (comfy_server.JobFailed, comfy_server.Refused, comfy_server.Interrupted, OSError)  # of which TimeoutError


@contextmanager
def _serving(base: Path, nodes: Mapping[str, Path]) -> Iterator[comfy_server.Client]:
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    for name, folder in nodes.items():
        link_folder(base / "custom_nodes" / name, folder)
    with comfy_server.running(base, base / "models", "--disable-metadata", *_AS_ON_GPUS) as client:
        yield client


def prompts(
    prompt: Mapping[str, Any], result: planning.Result, device: str = "CPU"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The prompt made small, with core's loaders and with ours: all models on the device, by ggml."""
    small = small_prompts.smaller(prompt, _classes())
    converted = planning.converted(small, result)
    schemas = pack.schemas()
    ours = {}
    for key, node in converted.items():
        schema = schemas.get(node["class_type"])
        known = {each.id for each in schema.inputs} if schema else set()
        said = {name: device for name in known if name == "device" or name.endswith("_device")}
        said |= {"engine": "ggml"} if "engine" in known else {}
        ours[key] = {**node, "inputs": {**node["inputs"], **said}}
    return small, ours


def _classes() -> Mapping[str, Any]:
    import nodes as core

    return dict(core.NODE_CLASS_MAPPINGS)
