"""Reads the settings of this pack that Python needs from ComfyUI's settings file; js/settings.js declares them."""

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
_DEFAULT_RESERVE = 512  # MiB, for the desktop and other programs


def gpu_reserve() -> int:
    """Bytes of each GPU that plans leave to other programs."""
    return _number(RESERVE, _DEFAULT_RESERVE) * MIB


def set_threads() -> None:
    """Sets both engines' number of CPU threads from the settings, unless the environment variable is set."""
    threads = _number(THREADS, 0)
    if threads:
        os.environ.setdefault(VARIABLE, str(threads))


def _number(name: str, default: int) -> int:
    """A setting of ComfyUI's default user that is a whole number from 0; `default` where it is missing or invalid."""
    file = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(name, default)
    except FileNotFoundError:
        return default
    except (OSError, ValueError, AttributeError) as error:
        log.warning("ComfyUI's settings in %s cannot be read, %s is taken as %s: %s", file, name, default, error)
        return default
    return value if type(value) is int and value >= 0 else default
