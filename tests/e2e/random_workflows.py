"""Random workflows, each planned and then run by ComfyUI's own executor: what is planned is what is taken.

    COMFYUI_PATH=... python -m tests.e2e.random_workflows [--count N] [--first N]

Sequences of workflows share a runner, and nothing is freed between them. They vary sizes, batches, prompts, what a
picture begins with, masks, LoRA, the number of samplers and models, tiles, residencies and devices; every fifth
sequence is of a small model of another family. Prints what deviates, and counts.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import pack, part

from .allocation import stopping
from .any_diffusion import SMALL
from .plan_runners import runners_of_plans
from .random_graphs import DEVICES, GPU, LENGTH, Graph, Sequence, sequence

pack()
actual, planner, requests = part("nodes.planner.actual"), part("nodes.planner.planner"), part("nodes.planner.request")
client, host, extension = part("native.client.runner"), part("nodes.components.host"), part("nodes.extension")
planning, files = part("native.planning"), part("nodes.loaders.files")

import comfy.nested_tensor  # noqa: E402
import execution  # noqa: E402
import folder_paths  # noqa: E402
from comfy_extras.nodes_mask import SolidMask  # noqa: E402
from comfy_extras.nodes_primitive import Int  # noqa: E402
from comfy_extras.nodes_sd3 import EmptySD3LatentImage  # noqa: E402
from server import PromptServer  # noqa: E402

import nodes as core  # noqa: E402

MICRO = Path(__file__).parents[1] / "micro" / "models"
KIB, MIB = 1 << 10, 1 << 20
ENOUGH = 1 << 40
LATENTS = {1: (24,), 2: (8, 12), 3: (2, 8, 12)}

NODES = (
    extension.GGMLDiffusionModel, extension.GGMLTextEncoders, extension.GGMLVAE, EmptySD3LatentImage, SolidMask, Int,
)  # fmt: skip
Peaks = Mapping[str, Mapping[str, int]]  # node -> device -> bytes


class SmallInputs:
    """Conditioning and latents of a small model."""

    FUNCTION, RELATIVE_PYTHON_MODULE = "make", "nodes"
    RETURN_TYPES = ("CONDITIONING", "LATENT")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": ("STRING", {}), "batch": ("INT", {}), "tokens": ("INT", {}), "seed": ("INT", {})}}

    def make(self, kind: str, batch: int, tokens: int, seed: int) -> tuple[Any, Any]:
        small = next(each for each in SMALL if each.kind == kind)
        source, latents = torch.Generator().manual_seed(seed), _latents[kind]
        size = small.latent or LATENTS[latents.latent_dimensions]
        shapes = [(latents.latent_channels, *size), *([small.second] if small.second else [])]
        zeros = comfy.nested_tensor.NestedTensor([torch.zeros(batch, *shape) for shape in shapes])
        more: dict[str, Any] = {
            "pooled_output": torch.randn(1, small.pooled, generator=source),
            "attention_mask": torch.ones(1, tokens, dtype=torch.long),
        }
        for name, value in small.given.items():
            more[name] = torch.randn(value, generator=source) if isinstance(value, tuple) else value
        text = torch.randn(1, tokens, small.text, generator=source)
        return [[text, more]], {"samples": zeros if small.second else zeros.unbind()[0]}


class TakeLatent:
    """An output for latents; core's cannot save those of pictures with sound."""

    FUNCTION, OUTPUT_NODE, RELATIVE_PYTHON_MODULE = "take", True, "nodes"
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",)}}

    def take(self, samples: Any) -> tuple[()]:
        return ()


_latents: dict[str, Any] = {}  # formats, by kind of small model


class _NoServer:
    """Stands for ComfyUI's server, which hears of nothing."""

    client_id = last_node_id = last_prompt_id = None

    @property
    def prompt_queue(self) -> _NoServer:
        """Stands for the queue of prompts, too."""
        return self

    def get_current_queue_volatile(self) -> tuple[list[Any], list[Any]]:
        """Nothing is in it."""
        return [], []

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None


