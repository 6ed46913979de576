"""Every model family of ComfyUI at small width; a file for each kind of model."""

from tests import pack

pack.comfy()
