"""Checks a card: its results beside the processor's, its memory, its speed. Needs numpy and ggml, nothing else."""

from __future__ import annotations

from .check import FULL_SECONDS, QUICK_SECONDS, CardOptions, Watch, check_card, checked_device
from .page import to_page
from .report import CardReport, Finding, Rate, Verdict, to_json

__all__ = [
    "FULL_SECONDS",
    "QUICK_SECONDS",
    "CardOptions",
    "CardReport",
    "Finding",
    "Rate",
    "Verdict",
    "Watch",
    "check_card",
    "checked_device",
    "to_json",
    "to_page",
]
