"""Every case of every family, and those of them that a run takes."""

from __future__ import annotations

from tests.conftest import SIXTHS

from . import (
    control,
    diffusion_audio,
    diffusion_flux,
    diffusion_image,
    diffusion_lumina,
    diffusion_unet,
    diffusion_video,
    diffusion_wan,
    language_models,
    results,
    text_encoders,
    upscalers,
    vae_audio,
    vae_image,
    vae_video,
    vision_encoders,
)  # fmt: skip
from .case import FamilyCase

_FILES = (
    diffusion_unet, diffusion_flux, diffusion_image, diffusion_lumina, diffusion_wan, diffusion_video, diffusion_audio,
    text_encoders, language_models, vision_encoders, vae_image, vae_video, vae_audio, control, upscalers,
)  # fmt: skip
CASES: tuple[FamilyCase, ...] = tuple(case for file in _FILES for case in file.CASES)


def in_turn(number: int, turns: int = SIXTHS) -> list[FamilyCase]:
    """One of so many turns, and the cases that are new or whose code is not what it was when they were measured."""
    known = results.known()
    return [
        case for i, case in enumerate(CASES)
        if i % turns == number % turns or case.name not in known or results.changed(known[case.name])
    ]  # fmt: skip
