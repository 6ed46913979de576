"""What a user drags: one file per node family, and beside them the seams through which they enter ComfyUI."""
