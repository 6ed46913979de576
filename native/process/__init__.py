"""Processes of this pack beside ComfyUI's own: how they start, and that none outlives it."""
