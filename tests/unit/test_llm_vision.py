"""Pictures reach a language model that has a vision projector."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from native.llm import server_lifetime as serving
from native.llm.answer import answer
from native.llm.exchange import Endpoint
from native.llm.memory import memory_of_model
from native.llm.model import LocalModel, local_model
from native.llm.requests import conversation_request
from tests import random_llm, random_projector


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


def test_eyes_are_counted(model: LocalModel) -> None:
    assert model.projector is not None
    blind = local_model(model.path, "CPU", -1, 1024, 1, None, False)
    more = memory_of_model(model).weights_on_cpu - memory_of_model(blind).weights_on_cpu
    assert 0 < more < Path(model.projector).stat().st_size
