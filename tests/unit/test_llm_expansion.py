"""From a language model's answer to a prompt: reasoning, JSON, words that must be kept, tokens that are read."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from native.llm.exchange import Endpoint
from native.llm.expansion import expansion, unexpanded
from native.llm.model import LanguageModelError
from native.llm.reasoning import without_reasoning
from native.llm.requests import expansion_grammar, expansion_request, expansion_schema, llama_seed
from native.llm.styles import LENGTHS, STYLES, TARGETS, Idea, must_keep_phrases
from tests.pack import part

counter = part("nodes.language.prompt_expander").counter
IDEA = Idea("a cat", "photo", "", "FLUX schnell", "medium", ())
PROMPT = "A cat on a wall. The light is low."


def answer(prompt: str = PROMPT, negative: str = "blur") -> str:
    return json.dumps({"prompt": prompt, "negative": negative})


def prompt_of(text: str, idea: Idea = IDEA) -> str:
    return expansion(text, idea, counter(TARGETS[idea.target].tokenizer)).prompt


@pytest.mark.parametrize(
    "text",
    [
        answer(),
        f"<think>{{}} a cat, hm</think>\n{answer()}",
        f"it is not clear {{what}}</think>{answer()}",
        f"Here it is:\n```json\n{answer()}\n```\nEnjoy!",
        json.dumps({"prompt": "A  cat on\na wall. The light is low. ", "negative": "blur"}),
    ],
)
def test_the_json_is_found(text: str) -> None:
    found = expansion(text, IDEA, counter("t5"))
    assert (found.prompt, found.negative) == (PROMPT, "blur")


@pytest.mark.parametrize(
    "text",
    [
        "", "a cat", "{", '{"a":' * 9999, answer()[:-3], '{"prompt": "a"}', '{"prompt": 1, "negative": ""}', "[]",
        "<think>" + answer(),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_said(text: str) -> None:
    with pytest.raises(LanguageModelError, match="not the JSON that was asked for.*another seed"):
        prompt_of(text)


def test_an_empty_prompt_is_no_answer() -> None:
    with pytest.raises(LanguageModelError, match="empty prompt"):
        prompt_of(answer(" "))


def test_halves_of_characters_do_not_pass() -> None:
    assert prompt_of('{"prompt": "a \\ud83d cat", "negative": ""}') == "a ? cat"


def test_reasoning_that_never_ends_is_no_answer() -> None:
    assert without_reasoning("<think>first I") == ""
    assert without_reasoning("plain <b>text</b>") == "plain <b>text</b>"


def test_words_that_are_kept() -> None:
    assert must_keep_phrases(" red hat,, blue\n(cat:1.2), red hat ") == ("red hat", "blue", "(cat:1.2)")
    idea = replace(IDEA, must_keep=("A CAT", "red hat", "wal"))
    assert prompt_of(answer(), idea) == f"red hat, wal, {PROMPT}"
    assert unexpanded(replace(IDEA, must_keep=("hat",))).prompt == "hat, a cat"
    assert unexpanded(IDEA).prompt == "a cat"


@pytest.mark.parametrize("target", TARGETS)
def test_a_long_prompt_fits_the_encoder_with_what_is_kept(target: str) -> None:
    rng = random.Random(1)
    count, limit = counter(TARGETS[target].tokenizer), TARGETS[target].tokens
    long = " ".join(rng.choice(["cat.", "a", "hm,", "wall"]) for _ in range(800))
    idea = replace(IDEA, target=target, length="long", must_keep=("the last word", "cat"))
    prompt = prompt_of(answer(long), idea)
    assert limit // 2 < count(prompt) <= limit
    assert prompt.startswith("the last word, ")
    assert count("the last word, " + long[:1800]) > limit


def test_it_is_cut_at_the_end_of_a_sentence_or_phrase() -> None:
    sentences = " ".join(f"A cat sits on wall number {number}." for number in range(60))
    assert prompt_of(answer(sentences), replace(IDEA, length="long")).endswith(".")
    tags = ", ".join(f"cat on wall {number}" for number in range(60))
    cut = prompt_of(answer(tags), replace(IDEA, target="SD tags", length="long"))
    assert cut == tags[: len(cut)]
    assert tags[len(cut)] == ","


def test_one_endless_word_is_cut_anywhere() -> None:
    cut = prompt_of(answer("ж" * 700), replace(IDEA, target="SD tags"))
    assert 0 < len(cut) < 100
    assert counter("clip")(cut) <= 77


def test_more_to_keep_than_the_encoder_reads_is_said() -> None:
    idea = replace(IDEA, target="SD tags", must_keep=("cat " * 90,))
    with pytest.raises(LanguageModelError, match=r"must_keep takes 9\d tokens, but the text encoder reads 77"):
        prompt_of(answer(), idea)


def test_tokens_are_counted_as_encoders_see_them() -> None:
    """A weight is none, and what no longer fits a window of CLIP begins another one."""
    assert counter("t5")("a red circle") == 5
    assert counter("clip")("a red circle") == counter("clip")("a (red:1.2) circle") == 5
    assert counter("clip")("cat " * 75) == 77
    assert counter("clip")("cat " * 76) > 77
    assert counter("t5")("cat " * 600) == 601


@pytest.mark.parametrize("style", STYLES)
def test_the_request_says_what_is_wanted(style: str) -> None:
    idea = replace(IDEA, style=style, own_style="as on a stamp", must_keep=("red hat",))
    asked = expansion_request(idea, 7, 0.5, Endpoint("u", "m", "k", 1.0))
    system, user = (message["content"] for message in asked["messages"])
    assert user == "a cat"
    assert "red hat" in system
    assert (STYLES[style] or "as on a stamp") in system
    assert ("as on a stamp" in system) == (style == "own text")
    assert TARGETS["FLUX schnell"].form in system
    assert (asked["seed"], asked["temperature"]) == (7, 0.5)
    wanted = asked["response_format"]["json_schema"]["schema"]
    assert wanted == expansion_schema(LENGTHS["medium"].characters)
    assert "grammar" not in asked


def test_a_child_gets_the_schema_as_a_grammar() -> None:
    asked = expansion_request(IDEA, 7, 0.5, Endpoint("u", "m", "k", 1.0, takes_grammar=True))
    assert "response_format" not in asked
    assert asked["grammar"] == expansion_grammar(LENGTHS["medium"].characters)
    limits = {name: each["maxLength"] for name, each in expansion_schema(800)["properties"].items()}
    assert all(f'\\"{name}\\": \\"" character' in asked["grammar"] for name in limits)
    assert all(f",{limit}}}" in asked["grammar"] for limit in limits.values())


def test_seeds_are_of_32_bits_and_never_the_one_that_means_any() -> None:
    assert [llama_seed(seed) for seed in (0, 1, 0xFFFFFFFE)] == [0, 1, 0xFFFFFFFE]
    seeds = [0xFFFFFFFF, 0xFFFFFFFF << 32, 0xFFFFFFFFFFFFFFFF, 1 << 32, 0x1234567890ABCDEF]
    assert all(0 <= llama_seed(seed) < 0xFFFFFFFF for seed in seeds)


def test_different_seeds_stay_different() -> None:
    """Those with a pattern in their bits, as people type them and as random numbers of JavaScript and ComfyUI are."""
    patterns = {0, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, *(half | half << 32 for half in range(1, 500))}
    patterns |= {1 << bit for bit in range(64)} | {(1 << bit) - 1 for bit in range(65)}
    patterns |= {number << 32 for number in range(500)} | {0xFFFFFFFFFFFFFFFF - number for number in range(500)}
    assert len({llama_seed(seed) for seed in patterns}) == len(patterns)


MADE_FOR = {
    "FLUX schnell": "flowing sentences", "FLUX dev": "flowing sentences", "SD tags": "tags", "SDXL tags": "tags",
    "Z-Image": "no quality tags", "Qwen-Image": "typeface", "Wan motion": "what the camera does",
    "LTX motion": "in the order in which it happens",
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_each_model_gets_a_prompt_of_its_kind(target: str) -> None:
    """Models of videos are told of movement, and pictures that come along are where it begins."""
    moves = target.endswith("motion")
    told = []
    for images in ([], ["data:1"], ["data:1", "data:2"]):
        asked = expansion_request(replace(IDEA, target=target), 7, 0.5, Endpoint("u", "m", "k", 1.0), images)
        system, user = (message["content"] for message in asked["messages"])
        told.append(system)
        assert ("generator of videos" in system) == moves
        assert ("generator of pictures" in system) == (not moves)
        assert MADE_FOR[target] in system
        if images:
            assert [part.get("text") or part["image_url"]["url"] for part in user] == ["a cat", *images]
            assert ("with which the video begins" in system) == moves
            assert ("a picture" if len(images) == 1 else "2 pictures") in system
        else:
            assert user == "a cat"
    assert len(set(told)) == 3


def test_every_model_of_the_list_has_a_form() -> None:
    assert set(MADE_FOR) == set(TARGETS)


def test_tokens_of_encoders_that_are_language_models() -> None:
    count = counter("qwen")
    assert count("a red circle") == 3
    assert 40 < count("cat " * 40) <= 41 * 2
