"""What travels between ComfyUI's process and the runner: messages, their frames, and tensors in shared memory."""
