"""llama.cpp's names of the tensors of language models and of T5, as transformers and ComfyUI name them.

Source of the names: gguf-py/gguf/tensor_mapping.py in llama.cpp, which has each of these pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MARKERS = ("token_embd.weight", "enc.blk.0.attn_q.weight", "v.patch_embd.weight")  # language models, T5, vision towers
MODEL = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "per_layer_token_embd": "embed_tokens_per_layer",
    "per_layer_model_proj": "per_layer_model_projection",
    "per_layer_proj_norm": "per_layer_projection_norm",
}
BLOCK = {  # of blk.N
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "layer_output_scale": "layer_scalar",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
}
BETWEEN_NORMS = {"ffn_norm": "pre_feedforward_layernorm"}  # where post_attention_norm, too, has a norm of its own
T5_MODEL = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}
T5_BLOCK = {  # of enc.blk.N; ne of attn_rel_b is [heads, buckets], so its torch shape is the module's
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
VISION = {"patch_embd": "patch_embed.proj", "position_embd": "pos_embed"}  # of v., Qwen's towers
VISION_BLOCK = {  # of v.blk.N
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_qkv": "attn.qkv",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_out": "attn.proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
DEEPSTACK = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}  # of v.deepstack.N, N a block of the tower
MERGER = {"v.post_ln": "ln_q", "mm.0": "mlp.0", "mm.2": "mlp.2"}
# Towers whose positions are learned, those after Qwen2.5-VL's, have other layers.
LEARNED_BLOCK = {"ffn_up": "mlp.linear_fc1", "ffn_down": "mlp.linear_fc2"}
LEARNED_MERGER = {"v.post_ln": "norm", "mm.0": "linear_fc1", "mm.2": "linear_fc2"}
_PARTS = re.compile(
    r"(?P<stem>(?P<stack>(?:enc\.|v\.)?blk|v\.deepstack)\.(?P<number>\d+)\.)?"
    r"(?P<layer>.+?)(?P<end>\.(?:weight|bias)(?:\.\d+)?)?"
)


def is_llama(names: Iterable[str]) -> bool:
    """Whether tensors have llama.cpp's names."""
    return not set(MARKERS).isdisjoint(names)


def names_in_transformers(names: Iterable[str], model: str = "model.", visual: str = "visual.") -> dict[str, str]:
    """The name in transformers of each of llama.cpp's names; those that have none stay away.

    model, visual: what the names of a language model and of its vision tower begin with.
    """
    names = list(names)
    blocks = BLOCK | (BETWEEN_NORMS if "blk.0.post_ffw_norm.weight" in names else {})
    stacks = {"enc.blk": ("encoder.block", T5_BLOCK), "blk": (f"{model}layers", blocks)}
    plain = {old: model + new for old, new in MODEL.items()} | {"output": "lm_head"}
    if any(name.startswith("enc.blk.") for name in names):
        plain = T5_MODEL
    deep = sorted({int(name.split(".")[2]) for name in names if name.startswith("v.deepstack.")})
    learned = "v.position_embd.weight" in names
    tower, merger = (VISION_BLOCK | LEARNED_BLOCK, LEARNED_MERGER) if learned else (VISION_BLOCK, MERGER)
    stacks |= {"v.blk": (f"{visual}blocks", tower), "v.deepstack": (f"{visual}deepstack_merger_list", DEEPSTACK)}
    plain |= {f"v.{old}": visual + new for old, new in VISION.items()}
    plain |= {old: f"{visual}merger.{new}" for old, new in merger.items()}
    found = {}
    for name in names:
        parts = _PARTS.fullmatch(name)
        assert parts is not None
        layer, end = parts["layer"], parts["end"] or ""
        if not parts["stem"]:
            if layer in plain:
                found[name] = plain[layer] + end
            continue
        stack, table = stacks[parts["stack"]]
        number = deep.index(int(parts["number"])) if parts["stack"] == "v.deepstack" else int(parts["number"])
        if layer + end in table:
            found[name] = f"{stack}.{number}.{table[layer + end]}"
        elif layer in table:
            found[name] = f"{stack}.{number}.{table[layer]}{end}"
    return found
