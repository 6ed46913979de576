"""Language models of llama's structure with random weights: a tiny one for tests, and one of a real size.

    python -m tests.random_llm FILE        writes the tiny one, 0.4 MB

What they write is nonsense; all that surrounds it is what a trained model gets.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

NAME = "tiny-random-llm.gguf"
_MERGES = (("t", "h"), ("th", "e"), ("a", "n"), ("i", "n"), ("e", "r"))  # a vocabulary must have some
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Sizes:
    """Dimensions of a model; context in tokens. tied: the output layer shares the embeddings' weight."""

    layers: int = 2
    width: int = 64
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 264  # the bytes, the merges and the control tokens
    context: int = 4096
    tied: bool = False
    kind: Kind = Kind.F32  # of matrices


TINY = Sizes()
LLAMA_8B = Sizes(32, 4096, 14336, 32, 8, 128256, 131072, kind=Kind.Q4_K)  # Llama 3.1 8B


def write(path: Path, sizes: Sizes = TINY, seed: int = 0) -> Path:
    """Write the file; each seed has weights of its own."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _add_metadata(writer, sizes)
    shapes = _shapes(sizes)
    for name, shape in shapes.items():
        kind = sizes.kind if len(shape) > 1 else Kind.F32
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        stored = (*shape[:-1], shape[-1] // block * nbytes)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), prod(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in shapes.items():
        writer.write_tensor_data(_weights(name, shape, sizes.kind, rng).view(np.uint8).reshape(-1))
    writer.close()
    partial.replace(path)
    return path


def _add_metadata(writer: gguf.GGUFWriter, sizes: Sizes) -> None:
    tokens = [*_byte_tokens(), *(a + b for a, b in _MERGES)]
    tokens += [f"<token {number}>" for number in range(sizes.vocabulary - len(tokens) - len(_CONTROL))]
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(_CONTROL)
    writer.add_name("random")
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.width)
    writer.add_block_count(sizes.layers)
    writer.add_feed_forward_length(sizes.hidden)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(sizes.width // sizes.heads)
    writer.add_vocab_size(sizes.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *_CONTROL])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([" ".join(pair) for pair in _MERGES])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """llama's tensors, in torch order."""
    width, hidden, kv = sizes.width, sizes.hidden, sizes.width // sizes.heads * sizes.kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (sizes.vocabulary, width), "output_norm.weight": (width,),
        **({} if sizes.tied else {"output.weight": (sizes.vocabulary, width)}),
    }  # fmt: skip
    block = {
        "attn_norm": (width,), "attn_q": (width, width), "attn_k": (kv, width), "attn_v": (kv, width),
        "attn_output": (width, width), "ffn_norm": (width,), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }  # fmt: skip
    for layer in range(sizes.layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _weights(name: str, shape: tuple[int, ...], kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """Weights that keep activations near one."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    deviation = 1.0 if name.startswith("token_embd") else shape[-1] ** -0.5
    if kind == Kind.F32:
        return (rng.standard_normal(shape) * deviation).astype(np.float32)
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (prod(shape) // block, nbytes), np.uint8)
    blocks[:, 4:12] &= 15  # scales and minima, of 0 to 63
    scale = deviation / 63.5  # d, and dmin such that weights lie around zero
    blocks[:, :4] = np.array([scale, 7.5 * scale], np.float16).view(np.uint8)
    return blocks


def _byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2's vocabulary writes them: those that cannot be printed as characters from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
