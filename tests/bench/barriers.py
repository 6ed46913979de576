"""Operations and barriers of a step on a Vulkan device: this project and stable-diffusion.cpp, on the same file.

    python -m tests.bench.barriers [--device Vulkan0] [--size 64]

One double and one single block of FLUX.1's width in Q4_0, 256 text tokens. A GPU waits at a barrier until all it was
given before has ended. What a program does before and after its steps is left out: of a run of three steps counts what
it does more than a run of two. Needs what `python3 dev.py bench --device Vulkan0` installs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tools import bench, places
from tools.bench_flux import CLIP, SMALL, VAE

# ggml's Vulkan writes these lines (ggml-vulkan.cpp, GGML_VK_SYNC_LOGGER): a number and an operation, or "sync".
_BARRIER = re.compile(r"^(?:DEBUG:\S+?:runner: )?sync\s*$", re.MULTILINE)
_OPERATION = re.compile(r"^(?:DEBUG:\S+?:runner: )?\d+ ([A-Z_0-9]+) ", re.MULTILINE)
_LOGGED = (
    "import logging, runpy, sys; logging.basicConfig(level=logging.DEBUG); runpy.run_module({!r}, run_name='__main__')"
)


def main() -> None:
    """Prints both programs' counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="Vulkan0")
    parser.add_argument("--size", type=int, default=64, help="pixels, on both sides")
    options = parser.parse_args()
    both = bench.Bench(places.here(), options.device)
    ours = _step(both, "ours", options.size, Path(sys.executable), ["--weights", "device", "--engine", "ggml"])
    theirs = _step(both, "peer", options.size, both.peer.python, [])
    print(f"{options.device}, FLUX.1 of two blocks, {options.size}x{options.size} pixels, a step")
    for name, counted in (("this project", ours), ("stable-diffusion.cpp", theirs)):
        print(f"{name:22} {counted[0]:5} operations {counted[1]:5} barriers")
    print(f"{'ratio':22} {ours[0] / theirs[0]:5.2f} {'':10} {ours[1] / theirs[1]:5.2f}")


def _step(both: bench.Bench, module: str, size: int, python: Path, more: Sequence[str]) -> tuple[int, int]:
    """Operations and barriers of one step."""
    twice, thrice = (_counted(both, module, size, python, [*more, "--steps", str(count)]) for count in (2, 3))
    return thrice[0] - twice[0], thrice[1] - twice[1]


def _counted(both: bench.Bench, module: str, size: int, python: Path, more: Sequence[str]) -> tuple[int, int]:
    files = {"diffusion": SMALL, "vae": VAE} | ({"clip": CLIP} if module == "peer" else {})
    given = [part for option, name in files.items() for part in (f"--{option}", str(bench.model_file(both, name)))]
    environment = os.environ | bench.environment(both) | {"GGML_VK_SYNC_LOGGER": "1", "GGML_PROBE": "0"}
    with TemporaryDirectory() as folder:
        options = ["--report", f"{folder}/report.json", "--device", both.device, "--size", str(size), *more]
        command = [str(python), "-c", _LOGGED.format(f"tests.bench.{module}"), "steps", *given, *options]
        said = subprocess.run(command, check=True, env=environment, stderr=subprocess.PIPE, text=True).stderr
    return len(_OPERATION.findall(said)), len(_BARRIER.findall(said))


if __name__ == "__main__":
    main()
