"""Shows text on nodes in the editor."""

from __future__ import annotations

from comfy_api.latest import io
from server import PromptServer


def show(node: type[io.ComfyNode], text: str) -> None:
    """Shows text below the widgets of the executing node, whose schema must have the hidden input unique_id."""
    show_on(node.hidden.unique_id, text)


def show_on(node_id: str, text: str) -> None:
    """Shows text below the widgets of a node."""
    PromptServer.instance.send_progress_text(text, node_id)
