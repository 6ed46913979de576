"""Results of the cases: how far each is from torch on each device, or where it stops; and the table in docs."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from tests.pack import ROOT

from .case import FamilyCase

FILE = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "families.md"
COLUMNS = ("cpu", "vulkan", "q8_0", "q4_k")
KINDS = {
    "diffusion": "Diffusion models",
    "text_encoders": "Text encoders",
    "language_models": "Language models as text encoders",
    "vision_encoders": "Vision and audio encoders",
    "vae": "VAEs and vocoders",
    "control": "ControlNets and adapters",
    "upscalers": "Upscalers, detectors and depth",
}
HEAD = """# Model families

Every model family of ComfyUI, built from its own class at small width with random weights, run as the product runs it
and compared with torch: two sizes, the second with a batch of two. Errors are relative to torch's result: the larger of
the L2 norm of the difference and its maximum. On the CPU ggml reads GELU from a table of half-precision values, which
decides where an error there is above 1e-5. Vulkan is Mesa's software driver; an empty cell is not measured yet.

Q8_0 and Q4_K: on the CPU with such weights in all matrices that can have them, where torch has the same weights in F32.
Matrices that are too narrow for Q4_K are Q5_0 there, as llama.cpp makes them. ggml rounds the activations that it
multiplies by quantized weights to 8 bits, and that is nearly all of these errors, which are L2 norms alone.

That a family computes does not mean that there is a loader for its files yet: [models.md](models.md) says which there
are. `python3 dev.py test tests/parity/families --all --figures` measured this.
"""


@dataclass(frozen=True)
class Result:
    """Errors by device, in F32 and on the CPU with weights of two quantized types; or why the case stops.

    sources: the files of ComfyUI and of these tests that the case is made of, with a digest of each.
    """

    sources: Mapping[str, str]
    cpu: float | None = None
    vulkan: float | None = None
    q8_0: float | None = None
    q4_k: float | None = None
    stop: str | None = None


def known() -> dict[str, Result]:
    """The results by name of the case."""
    return {name: Result(**each) for name, each in json.loads(FILE.read_text(encoding="utf-8")).items()}


def write(results: Mapping[str, Result]) -> None:
    """Replace the results; errors keep two digits."""
    plain = {
        name: {
            key: float(f"{x:.1e}") if isinstance(x, float) else x for key, x in asdict(each).items() if x is not None
        }
        for name, each in results.items()
    }
    draft = FILE.with_suffix(f".{os.getpid()}.partial")
    draft.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(FILE)  # at once, as another shard may be reading


def update(found: Mapping[str, Result], cases: Iterable[FamilyCase]) -> None:
    """Join what is found with what is known, in results.json and, once every case has a result, in docs/families.md.

    What was measured before stays where it is not measured anew, but for a case that stops.
    """
    results = known()
    for name, result in found.items():
        before = results.get(name)
        kept = {} if result.stop or before is None else {
            column: getattr(before, column) for column in COLUMNS if getattr(result, column) is None
        }  # fmt: skip
        results[name] = replace(result, **kept)
    names = {case.name for case in cases}
    joined = {name: result for name, result in results.items() if name in names}
    write(joined)
    if joined.keys() == names:
        PAGE.write_text(page(cases, joined), encoding="utf-8")


def sources(case: FamilyCase, module: torch.nn.Module) -> dict[str, str]:
    """The files that a case's module and the case itself come from, and their digests."""
    import comfy

    tree = Path(comfy.__path__[0]).parent
    files = {inspect.getsourcefile(type(part)) for part in module.modules()} | {inspect.getsourcefile(case.build)}
    inside = {Path(file) for file in files if file and Path(file).is_relative_to(tree / "comfy")}
    own = {Path(file) for file in files if file and Path(file).is_relative_to(ROOT / "tests")}
    named = {f"ComfyUI/{file.relative_to(tree).as_posix()}": file for file in inside}
    named |= {file.relative_to(ROOT).as_posix(): file for file in own}
    return {name: digest(file) for name, file in sorted(named.items())}


def changed(result: Result) -> bool:
    """Whether a file that a case is made of is another than when it was measured."""
    import comfy

    tree = Path(comfy.__path__[0]).parent
    for name, before in result.sources.items():
        file = tree / name.removeprefix("ComfyUI/") if name.startswith("ComfyUI/") else ROOT / name
        if not file.exists() or digest(file) != before:
            return True
    return False


@cache
def digest(file: Path) -> str:
    """The first half of the SHA-256 of a file, whatever ends its lines."""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]


def page(cases: Iterable[FamilyCase], results: Mapping[str, Result]) -> str:
    """The table of docs/families.md."""
    by_kind: dict[str, list[FamilyCase]] = {title: [] for title in KINDS.values()}
    for case in cases:
        by_kind[next(title for prefix, title in KINDS.items() if case.file.startswith(prefix))].append(case)
    passes = sum(each.stop is None for each in results.values())
    lines = [HEAD, f"{passes} of {len(results)} compute.\n"]
    for title, found in by_kind.items():
        columns = {"CPU": "cpu", "Vulkan": "vulkan"}
        if any(case.transformer for case in found):
            columns |= {"Q8_0": "q8_0", "Q4_K": "q4_k"}
        lines += [f"## {title}\n", f"| family | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for case in found:
            result = results[case.name]
            errors = [getattr(result, column) for column in columns.values()]
            cells = ["" if each is None else f"{each:.0e}" for each in errors]
            if result.stop is not None:
                cells[0] = f"stops: {result.stop}"
            lines.append(f"| {case.name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
