"""The loader nodes, as tests of bad files need to know them."""

from __future__ import annotations

FOLDERS = {"GGMLDiffusionModel": "diffusion_models", "GGMLTextEncoders": "text_encoders", "GGMLVAE": "vae"}


def is_paragraph(text: str) -> bool:
    """Whether a message is one for people: a sentence or several, on one line."""
    return 40 < len(text) < 1500 and "\n" not in text and "Traceback" not in text and text.endswith(".")
