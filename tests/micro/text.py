"""Trains the micro text encoders, before FLUX sees them, to say what a caption asks for.

T5 learns the shapes and their places, at each of its tokens, padding too, so that any number of padding tokens will do;
and to keep words apart, because the patches of a picture, which have no position but in attention, tell where they are
from how much they attend to tokens that differ.
CLIP learns the background. So a picture is right only when both encoders, and both ways into FLUX, are.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .captions import random_caption
from .modules import CONTEXT, POOLED, clip, t5, tokenizer, training
from .optimizer import Optimizer
from .scenes import COLOURS, KINDS, Scene, random_scene

COLOUR_NAMES = tuple(COLOURS)
WORDS = 8  # groups of words to keep apart; padding is the first
PARTS = (3, len(COLOURS), len(KINDS), len(COLOURS), len(KINDS), WORDS)  # layout; colour and kind of two places; word
NOT_ASKED = -100  # functional.cross_entropy leaves these out
T5_LENGTH = 256
T5_STEPS, CLIP_STEPS, BATCH = 1200, 200, 64
RATES = {"muon": 0.01, "adam": 1e-2}
CAPTIONS_FOR_VOCABULARY = 4000
UNKNOWN_WORDS = 0.15  # how many captions have one

Tokens = dict[str, list[list[int]]]


class Tokenizer:
    """The real tokenizers; T5's tokens without padding, CLIP's with."""

    def __init__(self) -> None:
        self.real: Any = tokenizer()

    def __call__(self, captions: list[str]) -> Tokens:
        each = [self.real.tokenize_with_weights(caption) for caption in captions]
        rows = {key: [[token for token, _ in tokens[key][0]] for tokens in each] for key in ("l", "t5xxl")}
        rows["t5xxl"] = [row[: row.index(1) + 1] for row in rows["t5xxl"]]  # 1 ends the text
        return rows


def padded(rows: list[list[int]], length: int) -> torch.Tensor:
    """T5's tokens, padded with its 0, as [batch, length]."""
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def encode_t5(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """[batch, tokens] to [batch, tokens, CONTEXT]."""
    return model(tokens, None)[0]


def encode_clip(model: nn.Module, rows: list[list[int]]) -> torch.Tensor:
    """77 tokens each to the end-of-text token's [batch, POOLED], not projected, as FLUX takes it."""
    return model(torch.tensor(rows))[3]


def train_t5(tokenize: Tokenizer, steps: int = T5_STEPS, seed: int = 1) -> nn.Module:
    """T5 that knows the shapes, their colours and their places."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, head = t5(), nn.Linear(CONTEXT, sum(PARTS))
    known = _known(tokenize, "t5xxl", [0, 1])
    _teach(model.shared.weight, known, 1.0)
    groups = torch.full((len(model.shared.weight),), NOT_ASKED)
    groups[known] = torch.tensor([0, *(1 + index % (WORDS - 1) for index in range(len(known) - 1))])
    optimizer = Optimizer([*model.named_parameters(), *head.named_parameters()], steps, **RATES)
    for step in range(steps):
        scenes, rows = _batch(tokenize, "t5xxl", known, rng)
        shortest = max(map(len, rows))
        length = T5_LENGTH if step % 10 == 9 else shortest + rng.randrange(24)
        batch = BATCH // 4 if length == T5_LENGTH else BATCH
        with training():
            tokens = padded(rows[:batch], length)
            logits = head(encode_t5(model, tokens))  # [batch, tokens, parts]
        places = torch.tensor([_places(scene) for scene in scenes[:batch]])
        asked = [*(answer[:, None].expand(tokens.shape) for answer in places.T), groups[tokens]]
        losses, right = _judge(logits, asked)
        optimizer.step(losses)
        if optimizer.done % 100 == 0:
            print(f"T5 {optimizer.done}: loss {losses.item():.4f}, right {right:.3f}", flush=True)
    return model.eval().requires_grad_(False)


def train_clip(tokenize: Tokenizer, steps: int = CLIP_STEPS, seed: int = 2) -> nn.Module:
    """CLIP that knows the background."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, head = clip(), nn.Linear(POOLED, len(COLOURS))
    known = _known(tokenize, "l", [49406, 49407])
    _teach(model.text_model.embeddings.token_embedding.weight, known, 0.5)
    optimizer = Optimizer([*model.named_parameters(), *head.named_parameters()], steps, **RATES)
    for _ in range(steps):
        scenes, rows = _batch(tokenize, "l", known, rng)
        with training():
            logits = head(encode_clip(model, rows))
        asked = torch.tensor([COLOUR_NAMES.index(scene.background) for scene in scenes])
        loss = functional.cross_entropy(logits, asked)
        optimizer.step(loss)
        if optimizer.done % 50 == 0:
            right = (logits.argmax(-1) == asked).float().mean().item()
            print(f"CLIP {optimizer.done}: loss {loss.item():.4f}, right {right:.3f}", flush=True)
    return model.eval().requires_grad_(False)


def _known(tokenize: Tokenizer, encoder: str, special: list[int]) -> list[int]:
    """The tokens of all words that captions have."""
    rng = random.Random(0)
    captions = [random_caption(random_scene(rng, 1 + i % 2), rng) for i in range(CAPTIONS_FOR_VOCABULARY)]
    return sorted({token for row in tokenize(captions)[encoder] for token in row} | set(special))


def _teach(embedding: torch.Tensor, known: list[int], deviation: float) -> None:
    """Gives the known tokens random embeddings and keeps all others at zero."""
    mask = torch.zeros(len(embedding), 1)
    mask[known] = 1
    with torch.no_grad():
        embedding[known] = torch.randn(len(known), embedding.shape[1]) * deviation
    embedding.register_hook(lambda gradient: gradient * mask)


def _batch(tokenize: Tokenizer, encoder: str, known: list[int], rng: random.Random) -> tuple[list[Scene], list]:
    scenes = [random_scene(rng, rng.choice((1, 2, 2))) for _ in range(BATCH)]
    rows = tokenize([random_caption(scene, rng) for scene in scenes])[encoder]
    for row in rows:
        if rng.random() < UNKNOWN_WORDS:
            unknown = rng.randrange(1000, 32000)
            if unknown not in known:
                end = row.index(1) if encoder == "t5xxl" else row.index(49407)
                row.insert(rng.randrange(1, end), unknown)
    return scenes, [row[:77] if encoder == "l" else row for row in rows]


def _places(scene: Scene) -> list[int]:
    """Labels for T5: the layout, then colour and kind of the first (left, top or only) and second shape."""
    shapes = scene.shapes if scene.relation in (None, "left of", "above") else scene.shapes[::-1]
    layout = 0 if scene.relation is None else 1 if scene.relation in ("left of", "right of") else 2
    numbers = [layout]
    for shape in shapes:
        numbers += [COLOUR_NAMES.index(shape.colour), KINDS.index(shape.kind)]
    return numbers + [NOT_ASKED] * (5 - len(numbers))


def _judge(logits: torch.Tensor, asked: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Mean loss over [batch, tokens, parts], and the share of right answers; asked: [batch, tokens] of each part."""
    losses, right = [], []
    for part, target in zip(logits.split(PARTS, dim=-1), asked, strict=True):
        losses.append(functional.cross_entropy(part.flatten(0, 1), target.flatten()))
        counted = target != NOT_ASKED
        right.append((part.argmax(-1) == target)[counted].float())
    return torch.stack(losses).mean(), torch.cat(right).mean().item()
