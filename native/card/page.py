"""The report of a card check as a page in Markdown, to be pasted into a report."""

from __future__ import annotations

from .report import CardReport, Rate

GIB = 1 << 30


def to_page(report: CardReport) -> str:
    """The page: the card, the outcome, every check, and a table of rates with a column for each setting."""
    return "\n".join([*_head(report), "", *_findings(report), "", *_rates(report)]).rstrip() + "\n"


def _head(report: CardReport) -> list[str]:
    device = report.device
    free, total, largest = (f"{each / GIB:.1f}" for each in (device.free, device.total, device.largest_buffer))
    lines = [
        f"## Card check: {device.description or device.name}",
        "",
        f"**{report.summary()}**",
        "",
        f"- device: {device.name}, {device.type or 'of unknown kind'}; driver: {device.driver or 'not told'}",
        f"- memory: {free} of {total} GiB free, largest buffer {largest} GiB",
        f"- features: {', '.join(device.features) or 'none told'}",
    ]
    lines += [f"- {trait}" for trait in device.traits]
    builds = "; ".join(f"{name}: {version}" for name, version in report.builds.items())
    return [*lines, f"- {report.system}; {builds}", f"- {report.began}, {report.seconds:.0f} s"]


def _findings(report: CardReport) -> list[str]:
    lines = ["| check | outcome | |", "|---|---|---|"]
    for each in report.findings:
        text = " ".join(each.text.split()).replace("|", "\\|")
        lines.append(f"| {each.check} | {each.verdict.value} | {text} |")
    wrong = [f"- {text}" for each in report.findings for text in each.wrong]
    return [*lines, "", "Wrong results:", "", *wrong] if wrong else lines


def _rates(report: CardReport) -> list[str]:
    if not report.rates:
        return ["Speed: not measured."]
    settings = [each for each in report.settings if any(rate.setting == each for rate in report.rates)]
    by_name: dict[str, dict[str, Rate]] = {}
    for rate in report.rates:
        by_name.setdefault(rate.name, {})[rate.setting] = rate
    lines = [
        f"Speed, {_peak(report)}:",
        "",
        f"| | {' | '.join(settings)} | share of the peak |",
        f"|---|{'---|' * len(settings)}---|",
    ]
    for name, found in by_name.items():
        cells = [_cell(found[each]) if each in found else "not measured" for each in settings]
        lines.append(f"| {name} | {' | '.join(cells)} | {_share(report, next(iter(found.values())))} |")
    return lines


def _peak(report: CardReport) -> str:
    if report.peak is None:
        return "whose published peak this pack does not know"
    flops, nbytes = report.peak
    return f"published peak {flops / 1e12:.2f} TFLOP/s in F32 without matrix cores, {nbytes / 1e9:,.0f} GB/s"


def _cell(rate: Rate) -> str:
    """ "2.41 TFLOP/s (10.7 ms)"."""
    scale = next(each for each in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, "")) if rate.per_second >= each[0] / 10)
    unit = "FLOP/s" if rate.unit == "FLOP" else "B/s"
    return f"{rate.per_second / scale[0]:.2f} {scale[1]}{unit} ({rate.seconds * 1e3:.2f} ms)"


def _share(report: CardReport, rate: Rate) -> str:
    if report.peak is None or rate.name.startswith("loading"):
        return ""
    return f"{rate.per_second / report.peak[rate.unit == 'B']:.0%}"
