"""The table of docs/cards.md: what a step of usual models should take on usual cards, by their data sheets.

    COMFYUI_PATH=... python -m tests.bench.roofline                writes the table anew, in about a minute
    COMFYUI_PATH=... python -m tests.bench.roofline --model NAME   says which operations the time goes to

The programs are the product's own, of models at their real size from shapes alone; nothing is computed. Expected is
what a plan tells: each operation at the share of the card's peak that is published for such a kernel
(native/planning/rates.py). The floor: each takes as long as its arithmetic at the peak, or its bytes at the memory's
rate, whichever is more.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from native.lower import lower
from native.planning import profiles
from native.planning.profiles import known_profiles
from native.planning.rates import Rates
from native.planning.work import work_of
from native.program import Program

from .lowering import traced
from .real_models import MODELS, types

CARDS = {
    "RX 580": "RX 580 8 GB, Linux",
    "RX 5700 XT": "RX 5700 XT 8 GB, Windows",
    "RX 6600": "RX 6600 8 GB, Linux",
    "GTX 1070": "GTX 1070 8 GB, Windows",
    "RTX 3060": "RTX 3060 12 GB, Windows",
    "Arc A750": "Arc A750 8 GB, Linux",
}
NAMES = tuple(name for name in MODELS if name != "Z-Image small")
_SHEETS = Path(profiles.__file__).with_name("profiles.json")
_SMALL = 0.01  # of all seconds, that is not told
PAGE = Path(__file__).parents[2] / "docs" / "cards.md"
_MARK = "<!-- python -m tests.bench.roofline: "
BEGIN, END = f"{_MARK}begin -->\n", f"{_MARK}end -->\n"


def main() -> None:
    """Writes the table, or prints where the time of one model goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NAMES)
    options = parser.parse_args()
    if options.model:
        for card in CARDS:
            print(f"{card}:", "; ".join(parts(options.model, card)))
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    lines = "\n".join([*heading(), *map(row, NAMES)])
    PAGE.write_text(f"{before}{BEGIN}{lines}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


@cache
def programs(name: str) -> tuple[Program, ...]:
    """The programs of one step of one of MODELS, in Q8_0."""
    module = MODELS[name].build().eval()
    return tuple(part.program for part in lower(traced(name, module), types(module)).parts)


def heading() -> list[str]:
    """The first two lines of the table."""
    return [f"| a step of | {' | '.join(CARDS)} |", f"|{'---|' * (1 + len(CARDS))}"]


def row(name: str) -> str:
    """The line of a model: on each card the seconds expected, and the floor."""
    cells = []
    for card in CARDS:
        expected, least = (sum(_by_kind(name, rates).values()) for rates in (published(card), peak(card)))
        cells.append(f"{_text(expected)} ({_text(least)})")
    return f"| {name}, {MODELS[name].size} | {' | '.join(cells)} |"


def parts(name: str, card: str) -> list[str]:
    """The kinds of operations that take most of the time: seconds expected and, in brackets, their floor."""
    expected, least = _by_kind(name, published(card)), _by_kind(name, peak(card))
    largest = [kind for kind in sorted(expected, key=lambda kind: -expected[kind])
               if expected[kind] > _SMALL * sum(expected.values())]  # fmt: skip
    return [f"{kind} {_text(expected[kind])} ({_text(least[kind])})" for kind in largest]


def published(card: str) -> Rates:
    """The rates by which a plan for one of CARDS tells seconds."""
    return known_profiles()[CARDS[card]].rates["Vulkan0"]


def peak(card: str) -> Rates:
    """The rates of a card on which each kernel reaches the peak of its data sheet."""
    (described,) = (each for each in json.loads(_SHEETS.read_text(encoding="utf-8")) if each["name"] == CARDS[card])
    (gpu,) = described["gpus"]
    flops, memory = gpu["tflops"] * 1e12, gpu["bandwidth"] * 1e9
    curves = {kind: ((1.0, flops),) for kind in published(card).curves if kind.endswith(" any")}
    return Rates(curves, memory, launch=0.0, call=0.0, upload=memory)


def _by_kind(name: str, rates: Rates) -> Mapping[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for program in programs(name):
        for work, count in work_of(program):
            found[work.kind] += count * rates.work_seconds(work)
    return found


def _text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


if __name__ == "__main__":
    main()
