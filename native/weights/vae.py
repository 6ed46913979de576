"""VAEs of the latent diffusion family (FLUX.1's among them) in the original layout."""

from __future__ import annotations

from .identify import another_kind, identify
from .mapping import affine, prefixes, under, weight_set
from .weight_file import WeightFile
from .weight_set import WeightSet

MARKER = "decoder.conv_in.weight"
QUANT = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}  # as comfy/sd.py renames
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
ENDS = [f"{half}.{layer}" for half in ("encoder", "decoder") for layer in ("conv_in", "norm_out", "conv_out")]


def vae(header: WeightFile) -> WeightSet:
    """The parameters of an image AutoencodingEngine or AutoencoderKL of comfy.ldm.models.autoencoder.

    Raises WeightFileError for anything else. Which blocks there must be, only the module can tell (WeightSet.require).
    """
    found = prefixes(header, MARKER)
    if not found or "vae" not in {kind.key for kind in identify(header)}:
        raise another_kind(header, "a VAE")
    tensors = under(header, found[0])
    for old, new in QUANT.items():
        tensors = {name.replace(old, new) if name.startswith(old) else name: value for name, value in tensors.items()}
    return weight_set(header, "VAE", tensors, affine(*ENDS), (name for name in tensors if name.startswith(PARTS)))
