"""Everything below ComfyUI: tracing, lowering, programs, weights, and the runner process with its client."""
