"""ComfyUI's VAE built by its own detection from the tensors of a file, and the place of each parameter there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import comfy.sd
import comfy.supported_models
import torch
from torch import Tensor

from ...native.weights import WeightFileError, WeightSet
from .build import described, own_values, parameters_without_values, read_buffers, weights_of
from .identify import another_kind, refuse_adapters
from .recording import Recording

# The widths of every picture VAE that core's detection builds, at the levels of its encoder; and blocks at each.
_USUAL_WIDTHS, _USUAL_BLOCKS = [128, 256, 512, 512], 2
_OTHERS = ("bn.running_mean", "decoder.mid.block_1.mix_factor")  # of FLUX.2's VAE and SVD's, with the same names
_HUNYUAN_LATENTS = 64  # channels of HunyuanImage's latents, whose VAE has the same names


class ComponentVAE(comfy.sd.VAE):
    """ComfyUI's VAE around a VAEModule."""

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


@torch.inference_mode(False)  # ComfyUI runs nodes in it, and what is made in it cannot be traced
def autoencoder(
    recording: Recording, tensors: Mapping[str, Tensor] | None = None, metadata: Mapping[str, Any] | None = None
) -> tuple[ComponentVAE, WeightSet]:
    """Core's VAE around an autoencoder without values, and its weights.

    tensors: those of the VAE in the names that comfy.sd.VAE takes, of the recording or with values; else all of the
    recording, or those behind one of the prefixes that checkpoints have. metadata: beside the file's.
    Raises WeightFileError where core knows no such VAE, or the file lacks some of it.
    """
    header = recording.header
    given = [tensors] if tensors is not None else list(_candidates(recording))
    if tensors is None:
        refuse_adapters(header, "a VAE")
    texts = header.texts | dict(metadata or {})
    with described(header, "VAE"), recording, torch.no_grad(), parameters_without_values():
        built = (_core_vae(dict(each), texts) for each in given)
        vae = next((vae for vae in built if vae.first_stage_model is not None), None)
    if vae is None:
        raise another_kind(header, "a VAE")
    core = vae.first_stage_model
    _replace_absent(core, recording)
    own = own_values(core, recording)
    weights = weights_of(core, recording, f"VAE ({type(core).__name__})", own)
    read_buffers(core, recording)
    return vae, weights


def _candidates(recording: Recording) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of a file that may be those of a VAE: all, or those behind a prefix of checkpoints."""
    yield recording.state_dict
    for prefix in sorted({each for model in comfy.supported_models.models for each in model.vae_key_prefix}):
        behind = {name[len(prefix) :]: x for name, x in recording.state_dict.items() if name.startswith(prefix)}
        if behind:
            yield behind


def _core_vae(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> ComponentVAE:
    sizes = _unusual_sizes(tensors)
    if sizes is None:
        return ComponentVAE(tensors, torch.device("cpu"), None, torch.float32, metadata)
    vae = ComponentVAE(tensors, torch.device("cpu"), {"params": sizes}, torch.float32)
    if "post_quant_conv.weight" not in tensors:
        vae.first_stage_model.quant_conv = vae.first_stage_model.post_quant_conv = torch.nn.Identity()
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(sizes["ddconfig"]["ch_mult"]) - 1)
    vae.latent_channels = sizes["embed_dim"]
    return vae


def _unusual_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The sizes of an AutoencoderKL of other widths than core's detection builds; None of any other VAE."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(tensors[name].shape)

    def numbered(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})

    levels, blocks = numbered("encoder.down."), numbered("encoder.down.0.block.")
    firsts = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    ends = ["encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"]
    if not levels or any(name not in tensors or len(shape(name)) != 4 for name in (*firsts, *ends)):
        return None
    if shape(ends[2])[1] == _HUNYUAN_LATENTS or any(name in tensors for name in _OTHERS):
        return None
    widths, (channels, colours) = [shape(name)[0] for name in firsts], shape(ends[0])[:2]
    if widths == _USUAL_WIDTHS[:levels] and blocks == _USUAL_BLOCKS and channels == widths[0]:
        return None
    (wide, latents), last = shape(ends[2])[:2], widths[-1] // channels
    encoder = {
        "double_z": shape(ends[1])[0] == 2 * latents, "z_channels": latents, "resolution": 256, "in_channels": colours,
        "out_ch": shape(ends[3])[0], "ch": channels, "ch_mult": [width // channels for width in widths],
        "num_res_blocks": blocks, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    embed = shape("post_quant_conv.weight")[1] if "post_quant_conv.weight" in tensors else latents
    return {"embed_dim": embed, "ddconfig": encoder, "decoder_ddconfig": encoder | {"ch": wide // last}}


class _Absent(torch.nn.Module):
    """Stands for a part of an autoencoder that the file does not have."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__()
        self._path, self._name = path, name

    def forward(self, *_: Any, **__: Any) -> Any:
        """Raises WeightFileError."""
        raise WeightFileError(
            f"{self._path} has no {self._name}, which this node needs of the VAE. Use a file of the whole VAE."
        )


def _replace_absent(core: torch.nn.Module, recording: Recording) -> None:
    """Put something else in place of parts of which the file has nothing: the encoder, where it can only decode."""
    for name, part in list(core.named_children()):
        tensors = list(part.state_dict(keep_vars=True).values())
        if tensors and not any(map(recording.knows, tensors)):
            setattr(core, name, _Absent(recording.header.path, name))
