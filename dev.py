#!/usr/bin/env python3
"""Sets this checkout up, draws a picture with it, serves it in ComfyUI, tests it. Needs Python 3.10, nothing else."""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036  # what an older Python runs into first should say so
    sys.exit("dev.py needs Python 3.10 or newer; this is " + sys.version.split()[0])

import argparse
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tools import (
    bench,
    bench_report,
    bench_rows,
    card,
    checks,
    comfyui,
    comfyui_manager,
    demo,
    language_model,
    llama_wheel,
    matrix,
    micro_models,
    places,
    processes,
    server,
    setup,
    steps,
    templates,
    vulkan,
    workflow,
)

SIZE_STEP = 16  # pixels: the VAE makes 8 of them a latent, the model takes 2 x 2 latents at a time


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    if arguments[:1] in (["test"], ["llama"]) and "--help" not in arguments:
        return {"test": test, "llama": llama}[arguments[0]](arguments[1:])  # pytest's arguments stay as they are
    options = command_line().parse_args(arguments)
    try:
        return int(options.run(options))
    except steps.Failure as failure:
        print(f"\n{steps.story(failure, failure.advice)}", file=sys.stderr)
        return 1


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("setup", help="get and build all that is needed into .dev")
    command.set_defaults(run=lambda options: set_up())

    command = commands.add_parser("demo", help="draw a picture from a prompt")
    command.add_argument("--device", metavar="NAME", help="where the diffusion model computes: auto, CPU, Vulkan0, ...")
    command.add_argument("--prompt", metavar="TEXT", help="what the picture shows")
    command.add_argument("--size", metavar="WxH", type=picture_size, default=(None, None), help="in pixels")
    command.add_argument("--seed", metavar="N", type=int, help="of the noise the picture starts from")
    command.add_argument("--out", metavar="FILE.png", type=Path, default=Path("demo.png"))
    command.set_defaults(run=draw)

    command = commands.add_parser("serve", help="start ComfyUI with this pack until Ctrl-C")
    command.add_argument("--port", metavar="N", type=int, default=0, help="0, the default, takes a free one")
    command.set_defaults(run=serve)

    command = commands.add_parser("bench", help="measure this project and stable-diffusion.cpp by turns")
    command.add_argument("names", metavar="NAME", nargs="*", help="what to measure: globs, or how names begin")
    command.add_argument("--list", action="store_true", help="show all names; those marked * are measured by default")
    command.add_argument("--device", metavar="NAME", default="CPU", help="where both compute: CPU, Vulkan0, ...")
    command.add_argument("--json", metavar="FILE", type=Path, help="write every figure with its conditions")
    command.add_argument("--plot", metavar="FILE.svg", type=Path, help="where the picture goes; else beside the JSON")
    command.add_argument("--markdown", action="store_true", help="show the table as a README has it")
    command.set_defaults(run=measure)

    command = commands.add_parser("card", help="check what a card computes, its memory and its speed")
    card.add_arguments(command)
    command.set_defaults(run=check_card)

    command = commands.add_parser("matrix", help="test in old and new ComfyUI, torch and Python")
    command.add_argument("--row", metavar="NAME", action="append", default=[], help="only this one; may be repeated")
    command.add_argument("--list", action="store_true", help="show the names of the rows")
    command.add_argument("--python", metavar="FILE", type=Path, action="append", default=[], help="one to use besides")
    command.add_argument("--keep", action="store_true", help="keep the environments, of 6 GiB each, in .dev/matrix")
    command.set_defaults(run=run_matrix)

    command = commands.add_parser("manager", help="install this checkout as ComfyUI-Manager does, and start it")
    command.add_argument("--keep", action="store_true", help="keep the environment, of 6 GiB, in .dev/manager")
    command.set_defaults(run=install_by_manager)

    command = commands.add_parser("storm", help="kill, fill, damage at random while known pictures are drawn")
    command.add_argument("--minutes", metavar="N", type=float, default=10.0, help="how long")
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of chance")
    command.add_argument("--json", metavar="FILE", type=Path, help="write every job with its faults and its end")
    command.set_defaults(run=storm)

    command = commands.add_parser("templates", help="open, convert, plan and run ComfyUI's official templates")
    templates.add_arguments(command)
    command.set_defaults(run=run_templates)

    commands.add_parser("test", help="ruff, mypy and pytest; what follows goes to pytest (--all: every combination)")
    commands.add_parser("llama", help="test language models on a GPU; what follows goes to pytest")
    return parser


