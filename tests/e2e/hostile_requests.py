"""Bodies of requests that nobody means well with, by a source of chance: for every POST route of this pack."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from random import Random
from typing import Any

LONG = 100_000
NUMBERS = (0, -1, 1, 7, 1 << 31, 1 << 40, 1 << 63, 1 << 70, 10**400, 1.5, -0.0, 1e308, float("nan"), float("inf"))
ODD = (
    None, True, False, "", " ", "x", "x" * LONG, "\0", "\ud800", "../../etc/passwd", "C:\\\\x", "%s{}", [], {}, [[]],
    {"": None}, ["1", 0], ["1"], ["1", "0"], ["1", -1], ["1", 1 << 70], [1, 0], ["none", 0], [None, None], [{}, 0],
    {"__value__": [1, 2]}, {"__value__": None}, {"content": "x"}, *NUMBERS,
)  # fmt: skip
HOSTS = (
    "h" * LONG, "h" * 64 + ".example", "a..b", ".", "[::1", "[::1]:x", "127.0.0.1:99999", "h:-1", "\u00e4" * 300, "a b",
    "\ud800", "%00", "me:pass@h", "0", "2130706433", "\u2028", "127.0.0.1:9\\@x", "*",
)  # fmt: skip


def nested(opening: str, closing: str = "") -> str:
    """JSON that is nested deeper than any parser of it recurses."""
    return opening * LONG + "1" + closing * LONG


NO_JSON = (
    "", "{", "nul", "\xff", '{"prompt": NaN', nested("["), nested("[", "]"), nested('{"a": '), nested('{"a": ', "}"),
    '{"prompt": ' + nested("[", "]") + "}", '{"url": ' + nested("[", "]") + "}", "[]", "1", '"x"', "null", "{}",
    '{"prompt": ' + "9" * LONG + "}",
)  # fmt: skip


def hostile(body: Mapping[str, Any], chance: Random) -> dict[str, Any]:
    """A copy of a body, with one to four of its values, at any depth, replaced, taken out, renamed or repeated."""
    whole = copy.deepcopy(dict(body))
    for _ in range(chance.choice((1, 1, 2, 4))):
        container, key = chance.choice(list(_places(whole)))
        match chance.randrange(6):
            case 0 if isinstance(container, dict):
                container[str(chance.choice(ODD))[:200]] = container.pop(key)
            case 1:
                del container[key]
            case 2:
                container[key] = chance.choice(NUMBERS)
            case 3:
                other, there = chance.choice(list(_places(whole)))
                container[key] = copy.deepcopy(other[there])
            case _:
                container[key] = chance.choice(ODD)
        if not whole:
            break
    return whole


def _places(value: Any) -> Any:
    """Every container and key or index within a value."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def text(body: Any) -> bytes:
    """A body as it is sent; lone surrogates and NaN as Python's JSON has them."""
    return json.dumps(body).encode()


def samplers_in_a_row(workflow: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A workflow whose sampler is repeated, each on the latent of the one before."""
    graph: dict[str, Any] = copy.deepcopy(dict(workflow))
    first = next(key for key, node in graph.items() if node["class_type"] == "KSampler")
    last = first
    for number in range(count - 1):
        name = f"again {number}"
        graph[name] = copy.deepcopy(graph[first])
        graph[name]["inputs"]["latent_image"] = [last, 0]
        last = name
    for key, node in graph.items():
        for name, value in node["inputs"].items():
            if value == [first, 0] and not key.startswith("again") and key != first:
                node["inputs"][name] = [last, 0]
    return graph