class Bench:
    """ComfyUI's executor with this pack's nodes, and the runners that compute and plan."""

    def __init__(self) -> None:
        self._runs = 0
        self.executor: Any = None
        self.real: Any = None

    @contextmanager
    def runners(self, limit: int | None = None) -> Iterator[None]:
        """New runners, of a GPU of so many bytes where that is said, and new caches of outputs."""
        self.executor = execution.PromptExecutor(
            _NoServer(), execution.CacheType.CLASSIC, {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        )
        with pytest.MonkeyPatch.context() as patch, runners_of_plans(patch, limit) as self.real:
            patch.setattr(planner, "SECONDS", 1e6)  # a busy machine is none of what is tested here
            patch.setattr(client.Runner, "run", stopping(client.Runner.run))
            try:
                yield
            finally:
                for each in host.COMFYUI.lifetimes:
                    each.unload()

    def plan(self, graph: Graph, limit: int = ENOUGH) -> Any:
        """The plan for a machine that has so many bytes of the GPU."""
        machine = planning.Machine(tuple(self.real.devices()), {"CPU": ENOUGH, GPU: limit})
        return planner.make_plan(graph, requests.PlanRequest(requests.WARN), machine=machine).plan

    def run(self, graph: Graph) -> Peaks:
        """The most that each node's models took; raises AssertionError with what a node says where one fails."""
        self._runs += 1
        name = f"run {self._runs}"
        gc.collect()  # as ComfyUI's worker does between prompts (main.py, prompt_worker)
        types = {node: core.NODE_CLASS_MAPPINGS[each["class_type"]] for node, each in graph.items()}
        outputs = [node for node, type_ in types.items() if getattr(type_, "OUTPUT_NODE", False)]
        self.executor.execute(graph, name, {}, outputs)
        failures = [data for event, data in self.executor.status_messages if event == "execution_error"]
        assert self.executor.success, [(each["node_type"], each["exception_message"]) for each in failures]
        run = actual._runs.get(name)
        return run.own if run else {}


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """A Bench with the micro models; it writes into a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.COMFYUI, "observer", actual.OBSERVER)
        patch.setattr(PromptServer, "instance", _NoServer(), raising=False)
        for node in NODES:
            patch.setitem(core.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
        for each in (SmallInputs, TakeLatent):
            patch.setitem(core.NODE_CLASS_MAPPINGS, each.__name__, each)
        for kind in ("diffusion_models", "text_encoders", "vae", "loras"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for key in {kind, files.GGUF_FOLDERS.get(kind, kind)}:
                _, extensions = folder_paths.folder_names_and_paths[key]
                places = ([str(MICRO / kind), str(folder / kind)], extensions)
                patch.setitem(folder_paths.folder_names_and_paths, key, places)
        patch.setattr(folder_paths, "filename_list_cache", {})
        patch.setattr(folder_paths, "temp_directory", str(folder / "temp"))
        patch.setattr(folder_paths, "output_directory", str(folder / "output"))
        yield Bench()


@contextmanager
def family(chosen: Sequence, folder: Path) -> Iterator[None]:
    """The file of a sequence's small model, and core's detection of it."""
    small = chosen.small
    if small is None:
        yield
        return
    path = folder / "diffusion_models" / f"{small.kind}.safetensors"
    save_file({name: value.contiguous() for name, value in small.tensors().items()}, path, small.metadata)
    with small.detection():
        _latents[small.kind] = _format_of(path)
        yield
    path.unlink()


def _format_of(path: Path) -> Any:
    loader, weights = part("nodes.loaders.diffusion"), part("native.weights")
    return loader.load_diffusion(weights.read_header(path), "CPU").model.latent_format


@dataclass(frozen=True)
class Deviation:
    """A phase, or the whole (node ""), that took other bytes of a device than planned."""

    sequence: int
    workflow: int
    node: str
    device: str
    planned: int
    measured: int
    warm: int = 0  # bytes of models that workflows before it left there, and that compute in a later phase

    @property
    def beyond(self) -> bool:
        """Whether it is more than 1 % and 16 MiB, or, as these models are small, than 1 % and 64 KiB too little."""
        off = self.measured - self.planned
        off -= min(max(off, 0), self.warm)
        return abs(off) > self.planned // 100 + 16 * MIB or off > self.planned // 100 + 64 * KIB

    def __str__(self) -> str:
        where = f"sequence {self.sequence}, workflow {self.workflow}, node {self.node or 'all'} on {self.device}"
        return f"{where}: planned {self.planned / MIB:.2f} MiB, measured {self.measured / MIB:.2f}"


def compared(chosen: Sequence, number: int, plan: Any, taken: Peaks, before: Any) -> list[Deviation]:
    """Each phase and the whole, where they are not as planned to the byte; before: the models that were loaded."""
    assert plan.shortage is None, plan.shortage
    assert not plan.gaps, plan.gaps
    planned: dict[tuple[str, str], int] = {}
    for phase in plan.phases:
        for device, nbytes in phase.peak.items():
            planned[phase.node, device] = max(nbytes, planned.get((phase.node, device), 0))
    measured = {(node, device): nbytes for node, peaks in taken.items() for device, nbytes in peaks.items()}
    for amounts in (planned, measured):
        for device in DEVICES:
            amounts["", device] = max((n for (_, on), n in amounts.items() if on == device), default=0)
    return [
        Deviation(chosen.number, number, node, device, planned.get((node, device), 0), measured.get((node, device), 0),
                  _warm(plan, node, device, before))
        for node, device in sorted(planned.keys() | measured.keys())
        if planned.get((node, device), 0) != measured.get((node, device), 0)
    ]  # fmt: skip


def _warm(plan: Any, node: str, device: str, before: Any) -> int:
    """Bytes on a device of loaded models that the plan has there only after a node; 0 for the whole."""
    phases = [{_placed(each.memory) for each in phase.components} for phase in plan.phases]
    last = max((n for n, phase in enumerate(plan.phases) if phase.node == node), default=len(phases))
    later = set().union(*phases[last + 1 :]) - set().union(*phases[: last + 1])
    return sum(each.weight_bytes + each.arrays for each in before if each.device == device and _placed(each) in later)


def _placed(model: Any) -> tuple[Any, ...]:
    return model.digest, model.device, model.copied, model.streamed


@dataclass
class Outcome:
    """Of sequences: workflows that ran, and what deviated; with budgets, how many were accepted and refused."""

    workflows: int = 0
    deviations: list[Deviation] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)  # accepted that failed, refused that ran


def play(bench: Bench, chosen: Sequence, outcome: Outcome) -> None:
    """Plan and run every workflow of a sequence."""
    with bench.runners():
        for number, graph in enumerate(chosen.graphs):
            plan, before = bench.plan(graph), bench.real.memory().models
            outcome.deviations += compared(chosen, number, plan, bench.run(graph), before)
            outcome.workflows += 1


def with_budgets(bench: Bench, chosen: Sequence, outcome: Outcome) -> None:
    """The last workflow of a sequence that uses the GPU, on one that has the planned peak, and on smaller ones."""
    with bench.runners():
        peaks = [bench.plan(graph).peaks[GPU] for graph in chosen.graphs]
    used = [number for number, peak in enumerate(peaks) if peak]
    if not used:
        return
    graph, peak = chosen.graphs[used[-1]], peaks[used[-1]]
    for limit in (peak, peak - 1, peak // 2):
        with bench.runners(limit):
            plan = bench.plan(graph, limit)
            try:
                bench.run(graph)
                failure = ""
            except AssertionError as error:
                failure = str(error)
        fits = plan.shortage is None
        outcome.accepted += fits
        outcome.refused += not fits
        if fits is bool(failure):
            verdict = "accepted" if fits else "refused"
            outcome.wrong.append(f"sequence {chosen.number}, workflow {used[-1]}, {limit} bytes: {verdict}; {failure}")


def main() -> None:
    """Plays sequences and prints what deviates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, metavar="N", help="of workflows")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first sequence")
    options = parser.parse_args()
    outcome = Outcome()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = stack.enter_context(bench(folder))
        for number in range(options.first, options.first + -(-options.count // LENGTH)):
            chosen, known = sequence(number), len(outcome.deviations)
            with family(chosen, folder):
                play(made, chosen, outcome)
                with_budgets(made, chosen, outcome)
            for deviation in outcome.deviations[known:]:
                print(f"beyond the bound: {deviation}" if deviation.beyond else deviation)
            print(f"{outcome.workflows} workflows, {len(outcome.deviations)} deviations, {outcome.accepted} accepted, "
                  f"{outcome.refused} refused, wrong: {outcome.wrong}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