def picture_size(text: str) -> tuple[int, int]:
    """Width and height from `WxH`."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is no size such as 512x384")
    size = int(width), int(height)
    if any(side <= 0 or side % SIZE_STEP for side in size):
        raise argparse.ArgumentTypeError(f"{text}: both sides must be multiples of {SIZE_STEP} pixels")
    return size


def set_up(tests: bool = False) -> int:
    setup.set_up(places.here(), tests)
    return 0


def draw(options: argparse.Namespace) -> int:
    """Makes one picture with a server of its own."""
    here = places.here()
    file = here.root / "workflows" / "api" / "text_to_image.json"
    choices = {name: getattr(options, name) for name in ("device", "prompt", "seed")}
    choices["width"], choices["height"] = options.size
    template = json.loads(file.read_text(encoding="utf-8"))
    wanted = workflow.with_choices(micro_models.with_micro_models(template), choices)
    set_up()
    with running_server(here, "demo", device=options.device) as answering:
        demo.draw(answering, wanted, options.out.absolute())
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serves until the process is asked to end."""
    set_up()
    with running_server(places.here(), "serve", port=options.port) as answering:
        steps.say(f"ready: {answering.url}, with workflows for the micro models under Workflows in its sidebar")
        with contextlib.suppress(KeyboardInterrupt):
            if code := answering.process.wait():
                raise steps.Failure(f"ComfyUI ended by itself, with code {code}", "see its log", answering.log)
    return 0


def measure(options: argparse.Namespace) -> int:
    """Runs the chosen benchmarks."""
    if options.list:
        for row in bench_rows.rows(options.device):
            steps.say(f"{'*' if row.usual else ' '} {row.name:26} {row.conditions}")
        return 0
    rows = bench_rows.chosen(options.device, options.names)
    set_up()
    plot = options.plot or (options.json.with_suffix(".svg") if options.json else None)
    show = bench_report.markdown if options.markdown else bench_report.table
    return bench.run(bench.Bench(places.here(), options.device), rows, options.json, plot, show)


def check_card(options: argparse.Namespace) -> int:
    """Checks the card that is there, or lavapipe where there is none."""
    set_up()
    return card.run(places.here(), options)


def run_matrix(options: argparse.Namespace) -> int:
    """Runs the chosen rows of the matrix."""
    rows = matrix.chosen(options.row)
    if options.list:
        for row in rows:
            steps.say(row.name)
        return 0
    set_up()
    return matrix.run_rows(places.here(), rows, options.python, options.keep)


def install_by_manager(options: argparse.Namespace) -> int:
    """Installs the committed state of this checkout."""
    set_up()
    return comfyui_manager.install(places.here(), options.keep)


def run_templates(options: argparse.Namespace) -> int:
    """Takes the chosen templates."""
    set_up()
    return templates.run(places.here(), options)


@contextlib.contextmanager
def running_server(here: places.Places, name: str, port: int = 0, device: str | None = None) -> Iterator[server.Server]:
    """A ComfyUI with this pack and the micro models, with its folders under .dev/servers/`name`."""
    software = device is not None and device.startswith("Vulkan")
    options = server.ServerOptions(
        python=here.python,
        comfyui=comfyui.tree(here),
        pack=here.root,
        models=here.micro_models,
        base=here.state / "servers" / name,
        port=port,
        environment=vulkan.software_environment(here) if software else None,
    )
    language_model.ensure(here, options.base / "models")
    micro_models.write_workflows(here.root / "workflows", options.base / "user" / "default" / "workflows")
    started = time.monotonic()
    steps.say("Starting ComfyUI ...")
    with server.running(options) as answering:
        steps.say(f"ComfyUI answers after {steps.elapsed(started)}; its log is {answering.log}")
        yield answering


def test(pytest_arguments: list[str]) -> int:
    set_up(tests=True)
    return checks.run_checks(places.here(), pytest_arguments)


def storm(options: argparse.Namespace) -> int:
    """Fails where a picture was wrong, an error unclear, or something hung, died or was left behind."""
    set_up(tests=True)
    here = places.here()
    environment = {"COMFYUI_PATH": str(comfyui.tree(here)), **vulkan.software_environment(here)}
    command: list[str | Path] = [here.python, "-m", "tests.storm"]
    command += ["--minutes", str(options.minutes), "--seed", str(options.seed)]
    if options.json:
        command += ["--json", options.json.absolute()]
    return checks.check("storm", command, here.root, environment)


def llama(pytest_arguments: list[str]) -> int:
    """Apart from the other tests, as they take llama.cpp with Vulkan, which is built where no wheel is to be had."""
    set_up()
    here = places.here()
    software = vulkan.software_environment(here)
    try:
        site = llama_wheel.install(here, here.logs / "llama.log", software)
    except steps.Failure as failure:
        print(f"\n{steps.story(failure, failure.advice)}", file=sys.stderr)
        return 1
    environment = {"COMFYUI_PATH": str(comfyui.tree(here)), **software, "PYTHONPATH": str(site)}
    command: processes.Command = [here.python, "-m", "pytest", *pytest_arguments, "tests/llama_vulkan"]
    return checks.check("pytest", command, here.root, environment)


if __name__ == "__main__":
    # A plain `kill` is Ctrl-C: what was started must end, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
