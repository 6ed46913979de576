"""The choices of the prompt expander (styles, target encoders, lengths) and the system message made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_STYLE, OWN_STYLE = "none", "own text"
STYLES = {
    "photo": "A photograph: say the light and its direction, the lens and the distance, the moment, real materials.",
    "illustration": "An illustration: say the medium, the line, the palette, the composition.",
    "anime": "Anime key art: say the character's hair, eyes, clothes and pose, the setting, the colours, the shading.",
    "architecture": "Architecture: say the building's form, materials, surroundings, point of view and time of day.",
    "product": "A product picture: say the object's material and finish, the background, the studio light, the angle.",
    NO_STYLE: "Choose the style that suits the idea.",
    OWN_STYLE: "",
}


@dataclass(frozen=True)
class Target:
    """The text encoder that a prompt is written for."""

    tokenizer: str  # "t5" or "clip"
    tokens: int  # that it reads
    form: str  # instruction: sentences or tags


_SENTENCES = "Write flowing sentences that describe what is seen, subject first, no lists, no commands."
_TAGS = "Write short tags and phrases separated by commas, the most important first, no sentences."
TARGETS = {
    "FLUX schnell": Target("t5", 256, _SENTENCES),
    "FLUX dev": Target("t5", 512, _SENTENCES),
    "SD tags": Target("clip", 77, _TAGS),
}


@dataclass(frozen=True)
class Length:
    """The length of a prompt."""

    words: int  # requested
    characters: int  # at most


LENGTHS = {"short": Length(30, 300), "medium": Length(80, 800), "long": Length(180, 1800)}
NEGATIVE_CHARACTERS = 300
_TASK = (
    "You turn a short idea into one prompt for an image generator. Keep everything that the idea says; add only what "
    "makes the picture more definite."
)
_ANSWER = (
    'Answer with JSON alone: {"prompt": "the prompt", "negative": "what must not be in the picture, in a few words"}.'
)


@dataclass(frozen=True)
class Idea:
    """A user's short idea and how it is to be expanded."""

    text: str
    style: str  # a key of STYLES
    own_style: str  # used with OWN_STYLE
    target: str  # a key of TARGETS
    length: str  # a key of LENGTHS
    must_keep: tuple[str, ...]  # phrases that the prompt must contain


def must_keep_phrases(text: str) -> tuple[str, ...]:
    """The phrases of a `must_keep` input, separated by commas or line ends; each once."""
    return tuple(dict.fromkeys(phrase.strip() for phrase in re.split(r"[,\n]", text) if phrase.strip()))


def instructions(idea: Idea) -> str:
    """The system message for an idea."""
    lines = [
        _TASK,
        idea.own_style.strip() if idea.style == OWN_STYLE else STYLES[idea.style],
        TARGETS[idea.target].form,
        f"About {LENGTHS[idea.length].words} words.",
    ]
    if idea.must_keep:
        lines.append(f"These words must be in the prompt as they are: {', '.join(idea.must_keep)}.")
    return "\n".join(line for line in [*lines, _ANSWER] if line)
