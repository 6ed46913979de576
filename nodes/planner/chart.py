"""Draws a plan as a chart: a bar per device and phase, stacked by use, with a line at the device's capacity."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...native.placement import MIB
from ...native.planning import Plan
from ...native.planning.report import shares

_WIDTH, _ROW, _MARGIN, _BAR = 900, 26, 16, 440  # pixels
_NAMES = 230  # pixels for the phases' names
_COLOURS = {
    "weights": "#4878a8", "staging": "#78a8d0", "LoRA": "#9868b0", "constants": "#b0b0b0", "compute buffer": "#e08848",
    "language model": "#58a868", "freed within the phase": "#d8d8d8",
}  # fmt: skip


def chart(plan: Plan) -> Tensor:
    """The chart of a plan.  # [1, height, width, 3], 0 to 1"""
    devices = [device for device, nbytes in plan.peaks.items() if nbytes]
    rows = len(devices) * (len(plan.phases) + 2) + 1
    image = Image.new("RGB", (_WIDTH, 2 * _MARGIN + rows * _ROW), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    y = _MARGIN
    for device in devices:
        draw.text((_MARGIN, y), f"{device}: {plan.capacity[device] / MIB:,.0f} MiB may be used", "black", font)
        y += _ROW
        widest = max(plan.capacity[device], plan.peaks[device])
        if plan.capacity[device] > 4 * plan.peaks[device]:
            widest = 2 * plan.peaks[device]  # or the bars would be too short to see
        for phase in plan.phases:
            draw.text((_MARGIN, y), phase.title, "black", font)
            x = float(_NAMES)
            for use, nbytes in shares(phase, device).items():
                width = nbytes / widest * _BAR
                draw.rectangle((x, y, x + width, y + _ROW - 8), _COLOURS[use])
                x += width
            draw.text((x + 6, y), f"{phase.peak[device] / MIB:,.0f} MiB", "black", font)
            y += _ROW
        line = _NAMES + plan.capacity[device] / widest * _BAR
        if line <= _NAMES + _BAR:
            draw.line((line, y - len(plan.phases) * _ROW - 4, line, y - 4), "red", 2)
        y += _ROW
    x = float(_MARGIN)
    for use, colour in _COLOURS.items():
        draw.rectangle((x, y + 2, x + 12, y + 14), colour)
        draw.text((x + 18, y), use, "black", font)
        x += 18 + draw.textlength(use, font) + 18
    return torch.from_numpy(np.asarray(image).copy()).float().div(255)[None]
