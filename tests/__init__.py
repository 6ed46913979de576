"""This pack's tests; a package, so that ComfyUI's folder of the same name is never taken for it."""
