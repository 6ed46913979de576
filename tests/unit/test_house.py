"""The layout of the pack: imports go down, words are the field's, files have one subject, docstrings are no riddles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACK = sorted(chain.from_iterable((ROOT / name).rglob("*.py") for name in ("native", "nodes")))
ALL = sorted(
    [
        *PACK,
        *(ROOT / "tools").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        ROOT / "dev.py",
        ROOT / "install.py",
        ROOT / "plan.py",
    ]
)

# From the lowest floor to the highest: a module imports from its own floor and from those below.
FLOORS = """
native native.placement native.errors native.lru native.ggml_types native.quota native.heap
native.threads native.process native.ggml_build
native.program
native.weights
native.wire
native.output_check
native.runner native.runner.ggml_binding native.runner.process_memory native.runner.cpu_cores
native.runner.device
native.runner.weight_memory
native.runner.graph
native.runner.store
native.runner.dry_run
native.runner.service
native.runner.serve
native.runner.__main__
native.client
native.card
native.trace
native.lower.strides native.lower.host native.lower.storages
native.lower.constants native.lower.grids
native.lower.passes
native.lower.lowering
native.lower.handlers
native.lower.islands
native.lower.walk
native.lower
native.planning
native.stored
native.engines.model native.engines.kept native.engines.shortest
native.engines.ggml
native.engines.torch_cpu
native.engines.cpu_benchmark
native.engines.dry_run
native.engines.choose
native.engines
native.llm
nodes nodes.node_text nodes.settings nodes.versions
nodes.components
nodes.loaders
nodes.language
nodes.devices nodes.card_check
nodes.planner
nodes.web
nodes.extension
"""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.strip().splitlines()) for room in rooms.split()}
# The two processes share the wire and nothing else.
APART = [("native.client", "native.runner"), ("native.runner", "native.client"), ("native.runner", "torch"),
         ("native.client", "ggml"), ("native.wire", "torch")]  # fmt: skip

# Words that the field does not use for these things, with those that it does.
RETIRED = {
    r"Remote(Model|Module|Patcher|VAE)\b": "GgmlModel, Component, ComponentPatcher, ComponentVAE",
    r"(?i)rehears": "dry run",
    r"StandIn|stand_in": "CountingDevice",
    r"\bspoken": "to_wire, describe, row_text",
    r"sizes_of": "shape_errors_named",
    r"\bgave_back|\bgive_back|\blet_go|\bmake_way": "free, unload, evict",
    r"\bobituary|\blast_words|\b_mourn": "exit_report",
    r"\bCancelled\b|\bcancelled\b|\bAborted\b|\baborted\b": "interrupted",
    r"\bWatcher\b|\bwatcher\b": "observer",
    r"\bwide_bytes\b|\bWIDE_SCALE\b": "chunk_threshold_bytes, F16_OVERFLOW_SCALE",
    r"\bImagined\b|\bFacts\b|\bOutside\b": "DeviceInfo, ExternalModel",
    r"\bMeasurement\b": "Estimate",
    r"\bsmall_window\b": "small_bar",
    r"\btorch_shape_to_ne\b|\b_weight_ne\b": "ne_of",
    r"(?<!Tag\.)\bpointwise\b": "elementwise",
    r"\bFrugal\b|\bFollowing\b|\basked_of\b|\bAsked\b": "SizeGuard, NodeTurn, request_of, PlanRequest",
    r"\b_?retire\b|\brelease_orphans\b": "unload, evict",
}  # fmt: skip

LEAST, MOST = 80, 400  # lines of a file with one subject
SMALL = {  # why a file may be shorter: those files
    "what all share, with no place further up": """
        native/errors.py native/ggml_build.py native/heap.py native/lru.py native/output_check.py native/placement.py
        native/device_entries.py native/threads.py
    """,
    "imported where nothing else may be: before the pipes are taken, or in llama.cpp's child": """
        native/process/job_object.py native/process/startup.py native/runner/cpu_cores.py native/llm/serve.py
        native/llm/task.py native/runner/serve.py
    """,
    "one way into another's list or record: of core's adapters, of a trace's steps": """
        native/trace/known.py native/trace/module_part.py nodes/components/peft_dora.py
    """,
    "one type, or one table, that many import": """
        native/llm/server_models.py native/program/tensor.py
        native/card/peaks.py native/weights/codes.py native/weights/foreign.py
        nodes/planner/unknown.py native/wire/turn.py
        nodes/conversion/report.py
    """,
    "one algorithm": """
        native/card/compare.py native/card/memory.py
        native/engines/kept.py native/engines/shortest.py native/planning/seconds.py
        native/program/schedule.py
        native/lower/grids.py native/lower/passes/fuse.py native/lower/passes/rewriter.py native/trace/meta_kernels.py
        native/runner/graph/call.py native/runner/graph/profile.py
        native/runner/graph/segments.py native/runner/graph/sources.py
        native/runner/weight_memory/arrays.py nodes/components/call_arguments.py
        nodes/components/encoder_sizes.py
        nodes/components/core_function.py nodes/components/latent_axes.py nodes/components/memory_weights.py
        nodes/components/not_finite.py nodes/loaders/found.py nodes/loaders/small_vaes.py nodes/planner/chart.py
        nodes/planner/lora_files.py nodes/planner/order.py nodes/planner/tracking.py nodes/planner/value_lists.py
    """,
    "handlers of one kind of operation": """
        native/lower/handlers/linear_algebra.py native/lower/handlers/rounding.py
    """,
    "one side of a seam": """
        nodes/components/depth_anything.py nodes/components/diffusion.py nodes/components/text_writer.py
        nodes/conversion/wanted.py
        native/client/tensors.py native/engines/choose.py native/llm/answer.py
        native/card/page.py native/runner/ggml_binding.py native/runner/process_memory.py
        nodes/language/patcher.py
    """,
    "one node, or an entry of ComfyUI": """
        nodes/devices.py nodes/language/chat.py nodes/loaders/audio_encoder.py
        nodes/loaders/background_removal.py nodes/loaders/clip_vision.py nodes/loaders/controlnet.py
        nodes/loaders/depth_anything.py nodes/loaders/frame_interpolation.py nodes/loaders/moge.py
        nodes/loaders/latent_upscale_model.py nodes/loaders/model_patch.py nodes/loaders/move.py
        nodes/loaders/optical_flow.py nodes/loaders/upscale_model.py nodes/node_text.py nodes/planner/command.py
        nodes/planner/json_body.py nodes/settings.py nodes/versions.py
    """,
}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PACK}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file of the pack imports, those of others by their first name."""
    name = module(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def edges() -> Iterator[tuple[str, str]]:
    """Every import of the pack: who, and of what."""
    return ((name, other) for name, path in MODULES.items() for other in imports(path))


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def floor(name: str) -> int:
    """The floor of a module: its own, or that of the nearest folder around it."""
    while name not in FLOOR:
        name = name.rpartition(".")[0]
    return FLOOR[name]


def test_every_room_is_there() -> None:
    assert set(FLOOR) <= set(MODULES) | {module(path.parent) for path in PACK}


def test_imports_go_down() -> None:
    up = [(name, other) for name, other in edges() if other in MODULES and floor(other) > floor(name)]
    assert not up


def test_the_two_processes_share_the_wire_alone() -> None:
    crossing = [
        (name, other) for name, other in edges() for here, there in APART if within(name, here) and within(other, there)
    ]
    assert not crossing


def test_no_file_imports_itself_in_a_circle() -> None:
    waiting = {name: {other for other in imports(path) if other in MODULES and other != name}
               for name, path in MODULES.items() if path.name != "__init__.py"}  # fmt: skip
    waiting = {name: others & waiting.keys() for name, others in waiting.items()}
    while free := [name for name, others in waiting.items() if not others]:
        for name in free:
            del waiting[name]
        waiting = {name: others - set(free) for name, others in waiting.items()}
    assert not waiting, f"in circles: {sorted(waiting)}"


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_retired(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in PACK
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(word, line)
    ]
    assert not found, f"say {RETIRED[word]}:\n" + "\n".join(found)


def test_a_file_holds_one_subject() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in PACK}
    counted = {name: count for name, count in lines.items() if not name.endswith(("__init__.py", "__main__.py"))}
    small = {name for name, count in counted.items() if count < LEAST}
    assert not {name: count for name, count in counted.items() if count > MOST}
    named = set(" ".join(SMALL.values()).split())
    assert small == named, (sorted(small - named), sorted(named - small))


def test_no_docstring_is_a_riddle() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for path in ALL
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (text := ast.get_docstring(node)) and text.startswith("What ")
    ]  # fmt: skip
    assert not found, "say what it is or does:\n" + "\n".join(found)
