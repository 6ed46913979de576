"""The pack does not slow ComfyUI's start down: what is heavy is loaded when it is used.

How long the start takes is `python -m tests.bench.start_up`.
"""

from __future__ import annotations

import sys

from tests.start_up import in_a_new_process

DRIVERS = ("vulkan", "ggml", "llama", "libcuda")


def test_the_import_brings_no_package_no_driver_and_no_process() -> None:
    found, _ = in_a_new_process()
    assert {name.partition(".")[0] for name in found.modules} <= sys.stdlib_module_names
    assert not [file for file in found.files if any(name in file.rpartition("/")[2].lower() for name in DRIVERS)]
    assert found.children == 0
