"""Starts the runner: takes the pipes for the protocol before anything else can write to them."""

from __future__ import annotations

import argparse
import faulthandler

from ..process.startup import die_with_parent, take_pipes
from .cpu_cores import physical_cores
from .device.devices import Limits


def main() -> None:
    """Run until stdin ends."""
    arguments = _arguments()
    die_with_parent(arguments.parent)
    faulthandler.enable()
    incoming, outgoing = take_pipes()

    from .serve import serve  # loads ggml, whose own printing now goes to stderr

    threads = arguments.threads or physical_cores()
    given = arguments.largest_buffer, arguments.device_memory, arguments.largest_segment, arguments.half_sums
    limits = Limits(threads, *given, tuple(map(tuple, arguments.off)))
    serve(incoming, outgoing, arguments.arena, limits)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="native.runner")
    parser.add_argument("--parent", type=int, required=True, help="process id whose end is ours too")
    parser.add_argument("--arena", required=True, help="name of the shared memory")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU device; 0: one per physical core")
    parser.add_argument("--largest-buffer", type=int, help="bytes; where a device's own figure is too high")
    parser.add_argument("--device-memory", type=int, help="bytes to use of each device but the CPU")
    parser.add_argument("--largest-segment", type=float, help="operations that a device is given at once")
    parser.add_argument("--half-sums", action="store_true", help="of F16 products on the CPU: take it that it has them")
    parser.add_argument(
        "--off", nargs=3, action="append", default=[], metavar=("DEVICE", "DRIVER", "VARIABLE"),
        help="a variable of ggml's that is set for this device with this driver",
    )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
