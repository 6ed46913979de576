"""ComfyUI's models with a component of an engine where the torch module would be."""
