"""The child with a local language model: its answers, its start and its end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest

from native.client import Interrupted
from native.llm import server_lifetime as serving
from native.llm.answer import answer
from native.llm.chat import OnProgress
from native.llm.exchange import Endpoint
from native.llm.expansion import expansion
from native.llm.model import LanguageModelError, LocalModel, local_model
from native.llm.requests import conversation_request, expansion_request
from native.llm.stream import Answer
from native.llm.styles import Idea
from tests import random_llm
from tests.random_llm import Sizes

LONG = 1 << 15  # tokens: seconds of writing
IDEA = Idea("a cat", "photo", "", "FLUX schnell", "short", ("red hat",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """Sees so much at once that it can write for seconds."""
    path = random_llm.write(tmp_path_factory.mktemp("models") / "m.gguf", Sizes(context=LONG))
    return local_model(str(path), "CPU", -1, LONG, 1, None, False)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    serving.unload()


def never() -> bool:
    return False


def nowhere(_: Answer) -> None:
    pass


def chat(model: LocalModel, text: str = "hello", seed: int = 1, tokens: int = 30, show: OnProgress = nowhere,
         interrupted: Any = never) -> Answer:  # fmt: skip
    def asked(endpoint: Endpoint) -> dict[str, Any]:
        # A token of the byte-level vocabulary that ends a text is as likely as any other.
        return conversation_request("", text, (), seed, 1.0, tokens, endpoint) | {"ignore_eos": True}

    return answer(model, asked, show, interrupted)


def pid() -> int:
    engine = serving.running()
    assert engine is not None
    return engine.pid


def test_a_seed_gives_one_text(model: LocalModel) -> None:
    first = chat(model).text
    assert len(first) > 20
    assert chat(model, seed=2).text != first
    assert chat(model, "something else").text != first
    assert chat(model).text == first
    serving.unload()
    assert chat(model).text == first


def test_an_expansion_holds_to_the_schema(model: LocalModel) -> None:
    found = answer(model, lambda endpoint: expansion_request(IDEA, 5, 1.0, endpoint), nowhere, never)
    assert found.finish == "stop"
    made = expansion(found.text, IDEA, len)
    assert made.prompt.startswith("red hat, ")
    assert found.text.startswith('{"prompt": "')


def test_text_is_shown_while_it_is_written(model: LocalModel) -> None:
    seen: list[str] = []
    whole = chat(model, tokens=1500, show=lambda so_far: seen.append(so_far.text)).text
    assert len(seen) > 2
    assert all(whole.startswith(text) for text in seen)
    assert len(set(map(len, seen))) > 2


def test_an_interrupt_ends_the_answer_and_not_the_server(model: LocalModel) -> None:
    pieces: list[int] = []
    with pytest.raises(Interrupted):
        chat(model, tokens=LONG, show=lambda so_far: pieces.append(so_far.pieces), interrupted=lambda: bool(pieces))
    assert pieces[-1] < LONG // 2
    before = pid()
    assert chat(model).text  # there is one slot, so the long answer is over
    assert pid() == before


def test_an_interrupt_ends_the_start(model: LocalModel) -> None:
    with pytest.raises(Interrupted):
        chat(model, interrupted=lambda: True)
    assert serving.running() is None


def test_many_ask_at_once(model: LocalModel) -> None:
    """Each gets its own answer, and two models are never in memory together."""
    other = replace(model, context=1024)
    alone = [chat(each, seed=seed).text for each in (model, other) for seed in range(3)]
    found: dict[int, str] = {}
    asked = [(each, seed) for each in (model, other) for seed in range(3)]
    most: list[int] = []

    def ask(index: int) -> None:
        each, seed = asked[index]
        found[index] = chat(each, seed=seed, show=lambda _: most.append(len(children()))).text

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(asked))] == alone
    assert max(most) == 1


def children() -> list[psutil.Process]:
    """The children with a language model that live."""
    return [
        child for child in psutil.Process().children()
        if "native.llm" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE
    ]  # fmt: skip


def test_equal_models_share_a_process_and_the_memory_goes_with_it(model: LocalModel) -> None:
    chat(model)
    before = pid()
    chat(replace(model))
    assert pid() == before
    serving.unload_if_idle()
    assert not psutil.pid_exists(before)
    assert serving.running() is None


def test_one_that_is_kept_does_not_make_way(model: LocalModel) -> None:
    kept = replace(model, kept=True)
    chat(kept)
    before = pid()
    serving.unload_if_idle()
    assert pid() == before
    serving.unload(model)
    assert pid() == before
    serving.unload(kept)
    assert serving.running() is None


def test_one_that_answers_does_not_make_way(model: LocalModel) -> None:
    alive: list[bool] = []

    def show(_: Answer) -> None:
        serving.unload_if_idle()
        alive.append(serving.running() is not None)

    assert len(chat(model, tokens=500, show=show).text) > 400
    assert all(alive)


def test_a_killed_child_is_replaced(model: LocalModel) -> None:
    """Between answers, and once in the middle of one."""
    expected = chat(model, tokens=1000).text
    os.kill(pid(), signal.SIGKILL)
    assert chat(model, tokens=1000).text == expected
    killed: list[int] = []

    def kill(_: Answer) -> None:
        if not killed:
            killed.append(pid())
            os.kill(killed[0], signal.SIGKILL)

    assert chat(model, tokens=1000, show=kill).text == expected
    assert pid() != killed[0]


def test_a_child_that_dies_again_is_said_to(model: LocalModel) -> None:
    def kill(_: Answer) -> None:
        with suppress(ProcessLookupError):  # words that were on their way come after its end, too
            if serving.running():
                os.kill(pid(), signal.SIGKILL)

    with pytest.raises(LanguageModelError, match=r"ended twice over the same request: .*signal 9"):
        chat(model, tokens=LONG, show=kill)


def test_a_question_longer_than_the_context_is_said(model: LocalModel) -> None:
    with pytest.raises(LanguageModelError, match="exceeds the available context size"):
        chat(replace(model, context=512), "long " * 500)


def test_a_picture_for_a_model_that_cannot_see_is_said(model: LocalModel) -> None:
    picture = "data:image/png;base64,AAAA"
    with pytest.raises(LanguageModelError, match="image input is not supported"):
        answer(model, lambda endpoint: conversation_request("", "?", [picture], 1, 1.0, 9, endpoint), nowhere, never)
