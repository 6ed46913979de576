"""The first use of a card with its driver: it is probed in a process of its own, and what was found is kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import folder_paths

from ...native.card.probe import Probe, ProbeKey, ProbeOptions, probe, read_probes, write_probe
from ...native.card.trial import Stopped
from ...native.client import Device, RunnerError, switch_off
from ...native.ggml_build import installed_version
from ..components.host import COMFYUI

log = logging.getLogger(__name__)
SWITCH = "GGML_PROBE"  # an environment variable; 0: no card is probed
_seen: set[str] = set()  # names of devices, by this process


def probes_path() -> Path:
    """The file of what probes found."""
    return Path(folder_paths.get_user_directory()) / "ggml_probes.json"


def switch_off_what_was_wrong() -> None:
    """Have the runner use cards as their probes found them right."""
    ggml = installed_version()
    switch_off(
        (key.device, key.driver, variable)
        for key, found in read_probes(probes_path()).items()
        if key.ggml == ggml and found.wrong
        for variable in found.off
    )


def probe_at_first_use(name: str) -> None:
    """Probe a card that was not used with this driver yet, which takes some seconds; the log says what is wrong.

    Raises Interrupted, and RunnerError where the devices cannot be asked for.
    """
    if os.environ.get(SWITCH) == "0" or name in _seen:
        return
    device = next((each for each in COMFYUI.devices() if each.name == name), None)
    if device is None or device.type not in ("GPU", "IGPU") or "software" in device.features:
        return
    _seen.add(name)
    key = ProbeKey(device.description, device.driver, installed_version())
    known = read_probes(probes_path()).get(key)
    found = known or _probed(device, key)
    if found is not None and found.wrong:
        log.warning("%s", said(device, found))
    if known is None:
        switch_off_what_was_wrong()


def said(device: Device, found: Probe) -> str:
    """Say what was wrong, and what becomes of it."""
    wrong = "; ".join(found.wrong[:3]) + ("; and more" if len(found.wrong) > 3 else "")
    begin = f"{device.name} ({device.description}, driver {device.driver or 'unknown'}) computes wrongly: {wrong}."
    if not found.setting:
        return (
            f"{begin} Pictures that it computes may be wrong. Update the graphics driver, or choose the device CPU in "
            "the loaders. GGML Card Check says more."
        )
    return f"{begin} Its results are right {found.setting}, so that is how it is used. A newer driver may be faster."


def _probed(device: Device, key: ProbeKey) -> Probe | None:
    """A new probe, kept in the file; None where it came to no end."""
    mark = probes_path().with_suffix(".trying")  # stays where a driver takes the machine down
    if mark.is_file() and mark.read_text(encoding="utf-8") == repr(key):
        log.warning("%s was not probed, as the last time the machine went down with it.", device.description)
        return None
    log.info("%s is used for the first time with this driver: its results are compared with the processor's.",
             device.description)  # fmt: skip
    try:
        mark.write_text(repr(key), encoding="utf-8")
        found = probe(device, ProbeOptions(COMFYUI.is_interrupted))
        write_probe(probes_path(), key, found)
    except (Stopped, RunnerError, OSError) as error:
        log.warning("%s could not be probed: %s", device.description, error)
        return None
    finally:
        mark.unlink(missing_ok=True)
    return found
