"""A hundred combinations of ComfyUI's own nodes around a MODEL, which test_seams_combinations.py compares with core's.

An input that is not said is what the combination has of its type (see `Given`), or the node's own default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Use:
    """A node of core's and those of its inputs that are not its defaults."""

    kind: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Given:
    """The value that a combination has under that name, which is one of conditioning, or a type."""

    name: str


@dataclass(frozen=True)
class Combination:
    """Nodes on a model of that class of comfy.supported_models, and how it is sampled.

    uses: each has an effect on the result. sampling: nodes of which the last gives the result, KSampler if none.
    control: the kind of ControlNet of core_model_kinds. refused: the last of the nodes says this.
    """

    family: str
    uses: tuple[Use, ...]
    sampling: tuple[Use, ...] = ()
    steps: int = 6
    cfg: float = 4.0
    control: str = ""
    refused: str = ""

    @property
    def name(self) -> str:
        kinds = [use.kind for use in self.uses] + [use.kind for use in self.sampling][-1:]
        said = [str(use.inputs[x]) for use in self.sampling for x in ("sampler_name", "scheduler") if x in use.inputs]
        return "+".join([self.family, *kinds, *dict.fromkeys(said)])


def use(kind: str, **inputs: Any) -> Use:
    return Use(kind, inputs)


def of(family: str, *uses: Use, **more: Any) -> Combination:
    return Combination(family, uses, **more)


POSITIVE, NEGATIVE, SECOND, THIRD = (Given(name) for name in ("positive", "negative", "second", "third"))
LONG = Given("long")  # a conditioning of many tokens
IMAGE, MASK, VAE, SEEN, LATENT = (Given(name) for name in ("IMAGE", "MASK", "VAE", "CLIP_VISION_OUTPUT", "LATENT"))
HIGH, LOW, HOOKS, RANGE = (Given(name) for name in ("high_sigmas", "low_sigmas", "HOOKS", "TIMESTEPS_RANGE"))
FIRST = Given("FIRST")  # a latent of the size of the first one, with values

