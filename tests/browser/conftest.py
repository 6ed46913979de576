"""One ComfyUI server and one browser for all tests of the editor."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import comfy_server
from tests.browser.editor import Editor, opened
from tests.e2e.example import upload_example

# What ComfyUI and the browser note of an answer that is a refusal, of an unsaved graph that is left, of pictures that a
# template loads and that are not there, and of what it may not ask the internet: about nodes, and missing models.
NOTED = (
    "/api/prompt - Failed to load resource", "/api/ggml/plan - Failed to load resource",
    "/api/ggml/language_models - Failed to load resource", "PromptExecutionError",
    "/api/view?type=input", "Blocked attempt to show", "/assets/missingModel", "/assets/vendor-axios",
)  # fmt: skip


@pytest.fixture(scope="package")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """The browser, which shows nothing yet."""
    with comfy_server.running(tmp_path_factory.mktemp("editor")) as client:
        upload_example(client)
        with opened(client, tmp_path_factory.mktemp("profile")) as editor:
            yield editor


@pytest.fixture(scope="package")
def of_others(page: Editor) -> set[str]:
    """Errors in the browser's console while this pack's extension is disabled."""
    page.open(**{"Comfy.Extension.Disabled": ["GGML.Memory"]})
    page.load("text_to_image")
    page.command("Comfy.BrowseTemplates")
    page.find("[role=dialog] span", "ggml-vulkan")
    found = page.errors()
    page.client.send("/settings", {"Comfy.Extension.Disabled": []})
    return found


@pytest.fixture
def editor(page: Editor, of_others: set[str], request: pytest.FixtureRequest) -> Iterator[Editor]:
    """The browser; the console must stay without errors, and the last of each test is kept as a picture."""
    page.errors()
    yield page
    page.keep(re.sub(r"\W+", "-", request.node.name).strip("-"))
    ours = {said for said in page.errors() - of_others if not any(noted in said for noted in NOTED)}
    assert not ours
