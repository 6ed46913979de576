"""The classes of comfy.supported_models: for each a small file, or why there is none."""

from __future__ import annotations

import torch

from .small_diffusion import Shapes, Small, Tensors, of_case, sd, sdxl, unet, wide

# No diffusion models, though core detects them in the same way: no sampler runs them (test_seams_detection.py).
OTHERS = {
    "RT_DETR_v4": "finds objects",
    "SAM3": "cuts objects out",
    "SAM31": "cuts objects out",
    "DepthAnything3": "measures depth",
}

VIDEO = {
    "use_temporal_resblock": True, "use_temporal_attention": True, "extra_ff_mix_layer": True,
    "use_spatial_context": True, "merge_strategy": "learned_with_images", "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1], "disable_temporal_crossattention": False,
}  # fmt: skip
HEADS = {"num_heads": 8, "num_head_channels": -1}
SD1 = HEADS | {"use_linear_in_transformer": False}
CHROMA = {"out_dim": 128, "hidden_dim": 96, "n_layers": 2}
NERF = {"nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 2, "nerf_max_freqs": 4}
PIXART = {"hidden_size": 96, "num_heads": 4, "caption_channels": 48, "pe_interpolation": 1}
HUNYUAN_DIT = {"num_heads": 2, "text_states_dim": 48, "text_states_dim_t5": 64, "text_len": 9, "text_len_t5": 12}
MT5 = {"conditioning_mt5xl": (1, 12, 64), "attention_mask_mt5xl": torch.ones(1, 12, dtype=torch.long)}
OMNIGEN = {
    "hidden_size": 240, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1,
    "multiple_of": 32, "axes_lens": (64, 32, 32), "text_feat_dim": 48,
}  # fmt: skip
QWEN = {"num_attention_heads": 1, "joint_attention_dim": 48}
LUMINA = {
    "n_heads": 2, "n_kv_heads": 1, "n_refiner_layers": 1, "multiple_of": 32, "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 2.0,
}  # fmt: skip
Z_IMAGE = LUMINA | {
    "n_kv_heads": 2, "axes_dims": [32, 48, 48], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
COSMOS = {"num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": 48, "adaln_lora_dim": 16}
PREDICT = {"num_blocks": 2, "num_heads": 1, "adaln_lora_dim": 16} | {
    f"{name}_extrapolation_ratio": 1.0 for name in ("rope_h", "rope_w", "rope_t")
} | {"extra_per_block_abs_pos_emb": False}  # fmt: skip
PIXEL_DIT = {
    "num_groups": 2, "hidden_size": 128, "pixel_hidden_size": 16, "pixel_attn_hidden_size": 128, "pixel_num_groups": 2,
    "patch_depth": 2, "pixel_depth": 1, "txt_embed_dim": 48, "txt_max_length": 20,
}  # fmt: skip
LTX_AV = {
    "num_attention_heads": 2, "attention_head_dim": 64, "caption_channels": 48, "audio_cross_attention_dim": 64,
    "audio_attention_head_dim": 32, "audio_num_attention_heads": 2, "causal_temporal_positioning": True,
    "use_middle_indices_grid": True, "connector_attention_head_dim": 48, "connector_num_attention_heads": 1,
    "connector_num_layers": 1,
}  # fmt: skip
SECONDS_TOTAL = "conditioner.conditioners.seconds_total.embedder.embedding"
SECONDS_START = "conditioner.conditioners.seconds_start.embedder.embedding"
LEARNED = {"0.weights": (128,), "1.weight": (768, 257), "1.bias": (768,)}


def _camera() -> Shapes:
    """Wan 2.2's has no image embedding."""
    return {key: shape for key, shape in of_case("Wan 2.1 Camera")().items() if "img" not in key}


def _pixel_dit(tensors: Tensors) -> Tensors:
    """Two layers are one in the file, with rows for each pixel of a patch."""
    found = {}
    for name, tensor in tensors.items():
        if ".adaLN_modulation_mlp." in name:
            continue
        if ".adaLN_modulation_msa." in name:
            both = tensor, tensors[name.replace("_msa.", "_mlp.")]
            width = 3 * PIXEL_DIT["pixel_hidden_size"]
            tensor = torch.cat([x.unflatten(0, (-1, width)) for x in both], dim=1).flatten(0, 1)
        found["core." + name.replace("_modulation_msa.", "_modulation.0.")] = tensor
    return found


SMALL = (
    Small("LotusD", unet(adm_in_channels=4), other=True, real=sd(adm_in_channels=4)),
    Small("SD15_instructpix2pix", unet(in_channels=8, **SD1),
          other=True, real=sd(in_channels=8, context_dim=768, **SD1)),
    Small("SD15", unet(**SD1), other=True, real=sd(context_dim=768, **SD1)),
    Small("SD20", unet(), other=True, real=sd()),
    Small("SD21UnclipL", unet(adm_in_channels=1536), other=True, real=sd(adm_in_channels=1536)),
    Small("SD21UnclipH", unet(adm_in_channels=2048), other=True, real=sd(adm_in_channels=2048)),
    Small("SDXL_instructpix2pix", unet(in_channels=8, adm_in_channels=2816), other=True,
          pooled=1280, real=sdxl(in_channels=8)),
    Small("SDXLRefiner", unet(adm_in_channels=2560), other=True,
          pooled=1280, real=sdxl(model_channels=384, num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4],
          context_dim=1280, adm_in_channels=2560, transformer_depth=[0, 0, 4, 4, 4, 4, 0, 0])),
    Small("SDXL", unet(adm_in_channels=2816), other=True, pooled=1280, real=sdxl()),
    Small("SSD1B", unet(adm_in_channels=2816, transformer_depth_middle=-1), other=True,
          pooled=1280, real=sdxl(transformer_depth=[0, 0, 2, 2, 4, 4], transformer_depth_middle=-1)),
    Small("KOALA_700M", unet(adm_in_channels=2816, transformer_depth_middle=-2), other=True,
          pooled=1280, real=sdxl(num_res_blocks=[1, 1, 1], transformer_depth=[0, 2, 5], transformer_depth_middle=-2)),
    Small("KOALA_1B", unet(adm_in_channels=2816), other=True,
          pooled=1280, real=sdxl(num_res_blocks=[1, 1, 1], transformer_depth=[0, 2, 6])),
    Small("Segmind_Vega", unet(adm_in_channels=2816, transformer_depth_middle=-1), other=True,
          pooled=1280, real=sdxl(transformer_depth=[0, 0, 1, 1, 2, 2], transformer_depth_middle=-1)),
    Small("SD_X4Upscaler", unet(in_channels=7, num_classes=1000, disable_self_attentions=[True, False], **SD1),
          {"disable_self_attentions": [True, False]},
        other=True, real=sd(model_channels=256, in_channels=7, num_classes=1000, channel_mult=[1, 2, 2, 4],
        transformer_depth=[0, 0, 1, 1, 1, 1, 1, 1], transformer_depth_output=[0] * 3 + [1] * 9,
        disable_self_attentions=[True] * 3 + [False], **HEADS)),
    Small("Stable_Zero123", unet(in_channels=8, context_dim=768, **SD1), other=True,
          beside={"cc_projection.weight": (768, 772), "cc_projection.bias": (768,)},
        text=772, real=sd(in_channels=8, context_dim=768, **SD1)),
    Small("SVD_img2vid", unet(in_channels=8, adm_in_channels=768, **VIDEO),
          other=True, real=sd(in_channels=8, adm_in_channels=768, **VIDEO)),
    Small("SV3D_u", unet(in_channels=8, adm_in_channels=256, **VIDEO),
          other=True, real=sd(in_channels=8, adm_in_channels=256, **VIDEO)),
    Small("SV3D_p", unet(in_channels=8, adm_in_channels=1280, **VIDEO),
          other=True, real=sd(in_channels=8, adm_in_channels=1280, **VIDEO)),
    Small("Stable_Cascade_C", of_case("Stable Cascade C"), {
        "c_cond": 64, "c_hidden": [64, 64], "nhead": [4, 4], "blocks": [[1, 2], [2, 1]], "c_clip_text": 48,
        "c_clip_text_pooled": 48, "c_clip_img": 768}, pooled=48),
    Small("Stable_Cascade_B", of_case("Stable Cascade B"), {
        "c_cond": 64, "c_hidden": [32, 64, 64], "nhead": [-1, -1, 4], "blocks": [[1, 1, 1], [1, 1, 1]],
        "block_repeat": [[1, 1, 1], [2, 1, 1]], "level_config": ["CT", "CT", "CTA"], "dropout": [0, 0, 0],
        "c_clip": 48}, pooled=48, given={"stable_cascade_prior": (1, 16, 4, 6)}),
    Small("SD3", of_case("SD3.5 medium (x self attention)")),
    Small("StableAudio3", of_case("Stable Audio 3"), {"num_heads": 12, "embed_dim": 768, "global_cond_dim": 768,
          "io_channels": 256, "local_add_cond_dim": 257}, beside={
        f"{SECONDS_TOTAL}.1.weight": (768, 256), f"{SECONDS_TOTAL}.1.bias": (768,),
        "conditioner.conditioners.prompt.padding_embedding": (768,)}, text=768),
    Small("StableAudio", of_case("Stable Audio 1"), {"num_heads": 12, "embed_dim": 768, "global_cond_dim": 1536,
          "io_channels": 64}, beside={
        f"{at}.{name}": shape for at in (SECONDS_START, SECONDS_TOTAL) for name, shape in LEARNED.items()}, text=768),
    Small("AuraFlow", of_case("AuraFlow"), {"dim": 256, "n_heads": 1, "global_conddim": 256},
          other=True, real=wide("AuraFlow", **{"cond_seq_linear.weight": (1, 2048)})),
    Small("PixArtAlpha", of_case("PixArt Alpha"), PIXART, given={"width": 512, "height": 512}, latent=(36, 36)),
    Small("PixArtSigma", of_case("PixArt Sigma"), PIXART, latent=(36, 36)),
    Small("HunyuanDiT", of_case("HunyuanDiT 1.2"), HUNYUAN_DIT, given=MT5),
    Small("HunyuanDiT1", of_case("HunyuanDiT 1.1 (size, style)"), HUNYUAN_DIT | {
        "size_cond": True, "use_style_cond": True}, other=True,
        given=MT5, real=wide("HunyuanDiT 1.1 (size, style)", **{"x_embedder.proj.weight": (1408, 4, 2, 2),
        "extra_embedder.0.weight": (1, 3968)})),
    Small("FluxInpaint", of_case("Flux Fill (384 channels)"), text=64),
    Small("Flux", of_case("Flux dev"), text=64),
    Small("LongCatImage", of_case("LongCat image"), {"context_in_dim": 3584, "txt_ids_dims": [1, 2]},
          text=3584, real=wide("LongCat image", **{"txt_in.weight": (128, 3584)})),
    Small("FluxSchnell", of_case("Flux schnell"), text=64),
    Small("GenmoMochi", of_case("Mochi"), {
        "depth": 2, "num_heads": 2, "hidden_size_x": 128, "hidden_size_y": 64, "mlp_ratio_x": 96.0,
        "mlp_ratio_y": 96.0, "t5_feat_dim": 48}),
    Small("LTXV", of_case("LTX-Video"), text=4096),
    Small("LTXAV", of_case("LTX-2 (audio and video)"), LTX_AV, second=(8, 11, 16), given={"attention_mask": None}),
    Small("MiniMaxH3", of_case("MiniMax H3 (audio and video)"), {"latents_dim": 32}, second=(32, 2, 6)),
    Small("HunyuanVideo15_SR_Distilled", of_case("HunyuanVideo 1.5"), {"in_channels": 98, "vision_in_dim": 1152},
          real=wide("HunyuanVideo 1.5", **{"vision_in.proj.0.weight": (1152,), "img_in.proj.weight": (128, 98, 1, 1,
          1)})),
    Small("HunyuanVideo15", of_case("HunyuanVideo 1.5"), {"vision_in_dim": 1152}, real=wide("HunyuanVideo 1.5",
          **{"vision_in.proj.0.weight": (1152,), "img_in.proj.weight": (128, 65, 1, 1, 1)})),
    Small("HunyuanImage21Refiner", of_case("HunyuanImage 2.1"), {
        "patch_size": [1, 1, 1], "axes_dim": [16, 56, 56], "in_channels": 128},
        other=True, real=wide("HunyuanImage 2.1", **{"img_in.proj.weight": (128, 128, 1, 1, 1)})),
    Small("HunyuanImage21", of_case("HunyuanImage 2.1")),
    Small("HunyuanVideoSkyreelsI2V", of_case("HunyuanVideo"), {"in_channels": 32},
          pooled=768, real=wide("HunyuanVideo", **{"img_in.proj.weight": (128, 32, 1, 2, 2)})),
    Small("HunyuanVideoI2V", of_case("HunyuanVideo"), {"in_channels": 33},
          pooled=768, real=wide("HunyuanVideo", **{"img_in.proj.weight": (128, 33, 1, 2, 2)})),
    Small("HunyuanVideo", of_case("HunyuanVideo"), pooled=768),
    Small("CosmosT2V", of_case("Cosmos 1"), COSMOS),
    Small("CosmosI2V", of_case("Cosmos 1"), COSMOS | {"in_channels": 17}, real=wide("Cosmos 1",
          **{"x_embedder.proj.1.weight": (128, 72)})),
    Small("CosmosT2IPredict2", of_case("Cosmos Predict2"), PREDICT | {"crossattn_emb_channels": 48},
          real=wide("Cosmos Predict2", **{"x_embedder.proj.1.weight": (2048, 68)})),
    Small("CosmosI2VPredict2", of_case("Cosmos Predict2"), PREDICT | {"crossattn_emb_channels": 48, "in_channels": 17},
          real=wide("Cosmos Predict2", **{"x_embedder.proj.1.weight": (2048, 72)})),
    Small("ZImagePixelSpace", of_case("Z-Image pixel space"), Z_IMAGE | {
        "patch_size": 8, "in_channels": 3, "decoder_hidden_size": 48, "decoder_num_res_blocks": 2,
        "decoder_max_freqs": 4, "decoder_in_channels": 192, "use_x0": True},
        other=True, real=wide("Z-Image pixel space", **{"cap_embedder.1.weight": (3840, 2560)})),
    Small("ZImage", of_case("Z-Image"), Z_IMAGE,
          other=True, real=wide("Z-Image", **{"cap_embedder.1.weight": (3840, 2560)})),
    Small("PiD", of_case("PiD"), PIXEL_DIT | {"lq_num_res_blocks": 1},
          given={"lq_latent": (1, 16, 8, 12), "degrade_sigma": (1,)}, latent=(256, 384)),
    Small("PixelDiTT2I", of_case("PixelDiT"), PIXEL_DIT, stored=_pixel_dit, latent=(64, 96)),
    Small("Lumina2", of_case("Lumina 2"), LUMINA, real=wide("Lumina 2", **{"cap_embedder.1.weight": (2304, 2304)})),
    Small("WAN22_T2V", of_case("Wan 2.2 5B"), text=4096),
    Small("WAN21_CausalAR_T2V", of_case("Wan 2.1 t2v"), other=True, text=4096, config={"causal_ar": True}),
    Small("WAN21_T2V", of_case("Wan 2.1 t2v"), text=4096),
    Small("WAN21_I2V", of_case("Wan 2.1 i2v"), text=4096),
    Small("WAN21_FunControl2V", of_case("Wan 2.1 Fun control (ref conv)"), text=4096),
    Small("WAN21_Vace", of_case("Wan 2.1 VACE"), text=4096),
    Small("WAN21_Camera", of_case("Wan 2.1 Camera"), text=4096),
    Small("WAN22_Camera", _camera, {"in_dim": 36},
          text=4096, real=lambda: {**_camera(), "patch_embedding.weight": (128, 36, 1, 2, 2)}),
    Small("WAN22_S2V", of_case("Wan 2.2 S2V"), text=4096),
    Small("WAN21_HuMo", of_case("Wan 2.1 HuMo"), text=4096),
    Small("WAN22_Animate", of_case("Wan 2.2 Animate"), text=4096),
    Small("WAN21_FlowRVS", of_case("Wan 2.1 t2v"), {"model_type": "flow_rvs"}, other=True,
          text=4096, config={"model_type": "flow_rvs"}),
    Small("WAN21_SCAIL", of_case("Wan 2.1 SCAIL"), text=4096),
    Small("WAN21_SCAIL2", of_case("Wan 2.1 SCAIL 2"), text=4096),
    Small("WAN22_WanDancer", of_case("Wan 2.2 WanDancer"), text=4096),
    Small("Hunyuan3Dv2mini", of_case("Hunyuan3D 2.0"), {"depth": 8}, real=wide("Hunyuan3D 2.0",
          **{f"double_blocks.{n}.": () for n in range(8)})),
    Small("Hunyuan3Dv2", of_case("Hunyuan3D 2.0")),
    Small("Hunyuan3Dv2_1", of_case("Hunyuan3D 2.1 (MoE)"), text=1024),
    Small("TripoSplat", of_case("TripoSplat"), {
        "q_token_length": 16, "model_channels": 128, "cond_channels": 48, "num_blocks": 2, "num_refiner_blocks": 1},
        latent=(16,), second=(1, 5), given={"reference_latents": [torch.ones(1, 128, 2, 2)]}),
    Small("HiDream", of_case("HiDream"), {
        "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1, "caption_channels": [48, 48],
        "text_emb_dim": 32, "max_resolution": (16, 16), "llama_layers": [0, 1], "num_routed_experts": 4},
        given={"conditioning_llama3": (1, 2, 9, 48)}),
    Small("HiDreamO1", of_case("HiDream O1"), {
        "text_config_overrides": {
            "vocab_size": 151936, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128},
        "vision_config_overrides": {
            "hidden_size": 32, "intermediate_size": 48, "depth": 1, "num_heads": 2, "deepstack_visual_indexes": []}},
        given={"text_input_ids": torch.arange(7)[None]}, latent=(64, 96)),
    Small("Chroma", of_case("Chroma"), CHROMA, text=64),
    Small("SeedVR2", of_case("SeedVR2 3B"), {
        "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu", "vid_dim": 128, "txt_in_dim": 5120, "heads": 1,
        "head_dim": 128, "mm_layers": 1, "vid_out_norm": True}, other=True, text=5120,
        given={"condition": (1, 17, 2, 8, 12)}, real=wide("SeedVR2 3B", **{"blocks.31.mlp.all.proj_in_gate.weight": (1,
        1)})),
    Small("ChromaRadiance", of_case("Chroma Radiance (conv head)"), CHROMA | NERF, text=64, latent=(32, 48)),
    Small("ACEStep", of_case("ACE-Step 1"), {
        "num_layers": 2, "inner_dim": 128, "attention_head_dim": 64, "num_attention_heads": 2, "mlp_ratio": 2.0,
        "max_position": 512, "max_width": 512, "text_embedding_dim": 48, "ssl_latent_dims": [16, 16],
        "lyric_encoder_vocab_size": 100, "lyric_hidden_size": 1024},
        given={"conditioning_lyrics": torch.arange(1, 7)[None]}, latent=(16, 12)),
    Small("ACEStep15", of_case("ACE-Step 1.5"), {"num_kv_heads": 1, "fsq_dim": 128},
          given={"conditioning_lyrics": (1, 7, 1024)}, text=1024),
    Small("Omnigen2", of_case("OmniGen2"), OMNIGEN),
    Small("Boogu", of_case("Boogu"), {
        "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": (40, 40, 40),
        "axes_lens": (64, 32, 32)}),
    Small("MageFlow", of_case("Mage-Flow"), QWEN | {"in_channels": 128},
          other=True, real=wide("Mage-Flow", **{"txt_norm.weight": (2560,), "proj_out.weight": (128, 1)})),
    Small("QwenImage", of_case("Qwen-Image"), QWEN),
    Small("JoyImage", of_case("JoyImage"), text=4096),
    Small("Ideogram4", of_case("Ideogram 4"), {
        "num_attention_heads": 1, "attention_head_dim": 128, "intermediate_size": 256, "adaln_dim": 32,
        "llm_features_dim": 48}),
    Small("Krea2", of_case("Krea 2"), {"txtheads": 2, "txtkvheads": 2}, latent=(1, 8, 12), text=144),
    Small("Flux2", of_case("Flux.2"), text=64),
    Small("Lens", of_case("Lens"), text=96),
    Small("Kandinsky5Image", of_case("Kandinsky 5 image"), other=True, text=3584,
          pooled=768, real=wide("Kandinsky 5 image", **{"visual_embeddings.in_layer.bias": (2560,)})),
    Small("Kandinsky5", of_case("Kandinsky 5 video"), text=3584, pooled=768),
    Small("Anima", of_case("Anima"), PREDICT, text=1024,
          given={"t5xxl_ids": torch.arange(7), "t5xxl_weights": torch.ones(7)}, real=wide("Anima",
        **{"x_embedder.proj.1.weight": (2048, 68)})),
    Small("ErnieImage", of_case("Ernie image"), {
        "hidden_size": 256, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 384, "text_in_dim": 48}),
    Small("CogVideoX_Inpaint", of_case("CogVideoX 1.5 i2v"), {"in_channels": 48}, real=wide("CogVideoX 1.5 i2v",
          **{"patch_embed.proj.weight": (192, 384)})),
    Small("CogVideoX_I2V", of_case("CogVideoX 1.5 i2v")),
    Small("CogVideoX_T2V", of_case("CogVideoX 5B (rotary)")),
)  # fmt: skip
