"""The nodes of this pack, and what connects them to ComfyUI: the extension, settings and routes."""
