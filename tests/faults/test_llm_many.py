"""A hundred ideas and a language model that writes nonsense: each gives a prompt that can be used."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from native.llm import server_lifetime as serving
from native.llm.answer import answer
from native.llm.expansion import expansion
from native.llm.model import local_model
from native.llm.requests import expansion_request
from native.llm.styles import STYLES, TARGETS, Idea
from tests import random_llm
from tests.pack import part

counter = part("nodes.language.prompt_expander").counter


@pytest.mark.turns(3)
@pytest.mark.parametrize(("length", "times"), [("short", 80), ("medium", 15), ("long", 5)])
def test_a_hundred_expansions_hold_to_the_schema(tmp_path: Path, length: str, times: int) -> None:
    rng = random.Random(length)
    model = local_model(str(random_llm.write(tmp_path / "m.gguf")), "CPU", -1, 4096, 1, None, False)
    try:
        for _ in range(times):
            target, style = rng.choice(list(TARGETS)), rng.choice(list(STYLES))
            idea = Idea("a cat", style, "as on a stamp", target, length, ("red hat", "two dogs"))
            seed, temperature = rng.getrandbits(64), rng.uniform(0, 2)
            found = answer(
                model,
                lambda endpoint: expansion_request(idea, seed, temperature, endpoint),  # noqa: B023  # noqa: B023
                lambda _: None,
                lambda: False,
            )
            assert set(json.loads(found.text)) == {"prompt", "negative"}
            count = counter(TARGETS[target].tokenizer)
            made = expansion(found.text, idea, count)
            assert made.prompt.startswith("red hat, two dogs")
            assert max(count(made.prompt), count(made.negative)) <= TARGETS[target].tokens
    finally:
        serving.unload()
