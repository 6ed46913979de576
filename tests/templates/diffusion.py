"""Diffusion models at real size: for each the kind of tests/e2e/any_diffusion.py, and what makes it as large.

Core's detection builds the real model of a few tensors that it goes by, so that names and shapes are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..e2e.any_diffusion import SMALL
from ..e2e.small_diffusion import Shapes, Small, of_case, sdpose

BY_KIND = {small.kind: small for small in SMALL}


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model of the kind `kind`, small and real.

    blocks: how many the real one has, by the names they begin with. markers: shapes of those tensors of it that core's
    detection reads, () where only the name counts. without: beginnings of names that it lacks. case: of
    tests/parity/families, where the kind's own has another structure. config: what the metadata of a real file say.
    wide: tensors by which the small one takes the text of the real one, with the heads for it. start: names and shapes
    of the small one, where the kind's own has another structure. sizes: of the small one, as nodes have them.
    """

    kind: str
    blocks: Mapping[str, int] = field(default_factory=dict)
    markers: Shapes = field(default_factory=dict)
    without: tuple[str, ...] = ()
    case: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    wide: tuple[str, ...] = ()
    start: Callable[[], Shapes] | None = None
    sizes: Mapping[str, object] = field(default_factory=dict)

    def small(self) -> Small:
        """The small model, whose structure core is made to find."""
        return BY_KIND[self.kind]

    def shapes(self) -> Shapes:
        """Names and shapes of a file of the real one."""
        return self._sized().real_shapes()

    @property
    def metadata(self) -> dict[str, str]:
        """Of a file of the real one."""
        return self._sized().metadata

    def _sized(self) -> Small:
        small = BY_KIND[self.kind]
        start: Callable[[], Shapes] = of_case(self.case) if self.case else small.real or small.start

        def sized() -> Shapes:
            kept = {name: shape for name, shape in start().items() if not name.startswith(self.without or ("\0",))}
            more = {f"{prefix}.{n}.": () for prefix, count in self.blocks.items() for n in range(count)}
            return {**kept, **more, **self.markers}

        return replace(small, real=sized, config=self.config or small.config)


def _flux(channels: int = 64, **more: tuple[int, ...]) -> Shapes:
    return {
        "img_in.weight": (3072, channels), "txt_in.weight": (3072, 4096), "vector_in.in_layer.weight": (3072, 768),
        **more,
    }  # fmt: skip


def _flux_2(width: int, text: int, double: int, single: int, guidance: bool = False) -> Diffusion:
    return Diffusion(
        "Flux2", {"double_blocks": double, "single_blocks": single},
        {"img_in.weight": (width, 128), "txt_in.weight": (width, text)}, () if guidance else ("guidance_in",),
    )  # fmt: skip


def _wan(kind: str = "WAN21_T2V", channels: int = 16, size: str = "14B", case: str = "", **more: int) -> Diffusion:
    """more: counts of blocks of other kinds."""
    width, inner, layers = {"14B": (5120, 13824, 40), "1.3B": (1536, 8960, 30), "5B": (3072, 14336, 30)}[size]
    out = 48 if size == "5B" else 16
    return Diffusion(kind, {"blocks": layers, **more}, {
        "head.modulation": (1, 2, width), "head.head.weight": (4 * out, width),
        "blocks.0.ffn.0.weight": (inner, width), "patch_embedding.weight": (width, channels, 1, 2, 2),
    }, case=case)  # fmt: skip


def _hunyuan_1_5(kind: str = "HunyuanVideo15", channels: int = 65) -> Diffusion:
    return Diffusion(kind, {"double_blocks": 54}, {
        "img_in.proj.weight": (2048, channels, 1, 1, 1), "txt_in.input_embedder.weight": (2048, 3584),
        "final_layer.linear.weight": (32, 2048), "vision_in.proj.0.weight": (1152,),
    }, ("single_blocks", "vector_in", "guidance_in"))  # fmt: skip


_CHROMA = {"double_blocks": 19, "single_blocks": 38}
_WAN_5B_CONTROL = {"head.modulation": (1, 2, 3072)}
_LTX_2 = {
    "causal_temporal_positioning": True, "use_middle_indices_grid": True, "av_ca_timestep_scale_multiplier": 1000.0,
    "connector_num_layers": 2, "rope_type": "split", "frequencies_precision": "float64",
}  # fmt: skip
_LTX_2_3 = _LTX_2 | {
    "apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True,
    "connector_num_layers": 8, "connector_num_attention_heads": 32, "connector_attention_head_dim": 128,
    "audio_connector_num_attention_heads": 32, "audio_connector_attention_head_dim": 64,
    "connector_apply_gated_attention": True, "caption_projection_first_linear": False,
}  # fmt: skip

