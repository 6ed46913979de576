"""Pictures reach a language model that has a vision projector."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from native.llm import server_lifetime as serving
from native.llm.answer import answer
from native.llm.exchange import Endpoint
from native.llm.memory import memory_of_model
from native.llm.model import LocalModel, local_model
from native.llm.requests import conversation_request
from native.llm.stream import Answer
from tests import random_llm, random_projector
from tests.pack import part


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    folder: Path = tmp_path_factory.mktemp("seeing")
    words, eyes = random_llm.write(folder / "m.gguf"), random_projector.write(folder / "mmproj-m.gguf")
    yield local_model(str(words), "CPU", -1, 1024, 1, str(eyes), False)
    serving.unload()


def picture(colour: str) -> str:
    content = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def said(model: LocalModel, *pictures: str) -> str:
    """The likeliest answer to one question."""

    def request(endpoint: Endpoint) -> dict[str, Any]:
        asked = conversation_request("", "What is this?", pictures, 1, 0.0, 16, endpoint)
        return asked | {"ignore_eos": True}  # as likely as any other token of random weights

    return answer(model, request, lambda _: None, lambda: False).text


def test_what_is_shown_decides_what_is_said(model: LocalModel) -> None:
    blind, red, blue = said(model), said(model, picture("red")), said(model, picture("blue"))
    assert len({blind, red, blue}) == 3
    assert said(model, picture("red")) == red
    assert len({red, blue, said(model, picture("red"), picture("blue"))}) == 3


@pytest.mark.parametrize("name", ["chat", "prompt_expander"])
def test_pictures_of_several_inputs_are_sent_in_their_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any size, several in one input, and inputs between them left out; the thinking is the last output."""
    node = part(f"nodes.language.{name}")
    sent: list[dict[str, Any]] = []

    def asked(_node: Any, _model: Any, request: Any, _tokens: int) -> Answer:
        sent.append(request(Endpoint("u", "m", "", 1.0)))
        return Answer('{"prompt": "a cat", "negative": ""}', "hm", "stop")

    monkeypatch.setattr(node, "answer_at", asked)
    monkeypatch.setattr(node, "show", lambda *_: None)
    images = {"image": torch.zeros(1, 8, 4, 3), "image3": torch.ones(2, 6, 16, 3), "image4": torch.zeros(1, 2, 2, 3)}
    if name == "chat":
        found = node.GGMLChat.execute(None, "", "?", 1, 1.0, 20, **images)
    else:
        found = node.GGMLPromptExpander.execute(
            None, "a cat", "photo", "Wan motion", "short", "", 1, 1.0, "stop", **images
        )
    assert found.result[-1] == "hm"
    content = sent[0]["messages"][-1]["content"]
    urls = [each["image_url"]["url"] for each in content if each["type"] == "image_url"]
    files = [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in urls]
    assert [file.size for file in files] == [(4, 8), (16, 6), (16, 6), (2, 2)]
    assert [np.asarray(file)[0, 0, 0] for file in files] == [0, 255, 255, 0]


def test_eyes_are_counted(model: LocalModel) -> None:
    assert model.projector is not None
    blind = local_model(model.path, "CPU", -1, 1024, 1, None, False)
    more = memory_of_model(model).weights_on_cpu - memory_of_model(blind).weights_on_cpu
    assert 0 < more < Path(model.projector).stat().st_size
