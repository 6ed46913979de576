"""The autoencoders that comfy.sd.VAE knows, for files of them: by which tensors it detects each, and small widths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from tests import pack

pack.comfy()

import comfy.sd  # noqa: E402

from tests import narrow  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402

Shapes = Mapping[str, tuple[int, ...]]
Narrow = Mapping[str, Mapping[str, Any]]
_SMALL = {"ch": 32, "num_res_blocks": 1}
_SMALL_3D = {"block_out_channels": [32, 32, 32, 64, 64], "num_res_blocks": 1}


@dataclass(frozen=True)
class VAEKind:
    """A kind of autoencoder.

    markers: the tensors by which core detects it, and their shapes; core builds its module from these alone.
    narrow: "module:name" of classes, and arguments that replace those that core gives them; it detects as ever.
    renamed: beginnings of names in the module, and what a file has for them.
    latents, pixels: what is decoded and encoded through comfy.sd.VAE; None where core cannot.
    options: vae_options of decode. note: why something is left out.
    """

    name: str
    markers: Shapes
    latents: tuple[int, ...] | None
    pixels: tuple[int, ...] | None
    narrow: Narrow = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-3  # relative to the largest
    zeros: tuple[str, ...] = ()  # tensors of zeros, as what is drawn with them would hang on the last digit
    note: str = ""

    @contextmanager
    def small(self) -> Iterator[None]:
        """Core builds it at small width."""
        with narrow.narrowed(self.narrow):
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state dict of one with random weights, in the names of files."""
        torch.manual_seed(0)
        with self.small(), patch.object(torch.nn.Module, "load_state_dict", lambda *_, **__: ((), ())):
            markers = {name: torch.empty(shape, dtype=self.dtype) for name, shape in self.markers.items()}
            made = comfy.sd.VAE(markers, torch.device("cpu"), dtype=torch.float32, metadata=dict(self.metadata))
        module = randomize(made.first_stage_model)
        values = dict(module.state_dict())
        for name, buffer in module.named_buffers():
            if name in values and name.rsplit(".", 1)[-1] in _OF_FILES:
                values[name] = 0.5 + torch.rand(buffer.shape)
        values |= {name: torch.zeros_like(values[name]) for name in self.zeros}
        held = {self.in_file(name): x.clone().to(self.dtype).contiguous() for name, x in values.items()}
        return {**{name: torch.zeros(shape) for name, shape in self.markers.items() if name not in held}, **held}

    def in_file(self, name: str) -> str:
        """The name in a file of a tensor of the module."""
        for old, new in self.renamed.items():
            if name.startswith(old):
                return new + name[len(old) :]
        return name


# Buffers that a file has the values of.
_OF_FILES = (
    "std-of-means", "mean-of-means", "latents_mean", "latents_std", "mel_basis", "inv_freq", "zero_k_bias",
)  # fmt: skip


def _picture(z: int, quant: bool = False, **more: tuple[int, ...]) -> Shapes:
    tensors = {"decoder.conv_in.weight": (512, z, 3, 3), "encoder.down.2.downsample.conv.weight": (1,), **more}
    return {**tensors, **({"post_quant_conv.weight": (z, z, 1, 1)} if quant else {})}


_ENGINE, _KL = "comfy.sd:AutoencodingEngine", "comfy.sd:AutoencoderKL"
_LTX = {
    "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4,
    "latent_log_var": "uniform", "use_quant_conv": False, "causal_decoder": False, "encoder_base_channels": 16,
    "decoder_base_channels": 16,
}  # fmt: skip
_LTX_BLOCKS = [["res_x", 1], ["compress_all", 1], ["compress_all", 1], ["compress_all", 1], ["res_x", 1]]
_LTX_TIMESTEP = {
    "timestep_conditioning": True, "encoder_blocks": _LTX_BLOCKS, "decoder_blocks": [
        ["res_x", {"num_layers": 1, "inject_noise": False}],
        *[["compress_all", {"residual": True, "multiplier": 1}]] * 3,
        ["res_x", {"num_layers": 1, "inject_noise": False}],
    ],
}  # fmt: skip
_LTX_MARKERS = {"decoder.up_blocks.0.res_blocks.0.conv1.conv.weight": (512,)}
_AUDIO = {
    "audio_vae": {
        "model": {"params": {"ddconfig": {
            "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
            "in_channels": 2, "out_ch": 2, "ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [],
            "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height",
        }, "sampling_rate": 16000}},
        "preprocessing": {"stft": {"hop_length": 160, "filter_length": 1024}},
    },
    "vocoder": {"upsample_initial_channel": 64},
}  # fmt: skip

