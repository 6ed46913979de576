"""GGML VAE: an autoencoder file to a VAE, cut into tiles where a picture is large."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy_api.latest import io
from torch import Tensor

from ...native.placement import AUTO, CPU, MIB, Placement, as_placement
from ...native.weights import WeightSet, read_header
from ...native.weights import vae as vae_weights
from ..components.autoencoder import VAEModule
from ..components.latent_axes import latent_axes
from ..components.patcher import ComponentPatcher
from ..components.tile_choice import MODES, TileChoice, check_tiles
from .device_inputs import check_device, companion_device, device_options, load_device, residency_inputs
from .files import fingerprint, model_names, model_path, shape_errors_named


def vae_config(weights: WeightSet) -> dict[str, Any]:
    """The parameters of core's AutoencoderKL, from the shapes of an autoencoder's tensors."""
    shapes = {name: parameter.shape for name, parameter in weights.parameters.items()}

    def numbered(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})

    latents = shapes["decoder.conv_in.weight"][1]
    channels = shapes["encoder.conv_in.weight"][0]
    levels = range(numbered("encoder.down."))
    widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in levels]
    encoder = {
        "double_z": shapes["encoder.conv_out.weight"][0] == 2 * latents,
        "z_channels": latents,
        "resolution": 256,
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_ch": shapes["decoder.conv_out.weight"][0],
        "ch": channels,
        "ch_mult": [width // channels for width in widths],
        "num_res_blocks": numbered("encoder.down.0.block."),
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    decoder = encoder | {"ch": shapes["decoder.conv_in.weight"][0] // (widths[-1] // channels)}
    embed = shapes["post_quant_conv.weight"][1] if "post_quant_conv.weight" in shapes else latents
    return {"embed_dim": embed, "ddconfig": encoder, "decoder_ddconfig": decoder}


class ComponentVAE(comfy.sd.VAE):
    """ComfyUI's VAE around a VAEModule."""

    def __init__(self, weights: WeightSet, placement: Placement | str, tiles: TileChoice) -> None:
        """Raises WeightFileError when the weights are no whole autoencoder."""
        placement = as_placement(placement)
        with torch.device("meta"):
            with shape_errors_named(weights):
                parameters = vae_config(weights)
                core = AutoencoderKL(**parameters)
            # Given an autoencoder without weights, core's constructor sets all that its methods go by.
            super().__init__(core.state_dict(), load_device(placement.device), {"params": parameters}, torch.float32)
        if "post_quant_conv.weight" not in weights.parameters:
            core.quant_conv = core.post_quant_conv = torch.nn.Identity()
        ratio = 2 ** (len(parameters["ddconfig"]["ch_mult"]) - 1)
        self.downscale_ratio = self.upscale_ratio = ratio
        self.first_stage_model = VAEModule(core, weights, placement, latent_axes(self), tiles)
        self.patcher = ComponentPatcher(self.first_stage_model, self.device, torch.device("cpu"))
        self.latent_channels = parameters["embed_dim"]
        self.handles_tiling = True
        self.size = self.first_stage_model.nbytes

    def decode_tiled_(self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16) -> Tensor:
        """Core's tiled decoding before ComfyUI 0.27, in tiles of one shape; later ones go by `handles_tiling`."""
        pixels = self.first_stage_model.decode_tiled(samples.to(self.device, self.vae_dtype), tile_x, tile_y, overlap)
        return self.process_output(pixels.to(self.output_device))

    def encode_tiled_(self, pixel_samples: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64) -> Tensor:
        """Core's tiled encoding, in tiles of one shape instead of three."""
        pixels = self.process_input(pixel_samples).to(self.device, self.vae_dtype)
        return self.first_stage_model.encode_tiled(pixels, tile_x, tile_y, overlap).to(self.output_device)

    def get_sd(self) -> Any:
        """Raises NotImplementedError: it could only be saved as the file it came from."""
        raise NotImplementedError("A GGML VAE cannot be saved: it is the file it was loaded from, unchanged.")


class GGMLVAE(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLVAE",
            display_name="GGML VAE",
            category="loaders/GGML",
            description="Loads a VAE from a GGUF or safetensors file, such as FLUX.1's ae.safetensors.",
            search_aliases=["GGUF", "VAE loader", "tiled VAE", "Vulkan", "AMD", "low VRAM", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "vae_name", options=model_names("vae"),
                    tooltip="A file in models/vae, such as ae.safetensors of FLUX.1.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=CPU,
                    tooltip="Where pictures are decoded and encoded. auto: the CPU, safe with every card. A GPU is "
                    "faster if the tiles fit its memory.",
                ),
                io.Combo.Input(
                    "tiling", options=list(MODES), default="auto",
                    tooltip="When a picture is cut into tiles, which saves memory. auto: when it has more pixels than "
                    "a tile, and into smaller tiles if those do not fit. on: when any side is longer than a tile. "
                    "off: never.",
                ),
                io.Int.Input(
                    "tile_size", default=0, min=0, max=4096, step=64, advanced=True,
                    tooltip="Side of a tile in pixels. 0: the largest that the device's free memory, buffers and time "
                    "limit allow, the whole picture if possible; 512 on the CPU. Choose a smaller one if memory runs "
                    "out: half the side takes a quarter of the memory.",
                ),
                io.Int.Input(
                    "overlap", default=64, min=0, max=2048, step=8, advanced=True,
                    tooltip="Pixels that neighbouring tiles share, to blend them. Raise it if seams show; that takes "
                    "longer.",
                ),
                *residency_inputs(),
            ],
            outputs=[io.Vae.Output()],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(cls, device: str, tile_size: int, overlap: int, engine: str = AUTO) -> bool | str:
        """Whether this machine has the device and such tiles can be cut; a linked input is None here."""
        if tile_size is not None and overlap is not None:
            fits = check_tiles(tile_size, overlap)
            if fits is not True:
                return fits
        return await check_device(device, engine)

    @classmethod
    def fingerprint_inputs(cls, vae_name: str, **_: Any) -> Any:
        """Changes with the file."""
        return fingerprint("vae", [vae_name])

    @classmethod
    def execute(
        cls, vae_name: str, device: str, tiling: str, tile_size: int, overlap: int, weights: str = AUTO,
        budget: int = 0, engine: str = AUTO,
    ) -> io.NodeOutput:  # fmt: skip
        """Reads the header; weights are read when the first picture is decoded or encoded."""
        fits = check_tiles(tile_size, overlap)
        if fits is not True:
            raise ValueError(fits)
        read = vae_weights(read_header(model_path("vae", vae_name)))
        placement = Placement(companion_device(device), weights, budget * MIB, engine)
        return io.NodeOutput(ComponentVAE(read, placement, TileChoice(tiling, tile_size, overlap)))
