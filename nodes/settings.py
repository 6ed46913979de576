"""What the user set for this pack in ComfyUI's settings and Python needs; js/settings.js declares it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import folder_paths

from ..native.placement import MIB
from ..native.threads import VARIABLE

log = logging.getLogger(__name__)
RESERVE, THREADS = "GGML.Memory.Reserve", "GGML.CPU.Threads"
_USUAL_RESERVE = 512  # MiB, for the desktop and other programs


def gpu_reserve() -> int:
    """Bytes of each GPU that no plan counts with."""
    return _number(RESERVE, _USUAL_RESERVE) * MIB


def set_threads() -> None:
    """Has both engines compute with as many threads as the user set; a variable in the environment counts for more."""
    threads = _number(THREADS, 0)
    if threads:
        os.environ.setdefault(VARIABLE, str(threads))


def _number(name: str, usual: int) -> int:
    """A setting of ComfyUI's usual user that is a whole number from 0."""
    file = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(name, usual)
    except FileNotFoundError:
        return usual
    except (OSError, ValueError, AttributeError) as error:
        log.warning("ComfyUI's settings in %s cannot be read, %s is taken as %s: %s", file, name, usual, error)
        return usual
    return value if type(value) is int and value >= 0 else usual
