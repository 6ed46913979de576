"""The node GGML Card Check: what it asks for, what it shows, and how it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.pack import part

node = part("nodes.card_check")
card = part("native.card")
client = part("native.client")
GPU = client.Device("Vulkan0", "Radeon RX 580 Series", "GPU", 8 << 30, 8 << 30, 4 << 30, ("warp size 64",))
CPU = client.Device("CPU", "a processor", "CPU", 1, 1, 1, ())


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts on the node; its machine has a card."""
    texts: list[str] = []
    monkeypatch.setattr(node, "show", lambda _node, text: texts.append(text))
    monkeypatch.setattr(node, "devices", lambda: [GPU, CPU])
    monkeypatch.setattr(node.GGMLCardCheck, "hidden", SimpleNamespace(unique_id="1"), raising=False)
    return texts


def report_of(options: Any) -> Any:
    return card.CardReport(
        GPU, "Linux 6", {"ggml": "some build"}, "today", 3.0, ("as it is",),
        (card.Finding("start", card.Verdict.RIGHT, "one addition"),
         card.Finding("memory", card.Verdict.WRONG, "8 | 9", ("part 1",))),
        (card.Rate("product F16", "as it is", 0.01, 3.1e10, "FLOP"),
         card.Rate("addition", "as it is", 0.001, 1e8, "B")),
        (6.2e12, 256e9),
    )  # fmt: skip


@pytest.mark.parametrize(("extent", "most"), [("quick", 60), ("full", 8 * 60)])
def test_report_is_shown(extent: str, most: float, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def check(options: Any, watch: Any) -> Any:
        asked.append(options)
        watch.progress(0.5, "memory")
        assert not watch.interrupted()
        return report_of(options)

    monkeypatch.setattr(node, "check_card", check)
    page, found = node.GGMLCardCheck.execute(extent=extent).result
    assert (asked[0].device, asked[0].full) == ("Vulkan0", extent == "full")
    assert asked[0].seconds < most
    assert shown == ["Checking: memory", page]
    assert "**Faults were found: memory: wrong.**" in page
    assert "| memory | wrong | 8 \\| 9 |" in page
    assert "| product F16 | 3.10 TFLOP/s (10.00 ms) | 50% |" in page
    assert "| addition | 0.10 TB/s (1.00 ms) | 39% |" in page
    assert '"summary": "Faults were found: memory: wrong."' in found


def test_interrupted(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*_: Any) -> Any:
        raise client.Interrupted("the card check was interrupted")

    monkeypatch.setattr(node, "check_card", check)
    with pytest.raises(node.comfy.model_management.InterruptProcessingException):
        node.GGMLCardCheck.execute()


def test_no_gpu(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "devices", lambda: [CPU])
    with pytest.raises(client.RunnerError, match="There is no GPU to check: ggml found the CPU alone"):
        node.GGMLCardCheck.execute()
