"""Messages between ComfyUI's process and the runner, their frames, and tensors in shared memory."""
