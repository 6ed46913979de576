"""Results of templates, as lines and as the table of docs/templates.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .planning import CARDS, Result

BEGIN, END = "<!-- python3 dev.py templates: begin -->\n", "<!-- python3 dev.py templates: end -->\n"
_LONGEST = 400  # characters of a reason


def line(result: Result) -> str:
    """One template in a line."""
    steps = {"opened": result.opened, "converted": result.converted, "planned": result.planned, "run": result.run}
    done = " ".join(name if value else f"not-{name}" for name, value in steps.items() if value is not None)
    done += "" if result.equal is None else f" {result.equal:.0f} dB"
    plans = "; ".join(f"{card.split(',')[0]}: {text}" for card, text in result.plans.items())
    why = f" [{'; '.join(result.why)[:_LONGEST]}]" if result.why else ""
    return f"{result.name}: {done} {plans}{why}"


def counts(results: Sequence[Result]) -> list[str]:
    """How many came how far."""
    said = [
        f"{sum(getattr(each, step) for each in results)} of {len(results)} {words}"
        for step, words in (("opened", "open"), ("converted", "are converted whole"), ("planned", "are planned whole"))
    ]
    waiting = sum(not each.plans and each.opened for each in results)
    said += [f"{waiting} are not yet planned"] if waiting else []
    tried = [each for each in results if each.run is not None]
    if tried:
        alike = sum(each.equal is not None and each.equal >= ALIKE for each in tried)
        said.append(f"{sum(bool(each.run) for each in tried)} of {len(tried)} that were run small end well")
        said.append(f"{alike} of these are within {ALIKE:.0f} dB of core")
    return said


ALIKE = 40.0  # dB


def write(page: Path, results: Sequence[Result]) -> None:
    """Puts counts and table between the markers of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [f"- {each}" for each in counts(results)]
    lines += ["", f"| template | {' | '.join(CARDS)} | core, dB | why not |", "|---" * (len(CARDS) + 3) + "|"]
    lines += [_row(each) for each in results]
    page.write_text(before + BEGIN + "".join(f"{each}\n" for each in lines) + END + after, encoding="utf-8")


def _row(result: Result) -> str:
    cells = " | ".join(result.plans.get(card, "not yet planned" if result.opened else "") for card in CARDS)
    alike = "" if result.equal is None else f"{result.equal:.0f}"
    why = "; ".join(result.why).replace("|", "/").replace("\n", " ")
    return f"| {result.name} | {cells} | {alike} | {why[:_LONGEST]} |"
