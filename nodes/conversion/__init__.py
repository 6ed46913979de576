"""Conversion of anybody's workflow to the loaders of this pack: the table, prompts, and files of ComfyUI's editor."""
