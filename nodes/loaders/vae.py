"""GGML VAE: a file of any autoencoder that ComfyUI knows to a VAE, which cuts tiles where a picture is large."""

from __future__ import annotations

import os
from typing import Any

import torch
from comfy_api.latest import io

from ...native.placement import AUTO, CPU, MIB, Placement, as_placement
from ...native.weights import WeightFile, WeightSet, read_header
from ..components.autoencoder import VAEModule
from ..components.autoencoder_build import ComponentVAE, autoencoder
from ..components.latent_axes import latent_axes
from ..components.patcher import ComponentPatcher
from ..components.recording import Recording
from ..components.tile_choice import MODES, TileChoice, check_tiles
from .device_inputs import check_device, companion_device, device_options, load_device, residency_inputs
from .files import fingerprint, model_path, part_names
from .found import found, say
from .small_vaes import small_vae, small_vae_names, small_vae_paths

OVERLAP = 64  # pixels


class _WholeBatch(ComponentPatcher):
    """The patcher of a VAE, which cuts batches itself."""

    def get_free_memory(self, device: Any) -> int:
        """More than any batch takes: core splits by it what an autoencoder may want together, as SVD's does."""
        return 1 << 62


def vae_of(header: WeightFile, placement: Placement | str, tiles: TileChoice) -> ComponentVAE:
    """The VAE in a file. Raises WeightFileError where core knows none, or not all of it is there."""
    return load_vae(*autoencoder(Recording(header)), placement, tiles)


def load_vae(vae: ComponentVAE, weights: WeightSet, placement: Placement | str, tiles: TileChoice) -> ComponentVAE:
    """The VAE of `autoencoder`, computed where `placement` says and cut into such tiles."""
    placement = as_placement(placement)
    vae.device = load_device(placement.device)
    vae.first_stage_model = VAEModule(vae.first_stage_model, weights, placement, latent_axes(vae), tiles)
    vae.patcher = _WholeBatch(vae.first_stage_model, vae.device, torch.device("cpu"))
    vae.handles_tiling = True
    vae.size = vae.first_stage_model.nbytes
    return vae


def tile_inputs(optional: bool = False) -> list[io.Input]:
    """The inputs `tiling`, `tile_size` and `overlap`."""
    return [
        io.Combo.Input(
            "tiling", options=list(MODES), default=AUTO, optional=optional, advanced=optional,
            tooltip="When a picture is cut into tiles, which saves memory. auto: when it has more pixels than "
            "a tile, and into smaller tiles if those do not fit. on: when any side is longer than a tile. "
            "off: never.",
        ),
        io.Int.Input(
            "tile_size", default=0, min=0, max=4096, step=64, optional=optional, advanced=True,
            tooltip="Side of a tile in pixels. 0: the largest that the device's free memory, buffers and time "
            "limit allow, the whole picture if possible; 512 on the CPU. Choose a smaller one if memory runs "
            "out: half the side takes a quarter of the memory.",
        ),
        io.Int.Input(
            "overlap", default=OVERLAP, min=0, max=2048, step=8, optional=optional, advanced=True,
            tooltip="Pixels that neighbouring tiles share, to blend them. Raise it if seams show; that takes "
            "longer.",
        ),
    ]  # fmt: skip


def found_vae(vae: ComponentVAE) -> str:
    """A VAE in words."""
    engine_model = vae.first_stage_model.engine_model
    return found(type(engine_model.module).__name__, [engine_model.file_weights])


class GGMLVAE(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLVAE",
            display_name="GGML VAE",
            category="loaders/GGML",
            description="Loads any VAE that ComfyUI knows, of pictures, video or sound, from a GGUF or safetensors "
            "file.",
            search_aliases=["GGUF", "VAE loader", "tiled VAE", "Vulkan", "AMD", "low VRAM", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "vae_name", options=[*part_names("vae"), *small_vae_names()],
                    tooltip="A file in models/vae, such as ae.safetensors of FLUX.1, or a checkpoint whose VAE of "
                    "sound it is, as LTX-2's. It must be the VAE of the model that makes the latents.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=CPU,
                    tooltip="Where pictures, video and sound are decoded and encoded. auto: the CPU, safe with every "
                    "card. A GPU is faster if the tiles fit its memory.",
                ),
                *tile_inputs(),
                *residency_inputs(),
            ],
            outputs=[io.Vae.Output()],
            hidden=[io.Hidden.unique_id],
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
        if vae_name in small_vae_names():
            return [(path, os.stat(path).st_mtime_ns) for path in small_vae_paths(vae_name)]
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
        if vae_name in small_vae_names():
            read = small_vae(vae_name)
        else:
            read = autoencoder(Recording(read_header(model_path("vae", vae_name))))
        placement = Placement(companion_device(device), weights, budget * MIB, engine)
        vae = load_vae(*read, placement, TileChoice(tiling, tile_size, overlap))
        say(cls, [found_vae(vae)])
        return io.NodeOutput(vae)