DIFFUSION: Mapping[str, Diffusion] = {
    "SD1.5": Diffusion("SD15"),
    "SDXL": Diffusion("SDXL", {"middle_block.1.transformer_blocks": 10}),
    "SDXL refiner": Diffusion("SDXLRefiner", {"middle_block.1.transformer_blocks": 4}),
    "SVD": Diffusion("SVD_img2vid"),
    "Lotus": Diffusion("LotusD"),
    "SDPose": Diffusion("LotusD", markers={"heatmap_head.conv_layers.0.weight": (640, 640, 1, 1)}, start=sdpose),
    "SD3.5 large": Diffusion("SD3", {"joint_blocks": 38}, {
        "x_embedder.proj.weight": (2432, 16, 2, 2), "context_embedder.weight": (2432, 4096),
        "y_embedder.mlp.0.weight": (2432, 2048), "pos_embed": (1, 36864, 2432),
        "final_layer.linear.weight": (64, 2432)}, case="SD3.5 large (qk rms)"),
    "FLUX.1 dev": Diffusion("Flux", _CHROMA, _flux()),
    "FLUX.1 schnell": Diffusion("FluxSchnell", _CHROMA, _flux(), ("guidance_in",)),
    "FLUX.1 Fill": Diffusion("FluxInpaint", _CHROMA, _flux(384)),
    "FLUX.1 Canny": Diffusion("Flux", _CHROMA, _flux(128)),
    "FLUX.2 dev": _flux_2(6144, 15360, 8, 48, guidance=True),
    "FLUX.2 Klein 4B": _flux_2(3072, 7680, 5, 20),
    "FLUX.2 Klein 9B": _flux_2(4096, 12288, 8, 24),
    "Ovis-Image": Diffusion("FluxSchnell", {"double_blocks": 6, "single_blocks": 27}, {
        "img_in.weight": (3072, 64), "txt_in.weight": (3072, 2048)}, case="Ovis image (yak mlp, txt norm)"),
    "LongCat-Image": Diffusion("LongCatImage", {"double_blocks": 10, "single_blocks": 20}, {
        "img_in.weight": (3072, 64), "txt_in.weight": (3072, 3584)}),
    "Chroma": Diffusion("Chroma", _CHROMA, {"img_in.weight": (3072, 64), "txt_in.weight": (3072, 4096)}),
    "Chroma Radiance": Diffusion("ChromaRadiance", _CHROMA, {
        "img_in_patch.weight": (3072, 3, 16, 16), "txt_in.weight": (3072, 4096)}),
    "Qwen-Image": Diffusion("QwenImage", {"transformer_blocks": 60}, {"img_in.weight": (3072, 64)}),
    "Qwen-Image-Edit 2511": Diffusion("QwenImage", {"transformer_blocks": 60}, {
        "img_in.weight": (3072, 64), "__index_timestep_zero__": ()}),
    "Qwen-Image-Layered": Diffusion("QwenImage", {"transformer_blocks": 60}, {"img_in.weight": (3072, 64)},
                                    case="Qwen-Image Layered"),
    "Z-Image": Diffusion("ZImage", {"layers": 30}),
    "NewBie": Diffusion("Lumina2", {"layers": 36}, {"clip_text_pooled_proj.0.weight": (1024,),
                        "cap_embedder.1.weight": (2304, 2560)}, case="NewBie (Lumina 2 with CLIP)"),
    "Lumina 2": Diffusion("Lumina2", {"layers": 26}, {"cap_embedder.1.weight": (2304, 2304)}),
    "HiDream I1": Diffusion("HiDream"),
    "HiDream O1": Diffusion("HiDreamO1"),
    "OmniGen2": Diffusion("Omnigen2"),
    "Boogu": Diffusion("Boogu", {"single_stream_layers": 32, "double_stream_layers": 8, "noise_refiner": 2}, {
        "x_embedder.weight": (3360, 64), "time_caption_embed.caption_embedder.0.weight": (4096,)}),
    "Mage-Flow": Diffusion("MageFlow", {"transformer_blocks": 12}),
    "JoyImage": Diffusion("JoyImage", {"double_blocks": 40}, {"img_in.weight": (4096, 16, 1, 2, 2)}),
    "Ideogram 4": Diffusion("Ideogram4", {"layers": 34}),
    "Krea 2": Diffusion("Krea2", {"blocks": 28}, {
        "first.weight": (6144, 64), "blocks.0.attn.wq.weight": (6144, 6144), "blocks.0.attn.wk.weight": (1536, 6144),
        "txtfusion.projector.weight": (1, 12), "txtfusion.layerwise_blocks.0.prenorm.scale": (2560,)},
        wide=("txtfusion.projector.weight", "txtfusion.layerwise_blocks.0.prenorm.scale")),
    "Lens": Diffusion("Lens", {"transformer_blocks": 48, "txt_norm": 4}, {
        "img_in.weight": (1536, 128), "proj_out.weight": (128, 1536), "txt_norm.0.weight": (2880,)},
        sizes={"enc_hidden_dim": 2880, "selected_layer_index": (0, 1, 2, 3)}),
    "Anima": Diffusion("Anima"),
    "Ernie-Image": Diffusion("ErnieImage"),
    "PixelDiT": Diffusion("PixelDiTT2I"),
    "PiD": Diffusion("PiD"),
    "Kandinsky 5 image": Diffusion("Kandinsky5Image", {"visual_transformer_blocks": 50, "text_transformer_blocks": 2}, {
        "visual_embeddings.in_layer.bias": (2560,), "time_embeddings.in_layer.bias": (512,),
        "visual_transformer_blocks.0.feed_forward.in_layer.weight": (10240, 2560)}),
    "Kandinsky 5 video": Diffusion("Kandinsky5", {"visual_transformer_blocks": 32, "text_transformer_blocks": 2}, {
        "visual_embeddings.in_layer.bias": (1792,), "time_embeddings.in_layer.bias": (512,),
        "visual_transformer_blocks.0.feed_forward.in_layer.weight": (7168, 1792)}),
    "Wan t2v 14B": _wan(),
    "Wan t2v 1.3B": _wan(size="1.3B"),
    "Wan causal 1.3B": replace(_wan("WAN21_CausalAR_T2V", size="1.3B"), config={"causal_ar": True}),
    "Wan 2.2 i2v 14B": _wan(channels=36, case="Wan 2.2 14B (36 channels)"),
    "Wan 2.2 5B": _wan("WAN22_T2V", 48, "5B"),
    "Wan 2.1 i2v 14B": replace(_wan("WAN21_I2V", 36), sizes={"num_heads": 2}),  # InfiniteTalk halves the heads
    "Wan 2.1 flf2v 14B": replace(_wan("WAN21_I2V", 36, case="Wan 2.1 flf2v")),
    "Wan 2.1 Fun control 1.3B": _wan("WAN21_FunControl2V", 48, "1.3B"),
    "Wan 2.1 Fun inpaint 1.3B": _wan("WAN21_I2V", 36, "1.3B"),
    "Wan 2.1 Fun camera 14B": _wan("WAN21_Camera", 32),
    "Wan 2.1 Fun camera 1.3B": _wan("WAN21_Camera", 32, "1.3B"),
    "Wan 2.2 Fun camera 14B": _wan("WAN22_Camera", 36),
    "Wan 2.2 Fun control 14B": _wan("WAN21_T2V", 52, case="Wan 2.2 14B (36 channels)"),
    "Wan 2.2 Fun control 5B": _wan("WAN22_T2V", 148, "5B"),
    "Wan 2.2 Fun inpaint 5B": _wan("WAN22_T2V", 100, "5B"),
    "Wan VACE 14B": _wan("WAN21_Vace", vace_blocks=8),
    "Wan VACE 1.3B": _wan("WAN21_Vace", size="1.3B", vace_blocks=15),
    "Wan 2.2 S2V 14B": _wan("WAN22_S2V"),
    "Wan HuMo 17B": _wan("WAN21_HuMo"),
    "Wan SCAIL 2 14B": _wan("WAN21_SCAIL2", 20),
    "WanDancer 14B": _wan("WAN22_WanDancer", 36),
    "HunyuanVideo": Diffusion("HunyuanVideo", {"double_blocks": 20, "single_blocks": 40}, {
        "img_in.proj.weight": (3072, 16, 1, 2, 2), "txt_in.input_embedder.weight": (3072, 4096),
        "final_layer.linear.weight": (64, 3072)}),
    "HunyuanVideo 1.5": _hunyuan_1_5(),
    "HunyuanVideo 1.5 upscaler": _hunyuan_1_5("HunyuanVideo15_SR_Distilled", 98),
    "LTX-Video 0.9": Diffusion("LTXV", {"transformer_blocks": 28}, {
        "transformer_blocks.0.attn2.to_k.weight": (2048, 2048)}),
    "LTX-2": Diffusion("LTXAV", {"transformer_blocks": 48}, {
        "transformer_blocks.0.attn2.to_k.weight": (4096, 4096)}, config=_LTX_2, sizes={
        "audio_attention_head_dim": 32, "connector_num_layers": 1, "connector_num_attention_heads": 30,
        "connector_attention_head_dim": 128}),
    "LTX-2.3": Diffusion("LTXAV", {"transformer_blocks": 48}, {
        "transformer_blocks.0.attn2.to_k.weight": (4096, 4096)}, config=_LTX_2_3, sizes={
        "cross_attention_dim": 128, "audio_cross_attention_dim": 64, "audio_attention_head_dim": 32,
        "connector_num_layers": 1,
        "connector_num_attention_heads": 2, "connector_attention_head_dim": 64,
        "audio_connector_num_attention_heads": 2, "audio_connector_attention_head_dim": 32}),
    "CogVideoX inpaint": Diffusion("CogVideoX_Inpaint", {"blocks": 42}, {
        "blocks.0.norm1.linear.weight": (18432, 512), "patch_embed.proj.weight": (3072, 48, 2, 2),
        "patch_embed.text_proj.weight": (3072, 4096)}, case="CogVideoX 5B (rotary)"),
    "MiniMax H3": Diffusion("MiniMaxH3", {"blocks": 50, "token_refiner.blocks": 2}, {
        "video_patch_proj.weight": (5376, 96), "final_layer.video_out.weight": (96, 5376),
        "final_layer.audio_out.weight": (32, 5376), "blocks.0.attn.q_norm.weight": (128,),
        "blocks.0.attn.qkv_proj.weight": (21504, 5376), "blocks.0.mlp.fc1.weight": (28672, 5376),
        "condition_proj.weight": (5376, 5120), "time_embedder.proj_in.weight": (5376, 256),
        "time_embedder.proj_out.weight": (2688, 5376), "rope.inv_freq": (16,)}),
    "SeedVR2 3B": Diffusion("SeedVR2"),
    "SeedVR2 7B": Diffusion("SeedVR2", markers={"blocks.35.mlp.vid.proj_out.weight": (3072, 1)}),
    "ACE-Step": Diffusion("ACEStep", sizes={"lyric_encoder_vocab_size": 6693}),  # as its tokenizer has words
    "ACE-Step 1.5": Diffusion("ACEStep15", {"decoder.layers": 24}, {
        "decoder.layers.0.self_attn_norm.weight": (2048,), "decoder.layers.0.mlp.gate_proj.weight": (6144, 2048),
        "decoder.layers.0.self_attn.q_proj.weight": (2048, 2048),
        "encoder.lyric_encoder.layers.0.input_layernorm.weight": (2048,),
        "encoder.lyric_encoder.layers.0.self_attn.q_proj.weight": (2048, 2048),
        "encoder.lyric_encoder.layers.0.mlp.gate_proj.weight": (6144, 2048)}),
    "ACE-Step 1.5 XL": Diffusion("ACEStep15", {"decoder.layers": 32}, {
        "decoder.layers.0.self_attn_norm.weight": (2560,), "decoder.layers.0.mlp.gate_proj.weight": (9728, 2560),
        "decoder.layers.0.self_attn.q_proj.weight": (4096, 2560),
        "encoder.lyric_encoder.layers.0.input_layernorm.weight": (2048,),
        "encoder.lyric_encoder.layers.0.self_attn.q_proj.weight": (2048, 2048),
        "encoder.lyric_encoder.layers.0.mlp.gate_proj.weight": (6144, 2048)}),
    "Stable Audio": Diffusion("StableAudio", {"transformer.layers": 24}, {
        "to_global_embed.0.weight": (1536, 1536), "to_cond_embed.0.weight": (768, 768),
        "to_timestep_embed.0.weight": (1536, 256), "postprocess_conv.weight": (64, 64, 1),
        "transformer.project_in.weight": (1536, 64)}),
    "Stable Audio 3": Diffusion("StableAudio3", {"transformer.layers": 24}, {
        "to_global_embed.0.weight": (1536, 768), "to_cond_embed.0.weight": (768, 768),
        "to_timestep_embed.0.weight": (1536, 256), "postprocess_conv.weight": (256, 256, 1),
        "transformer.project_in.weight": (1536, 256), "transformer.layers.0.to_local_embed.0.weight": (1536, 257)}),
    "Hunyuan3D 2.0": Diffusion("Hunyuan3Dv2", {"double_blocks": 16, "single_blocks": 32}, {
        "latent_in.weight": (1024, 64), "cond_in.weight": (1024, 1536)}),
    "Hunyuan3D 2.1": Diffusion("Hunyuan3Dv2_1", {"blocks": 21}, {"x_embedder.weight": (2048, 64)}),
    "TripoSplat": Diffusion("TripoSplat", sizes={"q_token_length": 8192}),
}  # fmt: skip
