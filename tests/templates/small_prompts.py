"""Prompts of templates made cheap: small pictures, few frames, steps, tokens; and nodes that keep what is put out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Prompt = dict[str, Any]
SIDE, FRAMES, STEPS = 64, 9, 2
# What inputs of these names become at most, by the last part of the name.
_AT_MOST: Mapping[str, float] = {
    **dict.fromkeys((
        "width", "height", "resolution", "largest_size", "longer_edge", "shorter_edge", "longer_size", "shorter_size",
        "target_width", "target_height", "max_dimension", "size", "longest_side", "resize_to", "upscale_width",
        "upscale_height", "max_size", "new_resolution", "base_resolution", "width_override", "height_override",
        "shorter", "longer", "crop_width", "crop_height", "max_shift_size", "original_width", "original_height",
    ), SIDE),
    **dict.fromkeys((
        "length", "num_frames", "frames", "frames_number", "video_length", "frame_count", "max_frames", "num_images",
        "frame_length", "chunk_length", "frame_load_cap", "video_frames",
    ), FRAMES),
    **dict.fromkeys(("left", "top", "right", "bottom"), SIDE // 4),  # of a border
    **dict.fromkeys(("seconds", "duration", "seconds_total", "audio_length", "max_duration"), 2),
    **dict.fromkeys(("max_length", "max_new_tokens", "max_tokens", "max_generation_tokens"), 4),
    "steps": STEPS, "batch_size": 1, "megapixels": 0.01, "octree_resolution": 16, "num_chunks": 100, "fps": 24,
    "tile_size": 512, "context_length": FRAMES,
}  # fmt: skip
_TEXT = 60  # letters, each of which may be a token
_STEP_NUMBERS = ("start_at_step", "end_at_step", "step", "last_step", "start_step", "end_step")
_CHOICES = ("on_false", "on_true", "value")  # inputs of nodes that pass one of them on
_TERMS = "values."  # how the inputs of expressions begin
_LENGTHS = ("length", "num_frames")  # of which expressions make frames from seconds and rates
_RATE = 8


def smaller(prompt: Mapping[str, Any], classes: Mapping[str, Any] | None = None) -> Prompt:
    """The prompt with small sizes, and few frames, steps and tokens. classes: of nodes, whose least values it keeps."""
    made: Prompt = {key: {**node, "inputs": dict(node["inputs"])} for key, node in prompt.items()}
    steps = max(_values(made, "steps"), default=STEPS)
    for node in made.values():
        for name, value in node["inputs"].items():
            least = _least(classes, node["class_type"], name)
            if not is_link(value):
                node["inputs"][name] = _small(name, value, steps, least)
            counts_frames = name in _LENGTHS and _is_computed(made, value)
            for source in _constants(made, value):
                constant = source["inputs"]["value"]
                source["inputs"]["value"] = (
                    _few_frames(constant) if counts_frames else _small(name, constant, steps, least)
                )
    return made


def _is_computed(prompt: Prompt, value: Any) -> bool:
    """Whether an input is the value of an expression."""
    source = prompt.get(value[0]) if is_link(value) else None
    return source is not None and any(name.startswith(_TERMS) for name in source["inputs"])


def _few_frames(value: Any) -> Any:
    """One second, or few frames a second."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        return value
    return type(value)(_RATE if value >= _RATE else 1)


