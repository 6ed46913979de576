"""The choices of the prompt expander (styles, target models, lengths) and the system message made of them."""

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
    """The model that a prompt is written for, by its text encoder and what it was trained on."""

    tokenizer: str  # "t5", "clip" or "qwen"
    tokens: int  # that it reads
    form: str  # instruction: sentences, tags, movement
    makes: str = "picture"


_SENTENCES = "Write flowing sentences that describe what is seen, subject first, no lists, no commands."
_TAGS = "Write short tags and phrases separated by commas, the most important first, no sentences."
TARGETS = {
    "FLUX schnell": Target("t5", 256, _SENTENCES),
    "FLUX dev": Target("t5", 512, _SENTENCES),
    "SD tags": Target("clip", 77, _TAGS),
    "SDXL tags": Target(
        "clip", 77,
        "Write tags and short phrases separated by commas, no sentences, in this order: kind of picture, subject, what "
        "it does, clothes or materials, setting, light, composition, colours.",
    ),
    "Z-Image": Target(
        "qwen", 500,  # and its chat template
        "Write concrete sentences in the present tense, as someone describes a picture that lies before them: subject, "
        "setting, light, materials, composition. Say only what can be seen: no moods, no words of praise, no quality "
        'tags. Put lettering that is to be read in the picture into "double quotes", and say where it is.',
    ),
    "Qwen-Image": Target(
        "qwen", 512,
        "Write sentences that describe the picture and its layout: what is where, in front and behind, left and right, "
        "how many, which style. Give lettering word for word in \"double quotes\", in its own language, with its "
        "place, typeface and colour.",
    ),
    "Wan motion": Target(
        "t5", 512,  # umT5's own vocabulary is in its model file alone; it takes about as many tokens
        "Describe one shot of a few seconds without cuts, in this order: subject and setting, what moves, in which "
        "direction and how fast, what the camera does (still, pan, push in, follow), light, style. Movement is what "
        "counts: no tags, no still picture.",
        "video",
    ),
    "LTX motion": Target(
        "t5", 256,
        "Write one paragraph in the present tense that tells one shot in the order in which it happens: the main "
        "action first, then movements and gestures, looks of people and things, background, angle and movement of the "
        "camera, light and colours, and what changes suddenly. Literal and exact, no cuts.",
        "video",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Length:
    """The length of a prompt."""

    words: int  # requested
    characters: int  # at most


LENGTHS = {"short": Length(30, 300), "medium": Length(80, 800), "long": Length(180, 1800)}
NEGATIVE_CHARACTERS = 300
_TASK = (
    "You turn a short idea into one prompt for a generator of {makes}s. Keep everything that the idea says; add only "
    "what makes the {makes} more definite."
)
_PICTURES = {
    "picture": "The idea comes with {images} of what it is about: take from there what the idea leaves open.",
    "video": "The idea comes with {images} with which the video begins: say what happens next; keep what is seen.",
}
_ANSWER = (
    'Answer with JSON alone: {{"prompt": "the prompt", "negative": "what must not be in the {makes}, in a few words"}}.'
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


def instructions(idea: Idea, images: int = 0) -> str:
    """The system message for an idea. images: how many pictures come with it."""
    target = TARGETS[idea.target]
    lines = [
        _TASK.format(makes=target.makes),
        idea.own_style.strip() if idea.style == OWN_STYLE else STYLES[idea.style],
        target.form,
        f"About {LENGTHS[idea.length].words} words.",
    ]
    if images:
        lines.append(_PICTURES[target.makes].format(images="a picture" if images == 1 else f"{images} pictures"))
    if idea.must_keep:
        lines.append(f"These words must be in the prompt as they are: {', '.join(idea.must_keep)}.")
    return "\n".join(line for line in [*lines, _ANSWER.format(makes=target.makes)] if line)
