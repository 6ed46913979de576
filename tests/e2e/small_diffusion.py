"""A small file of a class of comfy.supported_models, of the sizes that core's detection finds or is made to find."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from tests import pack

build = pack.part("nodes.components.build")

import comfy.ldm.modules.diffusionmodules.openaimodel  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.supported_models  # noqa: E402

from tests import narrow  # noqa: E402

from ..parity.families.cases import CASES  # noqa: E402
from ..parity.model_cases import randomize  # noqa: E402

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]
BY_NAME = {case.name: case for case in CASES}
META = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


@dataclass(frozen=True)
class Small:
    """A small model of the class `kind`.

    start: names and shapes of about the model. sizes: those that core's detection takes for given where files have no
    others; core's detection is made to find them in both loaders. other: it finds another class in so small a file.
    beside: names and shapes beside the diffusion model's. stored: the state dict as the file has it. text, pooled:
    channels. given: what else the conditioning has, shapes of random tensors for the most part. latent: its size,
    without batch and channels, if not the usual one; second: shape of a latent beside it. real: names and shapes of
    about the real model, with few blocks, where its widths do not follow from the small one's names. config: in the
    metadata of a real file.
    """

    kind: str
    start: Callable[[], Shapes]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    other: bool = False
    beside: Shapes = field(default_factory=dict)
    stored: Callable[[Tensors], Tensors] = dict
    text: int = 48
    pooled: int = 32
    given: Mapping[str, Any] = field(default_factory=dict)
    latent: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    real: Callable[[], Shapes] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """Of a file."""
        return {"config": json.dumps({"transformer": self.config})} if self.config else {}

    @contextmanager
    def detection(self) -> Iterator[None]:
        """Within it core's detection finds the sizes of the small model."""
        if not self.sizes and not self.other:
            yield
            return
        with narrow.detection(self.kind, self.sizes):
            yield

    def tensors(self) -> Tensors:
        """A state dict of the model with random values, of the sizes that core's detection reads out of it."""
        with self.detection():
            module = self._consistent(self.start(), comfy.ops.disable_weight_init)
            values = {key: value.clone() for key, value in randomize(module).state_dict().items()}
            return self.stored(values) | self._beside()

    def real_shapes(self) -> Shapes:
        """Names and shapes of a file of the real widths."""
        module = self._consistent((self.real or self.start)(), build.MetaOperations)
        return shapes_of(self.stored(module.state_dict(keep_vars=True)) | self._beside())

    def _consistent(self, shapes: Shapes, operations: Any) -> torch.nn.Module:
        """The module that core builds of a file of these shapes, and of its own."""
        for _ in range(4):
            module = self._built(shapes, operations)
            found = shapes_of(module.state_dict(keep_vars=True))
            if found == shapes:
                return module
            shapes = found
        raise AssertionError(f"core does not build {self.kind} of the sizes that it finds")

    def _built(self, shapes: Shapes, operations: Any) -> torch.nn.Module:
        tensors = {key: torch.empty(shape, device="cpu" if len(shape) < 2 else "meta") for key, shape in shapes.items()}
        tensors = self.stored(tensors) | self._beside()
        config = comfy.model_detection.model_config_from_unet(tensors, "", metadata=self.metadata)
        assert type(config).__name__ == self.kind
        config.custom_operations = operations
        config.set_inference_dtype(torch.float32, None)
        # Its tables of noise are not asked for here; Stable Cascade's take seconds.
        with patch.object(comfy.model_base, "model_sampling", lambda *_: torch.nn.Module()):
            return config.get_model(tensors, "").diffusion_model

    def _beside(self) -> dict[str, torch.Tensor]:
        source = torch.Generator().manual_seed(5)
        return {key: 0.1 * torch.randn(shape, generator=source) for key, shape in self.beside.items()}


def of_case(name: str) -> Callable[[], Shapes]:
    """The shapes of a case of tests/parity/families."""
    return lambda: shapes_of(BY_NAME[name].build().state_dict())


def wide(name: str, **keys: tuple[int, ...]) -> Callable[[], Shapes]:
    """The same with other shapes of tensors, by which core's detection knows how wide the real model is."""
    return lambda: {**of_case(name)(), **keys}


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Of a state dict."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def unet(**config: Any) -> Callable[[], Shapes]:
    """The shapes of a U-Net of two levels."""
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1, "context_dim": 48, "use_spatial_transformer": True, "legacy": False,
        "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True,
    } | config  # fmt: skip
    if config.get("adm_in_channels"):
        config["num_classes"] = "sequential"
    model = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel
    return lambda: shapes_of(model(**config, **META).state_dict())


def sd(**config: Any) -> Callable[[], Shapes]:
    """The shapes of a U-Net like SD1's and SD2's at real width."""
    return unet(**{
        "model_channels": 320, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3,
        "context_dim": 1024,
    } | config)  # fmt: skip


def sdpose() -> Shapes:
    """The shapes of a small U-Net with a head that finds poses in 640 channels, and the text that its node gives."""
    return unet(
        adm_in_channels=4, channel_mult=[1, 10], transformer_depth=[1, 0], transformer_depth_output=[1, 1, 0, 0],
        transformer_depth_middle=-1, context_dim=1024, heatmap_head=True,
    )()  # fmt: skip


def sdxl(**config: Any) -> Callable[[], Shapes]:
    """The shapes of a U-Net like SDXL's at real width; all output blocks of a level have its depth."""
    config = {
        "model_channels": 320, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "adm_in_channels": 2816,
        "transformer_depth": [0, 0, 2, 2, 10, 10], "context_dim": 2048,
    } | config  # fmt: skip
    blocks = config["num_res_blocks"][0]
    depths = config["transformer_depth"][::blocks]
    return unet(**config, transformer_depth_output=[depth for depth in depths for _ in range(blocks + 1)])