def is_link(value: Any) -> bool:
    """Whether an input comes from another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _constants(prompt: Prompt, value: Any) -> Iterator[Any]:
    """The nodes whose own `value` an input may get: over a link, and through switches."""
    source = prompt.get(value[0]) if is_link(value) else None
    if source is None:
        return
    if "value" in source["inputs"] and not is_link(source["inputs"]["value"]):
        yield source
    for name, given in source["inputs"].items():
        if name in _CHOICES or name.startswith(_TERMS):
            yield from _constants(prompt, given)


def _values(prompt: Prompt, wanted: str) -> Iterator[int]:
    for node in prompt.values():
        value = node["inputs"].get(wanted)
        for found in (value, *(source["inputs"]["value"] for source in _constants(prompt, value))):
            if isinstance(found, int) and not isinstance(found, bool):
                yield found


def _least(classes: Mapping[str, Any] | None, class_type: str, name: str) -> float:
    """The least value that an input takes."""
    kind = (classes or {}).get(class_type)
    try:
        given = kind.INPUT_TYPES() if kind else {}
        for group in ("required", "optional"):
            found = given.get(group, {}).get(name)
            if found and len(found) > 1:
                return float(found[1].get("min", 0))
    except Exception:  # of nodes of core's that want a server
        return 0
    return 0


def _small(name: str, value: Any, steps: int, least: float) -> Any:
    last = name.rsplit(".", 1)[-1]
    if last == "weight_dtype":  # core rounds the weights to it, which this pack takes as they are in the file
        return "default"
    is_prose = isinstance(value, str) and value.count(" ") > 4 and value[0] not in "{[" and last != "expression"
    if is_prose and len(value) > _TEXT:
        return value[:_TEXT]
    if last == "sigmas" and isinstance(value, str):
        numbers = [each.strip() for each in value.split(",") if each.strip()]
        return ", ".join([numbers[0], numbers[len(numbers) // 2], numbers[-1]]) if len(numbers) > 3 else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value
    if last in _STEP_NUMBERS:
        return min(STEPS, round(value * STEPS / max(steps, 1)) or (1 if value else 0)) if steps > STEPS else value
    if last in _AT_MOST and value > 0:
        small = max(min(value, _AT_MOST[last]), least)
        return type(value)(small) if small == int(small) else float(small)
    return value


def keeping(prompt: Mapping[str, Any], classes: Mapping[str, Any], beginning: str) -> tuple[Prompt, list[str]]:
    """The prompt with nodes that keep what goes into output nodes, decoders and samplers, and the classes it is from.

    They write files whose names are `beginning` and the number of three figures. In the place of pictures that are
    drawn from numbers, as poses are, the numbers are kept: a point that lands on the next pixel is another picture.
    """
    links: dict[tuple[str, int], str] = {}
    for node in prompt.values():
        is_output = _is_output(classes.get(node["class_type"]))
        decodes = "VAEDecode" in node["class_type"]
        for name, value in node["inputs"].items():
            wanted = is_output or name in _TEXTS or (decodes and name.startswith("sample"))
            if wanted and is_link(value) and value[0] in prompt:
                found = _not_drawn(prompt, classes, (value[0], value[1]))
                links |= {each: prompt[each[0]]["class_type"] for each in found}
    made = dict(prompt)
    for number, (source, output) in enumerate(sorted(links)):
        name = f"{beginning}{number:03}.pt"
        made[f"keep{number}"] = {"class_type": "KeepTensors", "inputs": {"value": [source, output], "name": name}}
    return made, [links[each] for each in sorted(links)]


_TEXTS = ("positive", "negative", "conditioning")
_NUMBERS = ("POSE_KEYPOINT", "BOUNDING_BOX")  # types of results
_MODELS = ("MODEL", "CLIP", "VAE", "CONTROL_NET", "CLIP_VISION", "MODEL_PATCH")


def _not_drawn(prompt: Mapping[str, Any], classes: Mapping[str, Any], link: tuple[str, int]) -> list[tuple[str, int]]:
    """The results that one is drawn and put together from since a model computed; itself where nothing is drawn."""
    given = [
        (value[0], value[1])
        for value in prompt[link[0]]["inputs"].values()
        if is_link(value) and value[0] in prompt
    ]  # fmt: skip
    kinds = [_type(prompt, classes, each) for each in given]
    if _type(prompt, classes, link) in _NUMBERS or any(kind in _MODELS for kind in kinds):
        return [link]
    before = [_not_drawn(prompt, classes, each) for each in given]
    if not any(kind in _NUMBERS for kind in kinds) and before == [[each] for each in given]:
        return [link]
    return [each for found in before for each in found]


def _type(prompt: Mapping[str, Any], classes: Mapping[str, Any], link: tuple[str, int]) -> str:
    kinds = getattr(classes.get(prompt[link[0]]["class_type"]), "RETURN_TYPES", ())
    return str(kinds[link[1]]) if link[1] < len(kinds) else ""


def _is_output(kind: Any) -> bool:
    if kind is None:
        return False
    if getattr(kind, "OUTPUT_NODE", False):
        return True
    schema = getattr(kind, "GET_SCHEMA", None)
    return bool(schema and schema().is_output_node)
