"""Twenty-five templates that stand for all: one of each family and kind of work, the cheapest of it to plan."""

from __future__ import annotations

STRATIFIED = (
    "default", "sdxl_simple_example", "sdxlturbo_example", "sd3.5_simple_example", "flux_schnell",
    "flux_dev_full_text_to_image", "flux_fill_inpaint_example", "flux_kontext_dev_basic",
    "image_flux2_klein_text_to_image",
    "image_qwen_image", "image_qwen_image_edit_2509", "image_z_image_turbo", "image_chroma_text_to_image",
    "hidream_i1_fast", "image_omnigen2_t2i", "image_anima_base_v1", "image_lotus_depth_v1_1",
    "audio_ace_step_1_t2a_song", "audio_stable_audio_example", "ltxv_text_to_video", "video_ltx2_t2v",
    "hunyuan_video_text_to_video", "video_wan2_2_14B_t2v", "video_wan2_2_5B_ti2v", "text_to_video_wan",
)  # fmt: skip
# Those of them that the planner cannot plan whole, and why.
NOT_PLANNED: dict[str, str] = {}
# Those whose small models take seconds to make.
RUN = ("text_to_video_wan",)
