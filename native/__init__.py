"""Everything below ComfyUI: tracing, lowering, weight files, and the process that runs ggml."""
