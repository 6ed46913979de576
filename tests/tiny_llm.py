"""A language model small enough to be made inside a test: llama's structure, random weights, bytes for tokens.

    python -m tests.tiny_llm FILE

What it writes is nonsense; all that surrounds it is what a real model of 4 GB gets.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

NAME = "tiny-random-llm.gguf"
CONTEXT = 4096  # tokens, which are bytes
_WIDTH, _HIDDEN, _HEADS, _KV_HEADS = 64, 128, 4, 2
_MERGES = (("t", "h"), ("th", "e"), ("a", "n"), ("i", "n"), ("e", "r"))  # a vocabulary must have some
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(path: Path, layers: int = 2, context: int = CONTEXT, seed: int = 0, tied: bool = False) -> Path:
    """Write the file; tied: the output has no weight but the embeddings'."""
    rng = np.random.default_rng(seed)
    tokens = [*_byte_tokens(), *(a + b for a, b in _MERGES)]
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(_CONTROL)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name("tiny random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *_CONTROL])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([" ".join(pair) for pair in _MERGES])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)
    for name, shape in _shapes(layers, len(kinds), tied).items():
        if len(shape) == 1:
            values = np.ones(shape, np.float32)
        else:
            deviation = 1.0 if name.startswith("token_embd") else shape[-1] ** -0.5
            values = (rng.standard_normal(shape) * deviation).astype(np.float32)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
    return path


def _shapes(layers: int, vocabulary: int, tied: bool) -> dict[str, tuple[int, ...]]:
    """llama's tensors, in torch order."""
    kv = _WIDTH // _HEADS * _KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, _WIDTH), "output_norm.weight": (_WIDTH,)}
    if not tied:
        shapes["output.weight"] = (vocabulary, _WIDTH)
    block = {
        "attn_norm": (_WIDTH,), "attn_q": (_WIDTH, _WIDTH), "attn_k": (kv, _WIDTH), "attn_v": (kv, _WIDTH),
        "attn_output": (_WIDTH, _WIDTH), "ffn_norm": (_WIDTH,), "ffn_gate": (_HIDDEN, _WIDTH),
        "ffn_up": (_HIDDEN, _WIDTH), "ffn_down": (_WIDTH, _HIDDEN),
    }  # fmt: skip
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2's vocabulary writes them: those that cannot be printed as characters from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
