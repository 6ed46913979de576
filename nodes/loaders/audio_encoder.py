"""GGML Audio Encoder: a file of any audio encoder that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import AUDIO_ENCODER
from .core_models import ALIASES, BesideGPU, beside_gpu_inputs, file_names


class GGMLAudioEncoder(BesideGPU):
    """The node."""

    LOADER, FOLDER, FILE = AUDIO_ENCODER, "audio_encoders", "audio_encoder_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLAudioEncoder",
            display_name="GGML Audio Encoder",
            category="loaders/GGML",
            description="Loads any audio encoder that ComfyUI knows, Wav2Vec2 and Whisper, and runs it on a Vulkan "
            "GPU or the CPU.",
            search_aliases=["Wav2Vec2", "Whisper", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/audio_encoders. It must be the one that the video model was trained "
                    "with.",
                ),
                *beside_gpu_inputs("sound is encoded"),
            ],
            outputs=[io.AudioEncoder.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
