"""Child processes beside ComfyUI's own: how they start, and that none outlives it."""