PAG = use("PerturbedAttentionGuidance", scale=3.0)
SAG = use("SelfAttentionGuidance", scale=0.8)
FREEU = use("FreeU_V2", b1=1.4, b2=1.6, s1=0.5, s2=0.2)
HYPERTILE = use("HyperTile", tile_size=64, swap_size=1, max_depth=1)
NAG = use("NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
RESCALE = use("RescaleCFG", multiplier=0.8)
APG = use("APG", eta=0.4, norm_threshold=1.0, momentum=0.3)
ZERO_STAR = use("CFGZeroStar")
NORM = use("CFGNorm", strength=0.5)
SHIFT, SHIFT_FEW = use("ModelSamplingSD3", shift=11.0), use("ModelSamplingSD3", shift=3.0)
SLG = use("SkipLayerGuidanceDiT", double_layers="0", single_layers="0", scale=3.0, start_percent=0.0, end_percent=1.0)
ROPE = use("ScaleROPE", scale_x=8.0, scale_y=6.0)
CACHE = use("EasyCache", reuse_threshold=0.9, start_percent=0.1, end_percent=0.95)
LORA = use("LoraLoaderModelOnly", strength_model=1.0)
CONTROL = use("ControlNetApplyAdvanced", strength=0.9)
AREA = use("ConditioningSetAreaPercentage", width=0.5, height=0.75, x=0.25, y=0.0, strength=1.0)
MASKED = use("ConditioningSetMask", strength=1.0)
TOGETHER = use("ConditioningCombine", conditioning_1=POSITIVE, conditioning_2=SECOND)
NOISE_MASK = use("SetLatentNoiseMask")
DIFFERENTIAL = use("DifferentialDiffusion")
SMALL_VIDEO = {"width": 256, "height": 256, "length": 9}


def sampler(name: str, scheduler: str = "simple", **more: Any) -> tuple[Use, ...]:
    return (use("KSampler", sampler_name=name, scheduler=scheduler, **more),)


def custom(*parts: Use, guider: Use | None = None, scheduler: Use | None = None) -> tuple[Use, ...]:
    """SamplerCustomAdvanced of these parts."""
    guided = guider or use("CFGGuider", cfg=4.0)
    return (
        use("RandomNoise", noise_seed=7), scheduler or use("BasicScheduler", scheduler="simple", steps=6), *parts,
        guided, use("SamplerCustomAdvanced"),
    )  # fmt: skip


EULER = use("KSamplerSelect", sampler_name="euler")
UPSCALED = (
    use("KSamplerAdvanced", steps=6, end_at_step=4, return_with_leftover_noise="disable"),
    use("LatentUpscaleBy", scale_by=1.5, upscale_method="bislerp"),
    use("KSamplerAdvanced", steps=6, start_at_step=3, noise_seed=2),
)
IN_TWO = (
    use("RandomNoise", noise_seed=7), use("BasicScheduler", scheduler="simple", steps=6), EULER,
    use("CFGGuider", cfg=4.0), use("SplitSigmas", step=3), use("SamplerCustomAdvanced", sigmas=HIGH),
    use("DisableNoise"), use("CFGGuider", cfg=1.5), use("SamplerCustomAdvanced", sigmas=LOW),
)  # fmt: skip

GUIDANCE = (
    of("SD15", PAG, FREEU),
    of("SD15", SAG, RESCALE),
    of("SD15", HYPERTILE, NAG),
    of("SD15", use("FreeU", b1=1.3, b2=1.4, s1=0.6, s2=0.3), APG),
    of("SD15", NAG, use("FreSca", scale_low=1.0, scale_high=1.6, freq_cutoff=4)),
    of("SD15", use("PatchModelAddDownscale", block_number=1, end_percent=0.6), PAG),
    of("SD15", use("TCFG"), FREEU),
    of("SD15", use("Mahiro"), use("ModelSamplingDiscrete", sampling="v_prediction")),
    of("SD15", use("ModelSamplingContinuousEDM", sampling="v_prediction", sigma_max=60.0, sigma_min=0.02), RESCALE),
    of("SD15", CACHE, FREEU, steps=10),
    of("SD15", use("UNetSelfAttentionMultiply", q=1.3, out=1.4), use("UNetCrossAttentionMultiply", k=1.5, v=0.6)),
    of("SD15", use("PerpNeg", empty_conditioning=THIRD, neg_scale=0.8), PAG),
    of("SD15", use("Epsilon Scaling", scaling_factor=1.1), NAG),
    of("SD15", use("CFGOverride", cfg=1.5), HYPERTILE),
    of("SD15", use("LatentOperationSharpen", sharpen_radius=3, alpha=0.8), use("LatentApplyOperationCFG"), PAG),
    of("SDXL", PAG, FREEU, RESCALE),
    of("SDXL", HYPERTILE, use("LatentOperationTonemapReinhard", multiplier=0.3), use("LatentApplyOperationCFG")),
    of("SDXL", use("ModelSamplingDiscrete", sampling="lcm", zsnr=True), NAG),
    of("SD3", SHIFT, use("SkipLayerGuidanceSD3", layers="0", scale=3.0, start_percent=0.0, end_percent=1.0)),
    of("SD3", ZERO_STAR, NORM),
    of("Flux", SLG, NAG),
    of("Flux", ROPE, use("ModelSamplingFlux", max_shift=2.0, base_shift=1.0, width=1024, height=1024)),
    of("Flux", CACHE, ROPE, steps=10),
    of("Flux", use("FluxGuidance", guidance=9.0), ZERO_STAR),
    of("Flux", use("LazyCache", reuse_threshold=0.9, start_percent=0.1, end_percent=0.95), NAG, steps=10),
    of("Chroma", SLG, use("ModelSamplingAuraFlow", shift=4.0)),
    of("Chroma", use("NAGuidance", nag_scale=9.0, nag_alpha=0.9, nag_tau=4.0), NORM),
    of("ZImage", use("ModelSamplingAuraFlow", shift=5.0), ROPE),
    of("ZImage", use("RenormCFG", cfg_trunc=0.8, renorm_cfg=0.5), NORM),
    of("Lumina2", use("RenormCFG", cfg_trunc=100.0, renorm_cfg=0.4), use("ModelSamplingAuraFlow", shift=2.0)),
    of("QwenImage", use("ModelSamplingAuraFlow", shift=4.0), NORM),
    of("QwenImage", NORM, CACHE, steps=10),
    of("Flux2", use("ModelSamplingFlux", max_shift=2.0, base_shift=1.0, width=1024, height=1024), NORM),
    of("AuraFlow", use("ModelSamplingAuraFlow", shift=4.0), NORM),
    of("HiDream", SHIFT, ZERO_STAR),
    of("Omnigen2", SHIFT, NORM),
)  # fmt: skip
CONDITIONED = (
    of("SD15", AREA, TOGETHER),
    of("SD15", MASKED, TOGETHER),
    of("SD15", use("ConditioningSetTimestepRange", start=0.05), TOGETHER),
    of("SD15", use("ConditioningAverage", conditioning_from=SECOND, conditioning_to_strength=0.4), PAG),
    of("SD15", use("ConditioningConcat", conditioning_from=LONG), SAG),
    of("SD15", use("ConditioningZeroOut", conditioning=NEGATIVE, to="negative"), FREEU),
    of("SD15", use("ConditioningSetArea", width=128, height=192, x=64, y=32, strength=0.8),
       use("ConditioningSetAreaStrength", strength=1.6), TOGETHER),
    of("SDXL", MASKED, TOGETHER, PAG),
    of("SDXL", AREA, TOGETHER, HYPERTILE),
    of("SD3", use("ConditioningConcat", conditioning_from=LONG), SHIFT),
    of("Flux", use("ConditioningSetTimestepRange", start=0.3), TOGETHER),
    of("Flux", MASKED, TOGETHER, ROPE),
    of("Flux", use("StyleModelApply", clip_vision_output=SEEN, strength=0.7), SLG),
    of("Flux", use("ConditioningConcat", conditioning_from=LONG),
       use("StyleModelApply", clip_vision_output=SEEN, strength=8.0, strength_type="attn_bias")),
    of("Flux", use("ReferenceLatent", latent=FIRST), ROPE),
    of("Flux", use("ReferenceLatent", latent=FIRST), use("FluxGuidance", guidance=9.0)),
    of("Flux2", use("ReferenceLatent", latent=FIRST), use("ConditioningConcat", conditioning_from=LONG)),
    of("QwenImage", use("ReferenceLatent", latent=FIRST), use("ModelSamplingAuraFlow", shift=3.0)),
    of("QwenImage", use("ReferenceLatent", latent=FIRST),
       use("FluxKontextMultiReferenceLatentMethod", reference_latents_method="index_timestep_zero")),
    of("Omnigen2", use("ReferenceLatent", latent=FIRST), SHIFT),
    of("ZImage", AREA, TOGETHER),
    of("SD15_instructpix2pix", use("InstructPixToPixConditioning", pixels=IMAGE), FREEU),
    of("SD21UnclipH", use("unCLIPConditioning", clip_vision_output=SEEN, strength=0.9, noise_augmentation=0.2), PAG),
    of("SD_X4Upscaler", use("SD_4XUpscale_Conditioning", scale_ratio=1.0, noise_augmentation=0.1), RESCALE),
    of("SD15", NOISE_MASK, DIFFERENTIAL, FREEU),
    of("SD15", use("InpaintModelConditioning", pixels=IMAGE), DIFFERENTIAL),
    of("Flux", NOISE_MASK, use("DifferentialDiffusion", strength=0.6), ROPE),
    of("FluxInpaint", use("InpaintModelConditioning", pixels=IMAGE), use("FluxGuidance", guidance=8.0)),
    of("StableAudio", use("ConditioningStableAudio", seconds_start=200.0, seconds_total=500.0), ZERO_STAR),
)  # fmt: skip
PATCHED = (
    of("SD15", LORA, PAG),
    of("SD15", LORA, FREEU, HYPERTILE),
    of("SDXL", LORA, use("LoraLoaderModelOnly", strength_model=-0.5, lora_name="other.safetensors")),
    of("Flux", LORA, SLG),
    of("QwenImage", LORA, NORM),
    of("ZImage", LORA, ROPE),
    of("WAN21_T2V", LORA, ZERO_STAR),
    of("SD15", use("CreateHookLoraModelOnly", strength_model=1.0), use("PairConditioningSetProperties", hooks=HOOKS)),
    of("SD15", use("CreateHookLoraModelOnly", strength_model=1.0), use("CreateHookKeyframe", start_percent=0.5),
       use("SetHookKeyframes"), use("PairConditioningSetProperties", hooks=HOOKS), PAG),
    of("Flux", use("CreateHookLoraModelOnly", strength_model=1.0),
       use("CreateHookKeyframesInterpolated", strength_start=0.0, strength_end=1.0), use("SetHookKeyframes"),
       use("PairConditioningSetProperties", hooks=HOOKS)),
    of("SD15", use("CreateHookLoraModelOnly", strength_model=1.0), use("ConditioningTimestepsRange", end_percent=0.5),
       use("PairConditioningSetProperties", hooks=HOOKS, timesteps=RANGE), TOGETHER),
    of("SD15", use("HypernetworkLoader", strength=1.0), FREEU),
    of("SD15", CONTROL, PAG, control="SD1.5"),
    of("SD15", use("ControlNetApplyAdvanced", strength=1.2, end_percent=0.5), SAG, control="SD1.5"),
    of("SD15", CONTROL, AREA, TOGETHER, control="SD1.5"),
    of("SD15", CONTROL, FREEU, LORA, control="SD1.5"),
    of("SDXL", CONTROL, HYPERTILE, control="SDXL"),
    of("SD15", use("SetUnionControlNetType", type="depth"), CONTROL, NAG, control="SD1.5"),
    of("Flux", CONTROL, SLG, control="FLUX.1 (XLabs)"),
    of("Flux", CONTROL, NAG, LORA, control="FLUX.1 (XLabs)"),
    of("SD15", use("ModelMergeSimple", model2=Given("MODEL"), ratio=0.5), refused="cannot be merged"),
)  # fmt: skip
VIDEO = (
    of("WAN21_T2V", use("SkipLayerGuidanceDiT", double_layers="0", single_layers="", scale=3.0, start_percent=0.0,
                        end_percent=1.0), SHIFT),
    of("WAN21_T2V", SHIFT_FEW, use("WanContextWindowsManual", context_length=1, context_overlap=0, freenoise=True)),
    of("WAN21_T2V", CACHE, ZERO_STAR, steps=10),
    of("WAN21_I2V", use("WanImageToVideo", **SMALL_VIDEO, start_image=IMAGE, clip_vision_output=SEEN), SHIFT),
    of("WAN21_I2V", use("WanFirstLastFrameToVideo", **SMALL_VIDEO, start_image=IMAGE, end_image=IMAGE), SHIFT_FEW),
    of("WAN21_FunControl2V", use("WanFunControlToVideo", **SMALL_VIDEO, start_image=IMAGE, control_video=IMAGE), SHIFT),
    of("WAN21_Vace", use("WanVaceToVideo", **SMALL_VIDEO, reference_image=IMAGE, control_video=IMAGE), SHIFT),
    of("WAN22_T2V", SHIFT, ZERO_STAR),
    of("HunyuanVideo", use("ConditioningConcat", conditioning_from=LONG), SHIFT),
    of("LTXV", use("LTXVImgToVideo", **SMALL_VIDEO, image=IMAGE, strength=0.7),
       use("ModelSamplingLTXV", max_shift=3.0, base_shift=2.0)),
    of("LTXV", use("LTXVImgToVideo", **SMALL_VIDEO, image=IMAGE, strength=1.0), ZERO_STAR),
    of("SVD_img2vid", use("SVD_img2vid_Conditioning", width=256, height=256, video_frames=3),
       use("VideoLinearCFGGuidance", min_cfg=1.5)),
    of("SVD_img2vid", use("SVD_img2vid_Conditioning", width=256, height=256, video_frames=3, augmentation_level=0.3),
       use("VideoTriangleCFGGuidance", min_cfg=1.5), use("UNetTemporalAttentionMultiply", self_temporal=1.6)),
)  # fmt: skip
SAMPLED = (
    of("SD15", PAG, sampling=sampler("dpmpp_2m", "karras")),
    of("SD15", FREEU, sampling=sampler("euler_ancestral", "normal")),
    of("SD15", LORA, sampling=sampler("uni_pc", "exponential")),
    of("SD15", SAG, sampling=sampler("dpmpp_2m_sde", "sgm_uniform")),
    of("SD15", RESCALE, sampling=sampler("heun", "beta")),
    of("SD15", FREEU, sampling=UPSCALED),
    of("SD15", PAG, sampling=custom(EULER, scheduler=use("AlignYourStepsScheduler", model_type="SD1", steps=6))),
    of("SD15", NAG, sampling=custom(EULER, guider=use("PerpNegGuider", empty_conditioning=THIRD, neg_scale=0.7))),
    of("SD15", FREEU, sampling=custom(EULER, guider=use("DualCFGGuider", cond1=POSITIVE, cond2=SECOND))),
    of("SD15", PAG, sampling=custom(use("SamplerDPMPP_3M_SDE", noise_device="cpu"),
                                    scheduler=use("KarrasScheduler", steps=6))),
    of("SD15", use("RepeatLatentBatch", amount=2), use("LatentBatchSeedBehavior", seed_behavior="fixed"), PAG),
    of("SDXL", PAG, sampling=sampler("lcm", "sgm_uniform")),
    of("SDXL", LORA, sampling=custom(use("SamplerEulerAncestralCFGPP"), scheduler=use("SDTurboScheduler", steps=4))),
    of("Flux", ROPE, sampling=sampler("dpmpp_2m", "beta")),
    of("Flux", NAG, sampling=sampler("res_multistep", "linear_quadratic")),
    of("Flux", SLG, sampling=custom(EULER, guider=use("BasicGuider"))),
    of("Flux", LORA, sampling=custom(use("SamplerER_SDE"), scheduler=use("OptimalStepsScheduler", steps=6))),
    of("Flux", SLG, sampling=UPSCALED),
    of("Flux", SLG, sampling=IN_TWO),
    of("ZImage", ROPE, sampling=sampler("gradient_estimation", "kl_optimal")),
    of("QwenImage", NORM, sampling=sampler("er_sde", "simple")),
    of("SD3", SHIFT, sampling=custom(EULER, use("ExtendIntermediateSigmas", steps=2, end_at_sigma=0.2))),
    of("WAN21_T2V", SHIFT, sampling=sampler("uni_pc", "simple")),
    of("LTXV", NORM,
       sampling=custom(EULER, scheduler=use("LTXVScheduler", steps=6))),
)  # fmt: skip
COMBINATIONS = (*GUIDANCE, *CONDITIONED, *PATCHED, *VIDEO, *SAMPLED)
