"""Text on the node that is being executed."""

from __future__ import annotations

from comfy_api.latest import io
from server import PromptServer


def show(node: type[io.ComfyNode], text: str) -> None:
    """Put text below the widgets of a node; its schema must ask for the hidden unique_id."""
    PromptServer.instance.send_progress_text(text, node.hidden.unique_id)
