"""The language model of a demo server: tiny, with random weights, so that the workflows that expand prompts run."""

from __future__ import annotations

from pathlib import Path

from .places import Places
from .steps import run

NAME = "tiny-random-llm.gguf"


def ensure(places: Places, models: Path) -> None:
    """Writes it into a server's own folder of models where it is not there; raises Failure when it cannot."""
    file = models / "LLM" / NAME
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        places.logs.mkdir(parents=True, exist_ok=True)
        run([places.python, "-m", "tests.random_llm", file], places.logs / "language-model.log", cwd=places.root)
