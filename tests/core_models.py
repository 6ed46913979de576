"""ComfyUI's own torch MODEL, CLIP and VAE with the weights of `random_models`, and how far two results are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import random_models
from .random_models import Tensors

import comfy.sd  # isort: skip
from comfy.supported_models_base import ClipTarget  # isort: skip
from comfy.text_encoders.flux import FluxTokenizer, flux_clip  # isort: skip


def core_model(tensors: Tensors, metadata: dict[str, str] | None = None) -> Any:
    """Core's MODEL, computing in F32; metadata: of its file."""
    return comfy.sd.load_diffusion_model_state_dict(
        dict(tensors), model_options={"dtype": torch.float32}, metadata=metadata
    )


def core_clip(t5: Tensors, clip_l: Tensors) -> Any:
    """Core's CLIP for FLUX.1, computing in F32."""
    options = {
        "dtype": torch.float32,
        "t5xxl_model_config": random_models.T5,
        "clip_l_model_config": random_models.CLIP,
    }
    target = ClipTarget(FluxTokenizer, flux_clip())
    return comfy.sd.CLIP(target, model_options=options, state_dict=[dict(t5), dict(clip_l)])


def core_vae(tensors: Tensors) -> Any:
    """Core's VAE, computing in F32; given a configuration it insists on a quant_conv, so that is the identity."""
    latents = random_models.VAE["z_channels"]
    identities = {
        "quant_conv.weight": torch.eye(2 * latents)[:, :, None, None],
        "quant_conv.bias": torch.zeros(2 * latents),
        "post_quant_conv.weight": torch.eye(latents)[:, :, None, None],
        "post_quant_conv.bias": torch.zeros(latents),
    }
    parameters = {"ddconfig": random_models.VAE, "embed_dim": latents}
    vae = comfy.sd.VAE(sd=tensors | identities, config={"params": parameters}, dtype=torch.float32)
    vae.latent_channels = latents
    return vae


def psnr(found: Tensor, expected: Tensor) -> float:
    """Peak signal to noise ratio in dB, the peak being the range of what is expected."""
    assert found.shape == expected.shape
    peak = expected.max() - expected.min()
    return float(10 * torch.log10(peak**2 / (found - expected).square().mean()))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of what is expected."""
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())
