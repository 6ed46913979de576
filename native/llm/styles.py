"""What the expander asks a language model for: styles, targets and lengths, and the words that say so."""

from __future__ import annotations

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
    """The text encoder that reads the prompt: which tokenizer counts, how many tokens it sees, how it likes them."""

    tokenizer: str
    tokens: int
    form: str


_SENTENCES = "Write flowing sentences that describe what is seen, subject first, no lists, no commands."
_TAGS = "Write short tags and phrases separated by commas, the most important first, no sentences."
TARGETS = {
    "FLUX schnell": Target("t5", 256, _SENTENCES),
    "FLUX dev": Target("t5", 512, _SENTENCES),
    "SD tags": Target("clip", 77, _TAGS),
}


@dataclass(frozen=True)
class Length:
    """How long a prompt is asked for, in words, and how long it can be, in characters."""

    words: int
    characters: int


LENGTHS = {"short": Length(30, 300), "medium": Length(80, 800), "long": Length(180, 1800)}
NEGATIVE_CHARACTERS = 300
_TASK = (
    "You turn a short idea into one prompt for an image generator. Keep everything that the idea says; add only what "
    "makes the picture more definite."
)
_ANSWER = (
    'Answer with JSON alone: {"prompt": "the prompt", "negative": "what must not be in the picture, in a few words"}.'
)


def instructions(style: str, own_style: str, target: str, length: str, must_keep: list[str]) -> str:
    """The system message."""
    lines = [
        _TASK,
        own_style.strip() if style == OWN_STYLE else STYLES[style],
        TARGETS[target].form,
        f"About {LENGTHS[length].words} words.",
    ]
    if must_keep:
        lines.append(f"These words must be in the prompt as they are: {', '.join(must_keep)}.")
    return "\n".join(line for line in [*lines, _ANSWER] if line)
