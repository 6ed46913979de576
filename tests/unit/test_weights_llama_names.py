"""llama.cpp's names: each of ours is a pair of the table that its converter uses."""

from __future__ import annotations

import gguf
import pytest
from gguf.tensor_mapping import get_tensor_name_map

from native.weights import llama_names
from native.weights.llama_names import names_in_transformers

# Layers that only some of the architectures have; what a vision tower has is checked where one is loaded.
ARCHITECTURES = ("QWEN3", "QWEN2VL", "LLAMA", "GEMMA2", "GEMMA3", "GEMMA4", "MISTRAL3", "QWEN35")
EXPERTS = ("_exps.weight", "ffn_gate_inp.weight", "attn_rot_embd.weight")  # of mixtures, and of models before Llama 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_those_of_the_converter(architecture: str) -> None:
    table = get_tensor_name_map(gguf.MODEL_ARCH[architecture], 2)
    theirs = {name for _, name in table.mapping.values()} - {"rope_freqs"}
    names = [name if name.endswith("ssm_a") else f"{name}.weight" for name in theirs]
    found = names_in_transformers(names)
    for name, new in found.items():
        assert table.get_name(new, try_suffixes=(".weight",)) == name, (name, new)
    assert len(set(found.values())) == len(found)
    if architecture in ("QWEN3", "LLAMA", "GEMMA2", "GEMMA3", "QWEN2VL"):
        assert not {name for name in names if name not in found and not name.endswith(EXPERTS)}


def test_t5_has_names_of_its_own() -> None:
    found = names_in_transformers(["enc.blk.3.ffn_gate.weight", "token_embd.weight", "dec.blk.0.attn_q.weight"])
    assert found == {
        "enc.blk.3.ffn_gate.weight": "encoder.block.3.layer.1.DenseReluDense.wi_0.weight",
        "token_embd.weight": "shared.weight",
    }


def test_norms_of_a_block_are_told_apart() -> None:
    qwen = names_in_transformers(["blk.0.ffn_norm.weight"])
    gemma = names_in_transformers(["blk.0.ffn_norm.weight", "blk.0.post_ffw_norm.weight"])
    assert qwen["blk.0.ffn_norm.weight"] == "model.layers.0.post_attention_layernorm.weight"
    assert gemma["blk.0.ffn_norm.weight"] == "model.layers.0.pre_feedforward_layernorm.weight"


def test_deepstack_counts_the_blocks_that_have_one() -> None:
    names = ["v.position_embd.weight", "v.deepstack.5.fc1.weight", "v.deepstack.17.fc1.weight", "mm.2.bias"]
    found = names_in_transformers(names, visual="model.visual.")
    assert found["v.deepstack.17.fc1.weight"] == "model.visual.deepstack_merger_list.1.linear_fc1.weight"
    assert found["mm.2.bias"] == "model.visual.merger.linear_fc2.bias"
    assert llama_names.is_llama(["v.patch_embd.weight"])
    assert not llama_names.is_llama(["model.embed_tokens.weight"])
