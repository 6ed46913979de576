"""Text on nodes."""

from __future__ import annotations

from comfy_api.latest import io
from server import PromptServer


def show(node: type[io.ComfyNode], text: str) -> None:
    """Put text below the widgets of the node that is being executed; its schema must ask for the hidden unique_id."""
    show_on(node.hidden.unique_id, text)


def show_on(node_id: str, text: str) -> None:
    """Put text below the widgets of a node."""
    PromptServer.instance.send_progress_text(text, node_id)
