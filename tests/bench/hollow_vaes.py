"""ComfyUI's VAEs of video and sound at their real size, on the meta device, with what comfy.sd.VAE says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from tests import pack

pack.comfy()

import comfy.ldm.ace.vae.music_dcae_pipeline  # noqa: E402
import comfy.ldm.lightricks.vae.causal_video_autoencoder  # noqa: E402
import comfy.ldm.wan.vae  # noqa: E402
import comfy.ldm.wan.vae2_2  # noqa: E402
import comfy.sd  # noqa: E402
from comfy.ldm.audio.autoencoder import AudioOobleckVAE  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine  # noqa: E402

_WAN = {"num_res_blocks": 2, "dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]}
_KL = {
    "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0, "conv3d": True,
    "time_compress": 4,
}  # fmt: skip
_REFINER = {
    "block_out_channels": [128, 256, 512, 1024, 1024], "in_channels": 3, "out_channels": 3, "num_res_blocks": 2,
    "ffactor_spatial": 16, "ffactor_temporal": 4, "downsample_match_channel": True, "upsample_match_channel": True,
    "z_channels": 32,
}  # fmt: skip


def _ltx(version: int) -> torch.nn.Module:
    return comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(version=version)


def _hunyuan_1_5() -> torch.nn.Module:
    model = "comfy.ldm.hunyuan_video.vae_refiner"
    return AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.EmptyRegularizer"},
        encoder_config={"target": f"{model}.Encoder", "params": _REFINER},
        decoder_config={"target": f"{model}.Decoder", "params": _REFINER},
    )


VAES: dict[str, Callable[[], torch.nn.Module]] = {
    "wan2.1": lambda: comfy.ldm.wan.vae.WanVAE(dim=96, z_dim=16, **_WAN),
    "wan2.2": lambda: comfy.ldm.wan.vae2_2.WanVAE(dim=160, z_dim=48, **_WAN),
    "ltx0.9": lambda: _ltx(0),
    "ltx0.9.5": lambda: _ltx(2),
    "hunyuan": lambda: AutoencoderKL(ddconfig=_KL, embed_dim=16),
    "hunyuan1.5": _hunyuan_1_5,
    "ace": lambda: comfy.ldm.ace.vae.music_dcae_pipeline.MusicDCAE(source_sample_rate=44100),
    "stable-audio": AudioOobleckVAE,
}


def vae(name: str) -> Any:
    """comfy.sd.VAE around the real class at its real width: parameters on the meta device, buffers with values."""
    with patch.object(torch.nn.Module, "load_state_dict", lambda *_args, **_kwargs: ((), ())):
        made = comfy.sd.VAE(VAES[name]().state_dict(), torch.device("cpu"), dtype=torch.float32)
    for part in made.first_stage_model.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
    return made