KINDS = (
    VAEKind("SD1.5, SDXL", _picture(4, True), (2, 4, 2, 3), (2, 20, 24, 3)),
    VAEKind("SD x4 upscaler", {"decoder.conv_in.weight": (512, 4, 3, 3), "post_quant_conv.weight": (4, 4, 1, 1)},
            (1, 4, 4, 6), (1, 16, 24, 3), {_KL: _SMALL}),
    VAEKind("FLUX.1, SD3", _picture(16), (1, 16, 4, 6), (1, 40, 48, 3), {_ENGINE: _SMALL}),
    VAEKind("FLUX.2", _picture(32, True, **{"bn.running_mean": (128,)}), (1, 128, 2, 3), (1, 32, 48, 3), {_KL: _SMALL}),
    VAEKind("SVD", {"decoder.mid.block_1.mix_factor": (1,)}, (3, 4, 4, 6), (3, 32, 48, 3), {_ENGINE: _SMALL}),
    VAEKind("TAESD", {"taesd_decoder.1.weight": (64, 4, 3, 3)}, (2, 4, 4, 6), (2, 32, 48, 3)),
    VAEKind("TAEF1", {"taesd_decoder.1.weight": (64, 16, 3, 3)}, (1, 16, 4, 6), (1, 32, 48, 3)),
    VAEKind("Stable Cascade stage A", {"vquantizer.codebook.weight": (1,)}, (1, 4, 6, 8), (1, 32, 48, 3)),
    VAEKind("Stable Cascade stage C", {"encoder.backbone.1.0.block.0.1.num_batches_tracked": ()},
            (1, 16, 2, 3), (1, 64, 96, 3)),
    VAEKind("HunyuanImage 2.1", {"decoder.conv_in.weight": (64, 64, 3, 3)}, (1, 64, 2, 3), (1, 64, 96, 3),
            {_ENGINE: {"block_out_channels": [32, 32, 64, 64, 128, 128], "num_res_blocks": 1}}),
    VAEKind("HunyuanImage refiner", {"decoder.conv_in.weight": (64, 32, 3, 3, 3)}, (1, 32, 1, 2, 3), (1, 32, 48, 3),
            {_ENGINE: _SMALL_3D}),
    VAEKind("Mage", {"student.dconv_encoder.proj_out.weight": (1,)}, (1, 128, 2, 3), (1, 32, 48, 3),
            {"comfy.ldm.mage_flow.vae:DConvEncoder":
                {"hidden_size": 64, "num_blocks": 2, "head_size": 64, "num_head_blocks": 1},
             "comfy.ldm.mage_flow.vae:DConvDenoiser":
                {"hidden_size": 64, "hidden_size_x": 16, "num_blocks": 3, "num_cond_blocks": 2}},
            {"dconv_encoder.": "student.dconv_encoder.", "decoder_model.": "pipeline."}),
    VAEKind("pixel space", {"pixel_space_vae": ()}, (1, 3, 8, 8), (1, 8, 8, 3)),
    VAEKind("LTX-Video 0.9", _LTX_MARKERS, (1, 128, 2, 2, 3), (9, 64, 96, 3),
            metadata={"config": json.dumps({"vae": _LTX | {"blocks": _LTX_BLOCKS}})}),
    VAEKind("LTX-Video 0.9.5, LTX-2", _LTX_MARKERS, (1, 128, 2, 2, 3), (9, 64, 96, 3),
            metadata={"config": json.dumps({"vae": _LTX | _LTX_TIMESTEP})}),
    VAEKind("HunyuanVideo", {"decoder.conv_in.conv.weight": (1, 16), "post_quant_conv.weight": (16, 16, 1, 1, 1)},
            (1, 16, 2, 2, 3), (5, 32, 48, 3), {_KL: _SMALL}),
    VAEKind("HunyuanVideo 1.5", {"decoder.conv_in.conv.weight": (1, 32)}, (1, 32, 2, 2, 3), (5, 32, 48, 3),
            {_ENGINE: _SMALL_3D}),
    VAEKind("CogVideoX", {"decoder.conv_in.conv.weight": (1, 16), "encoder.conv_out.conv.weight": (32,),
                          "decoder.mid_block.resnets.0.norm1.norm_layer.weight": (1,)},
            (1, 16, 2, 2, 3), (5, 32, 48, 3),
            {"comfy.ldm.cogvideo.vae:AutoencoderKLCogVideoX":
                {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1}}),
    VAEKind("Cosmos", {"decoder.unpatcher3d.wavelets": (1,)}, (1, 16, 2, 4, 4), (9, 32, 48, 3),
            {"comfy.ldm.cosmos.vae:CausalContinuousVideoTokenizer": {"channels": 16, "num_res_blocks": 1}}),
    VAEKind("Wan 2.1", {"decoder.middle.0.residual.0.gamma": (1,), "decoder.head.0.gamma": (16,),
                        "encoder.conv1.weight": (1, 3), "decoder.head.2.weight": (3,)},
            (1, 16, 3, 2, 3), (9, 16, 32, 3)),
    VAEKind("Qwen-Image", {"decoder.middle.0.residual.0.gamma": (1,), "decoder.head.0.gamma": (16,),
                           "encoder.conv1.weight": (1, 4), "decoder.head.2.weight": (4,)},
            (1, 16, 1, 2, 3), (1, 16, 32, 3)),
    VAEKind("Wan 2.2", {"decoder.middle.0.residual.0.gamma": (1,),
                        "decoder.upsamples.0.upsamples.0.residual.2.weight": (1,)}, (1, 48, 2, 2, 3), (5, 32, 48, 3),
            {"comfy.ldm.wan.vae2_2:WanVAE": {"dim": 16, "dec_dim": 16, "num_res_blocks": 1}}),
    VAEKind("Mochi", {"decoder.blocks.2.blocks.3.stack.5.weight": (1,)}, (1, 12, 2, 2, 3), (7, 16, 32, 3),
            {"comfy.ldm.genmo.vae.model:Encoder": {"base_channels": 32, "channel_multipliers": [1, 2, 3, 4],
                                                   "num_res_blocks": [1, 1, 1, 1, 1]},
             "comfy.ldm.genmo.vae.model:Decoder": {"base_channels": 32, "channel_multipliers": [1, 2, 3, 4],
                                                   "num_res_blocks": [1, 1, 1, 1, 1]}}),
    VAEKind("MiniMax H3 video", {"decoder.transformer_blocks.0.scale1": (1,),
                                 "encoder.down.5.block.0.conv1.weight": (1,)}, (1, 24, 2, 2, 3), (5, 32, 64, 3),
            {"comfy.ldm.minimax.vae:ViT3DDecoder": {"num_layers": 2, "heads": 1},
             "comfy.ldm.minimax.vae:MiniMaxH3VideoVAE": {"ch": 32, "num_res_blocks": 1}}),
    VAEKind("SeedVR2", {"decoder.up_blocks.2.upsamplers.0.upscale_conv.weight": (1,)},
            (1, 16, 2, 2, 3), (5, 32, 48, 3),
            {"comfy.ldm.seedvr.vae:Encoder3D": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1},
             "comfy.ldm.seedvr.vae:Decoder3D": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1}}),
    VAEKind("TAEHV (HunyuanVideo)", {"decoder.22.bias": (3,), "decoder.1.weight": (256, 16, 3, 3)}, (1, 16, 2, 2, 3),
            (5, 16, 32, 3), dtype=torch.float16),
    VAEKind("light TAEW 2.1", {"decoder.22.bias": (3,), "decoder.1.weight": (256, 16, 3, 3)}, (1, 16, 2, 2, 3),
            (5, 16, 32, 3)),
    VAEKind("TAEW 2.2", {"decoder.22.bias": (12,), "decoder.1.weight": (256, 48, 3, 3)}, (1, 48, 2, 2, 3),
            (5, 32, 64, 3)),
    VAEKind("light TAE of HunyuanVideo 1.5", {"decoder.22.bias": (12,), "decoder.1.weight": (256, 32, 3, 3)},
            (1, 32, 2, 2, 3), (5, 32, 64, 3)),
    VAEKind("TAE of LTX-2", {"decoder.22.bias": (48,), "decoder.1.weight": (256, 128, 3, 3)}, (1, 128, 2, 2, 3),
            (9, 64, 64, 3)),
    VAEKind("Stable Audio", {"decoder.layers.1.layers.0.beta": (1,)}, (1, 64, 3), (1, 4096, 2),
            {"comfy.sd:AudioOobleckVAE": {"channels": 8}}),
    VAEKind("ACE-Step 1.5", {"decoder.layers.1.layers.0.beta": (1,), "decoder.layers.2.layers.1.weight_v": (1, 1, 12)},
            (1, 64, 3), (1, 3840, 2), {"comfy.sd:AudioOobleckVAE": {"channels": 8}}),
    VAEKind("Stable Audio 3", {"decoder.layers.3.transformers.0.pre_norm.alpha": (1,)}, (1, 256, 4), (1, 16384, 2),
            {"comfy.ldm.audio.vae_sa3:SA3AudioVAE": {"channels": 32, "transformer_depths": 4}}),
    VAEKind("ACE-Step", {"vocoder.backbone.channel_layers.0.0.bias": (1,)}, (1, 8, 16, 3), (1, 8192, 2),
            {"comfy.ldm.ace.vae.music_dcae_pipeline:AutoencoderDC": {
                "attention_head_dim": 16, "encoder_block_out_channels": (16, 32, 32, 64),
                "decoder_block_out_channels": (16, 32, 32, 64), "encoder_layers_per_block": (1, 1, 1, 1),
                "decoder_layers_per_block": (1, 1, 1, 1)},
             "comfy.ldm.ace.vae.music_dcae_pipeline:ADaMoSHiFiGANV1": {
                "depths": [1, 1, 1, 1], "dims": [16, 32, 32, 64], "num_mels": 64, "upsample_initial_channel": 256}}),
    VAEKind("MMAudio", {"vocoder.activation_post.downsample.lowpass.filter": (1,)}, (1, 20, 6), (1, 13230, 2),
            {"comfy.ldm.mmaudio.vae.vae:VAE": {"hidden_dim": 32},
             "comfy.ldm.mmaudio.vae.autoencoder:BigVGANVocoder": {
                "upsample_initial_channel": 128, "resblock_kernel_sizes": [3, 7],
                "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]]}}),
    VAEKind("LTX-2 audio", {"vocoder.resblocks.0.convs1.0.weight": (1,)}, (1, 8, 3, 16), (1, 16384, 2),
            renamed={"autoencoder.": "audio_vae."}, metadata={"config": json.dumps(_AUDIO)}),
    VAEKind("MiniMax H3 audio", {"pre_block.attn.zero_k_bias": (1,)}, (1, 32, 2, 3), (1, 2400, 2),
            {"comfy.ldm.minimax.audio_vae:MiniMaxH3AudioVAE": {
                "encoder_dim": 8, "latent_dim": 128, "decoder_dim": 256}}),
    VAEKind("Hunyuan3D", {"geo_decoder.cross_attn_decoder.ln_1.bias": (1,)}, (1, 64, 20), None,
            {"comfy.ldm.hunyuan3d.vae:ShapeVAE": {
                "num_latents": 32, "width": 64, "heads": 2, "num_decoder_layers": 2, "num_encoder_layers": 1,
                "pc_size": 64}},
            options={"num_chunks": 100, "octree_resolution": 7}, note="core's encode has no pre_kl to call"),
    VAEKind("TripoSplat", {"gs.base_offset_scale": (), "octree.out_proj.weight": (8, 64)}, None, None,
            {"comfy.ldm.triposplat.vae:OctreeProbabilityFixedlenDecoder":
                {"model_channels": 64, "num_heads": 2, "num_blocks": 1},
             "comfy.ldm.triposplat.vae:ElasticGaussianFixedlenDecoder":
                {"model_channels": 64, "num_heads": 2, "num_blocks": 2}},
            zeros=("octree.out_proj.weight",), note="decodes to points, by a node of its own"),
)  # fmt: skip
