"""VAEs of real size: the kinds of tests/e2e/vae_kinds.py, whose modules core builds of the tensors it detects by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from unittest.mock import patch

import torch

from tests import pack

pack.comfy()

import comfy.sd  # noqa: E402

from ..e2e.vae_kinds import KINDS, Shapes, VAEKind  # noqa: E402

BY_NAME: Mapping[str, VAEKind] = {kind.name: kind for kind in KINDS}
# The shapes of tensors by which the real kind is as large as it is, where the small one's are smaller.
_REAL: Mapping[str, Shapes] = {
    "Wan 2.1": {"decoder.head.0.gamma": (96,)},
    "Qwen-Image": {"decoder.head.0.gamma": (96,)},
    "LTX-Video 0.9.5, LTX-2": {
        "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight": (1024,), "encoder.down_blocks.1.conv.conv.bias": (1,),
    },
}  # fmt: skip
_LTX_2_AUDIO = deepcopy(json.loads(BY_NAME["LTX-2 audio"].metadata["config"]))
_LTX_2_AUDIO["audio_vae"]["model"]["params"]["ddconfig"] |= {"ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2}
_LTX_2_AUDIO["vocoder"] = {}
# Of a real file's metadata: those of LTX-Video's VAE follow from its tensors.
CONFIG: Mapping[str, Mapping[str, object]] = {"LTX-2 audio": _LTX_2_AUDIO}


def shapes(name: str) -> Shapes:
    """Names and shapes of a file of the real size."""
    kind = BY_NAME[name]
    markers = {**kind.markers, **_REAL.get(name, {})}
    metadata = {"config": json.dumps(CONFIG[name])} if name in CONFIG else None
    with patch.object(torch.nn.Module, "load_state_dict", lambda *_, **__: ((), ())):
        tensors = {key: torch.empty(shape) for key, shape in markers.items()}
        made = comfy.sd.VAE(tensors, torch.device("cpu"), dtype=torch.float32, metadata=metadata)
    held = {key: tuple(tensor.shape) for key, tensor in made.first_stage_model.state_dict().items()}
    renamed = {kind.in_file(key): shape for key, shape in held.items()}
    return {**{key: shape for key, shape in markers.items() if key not in renamed}, **renamed}
