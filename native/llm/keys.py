"""The keys of language model servers: environment variables, each bound to the servers that may get it.

A workflow or a request names a server and a variable. The addresses that go with a variable stand in the environment,
where neither can write them, so that a workflow from elsewhere cannot have a key sent to a server of its own.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

KEY_PREFIX = "GGML_LLM_"  # of environment variables; a workflow from elsewhere must not get at other secrets
_VARIABLE = re.compile(KEY_PREFIX + r"[A-Z0-9_]+")
_KEY = re.compile(r"[\x21-\x7e]+")
_PORTS = {"http": 80, "https": 443}
_MAX_QUOTED = 100  # characters of an address
_AMBIGUOUS = ("%", "\\", "?", "#", "/./", "/../")  # what clients and servers may read in more than one way


def key_for(variable: str, url: str) -> tuple[str, str]:
    """The key in a variable for the server at an address, and the problem with that, for the user; one of them is "".

    variable: "" for a server that needs no key. url: has passed `check_url`. The problem repeats neither the key nor a
    `variable` that is no variable's name, as that may be the key itself.
    """
    problem = _fault_of_variable(variable) or _fault_of_server(variable, url) if variable else ""
    return ("", problem) if problem or not variable else (os.environ[variable].strip(), "")


def address_variable(variable: str) -> str:
    """The variable with the addresses that the key in `variable` may go to: GGML_LLM_X_URL for GGML_LLM_X_KEY."""
    return variable.removesuffix("_KEY") + "_URL"


def _fault_of_variable(variable: str) -> str:
    if not _VARIABLE.fullmatch(variable) or variable.endswith("_URL"):
        return (
            f"key_variable takes the name of an environment variable, not the key itself, and only names that begin "
            f"with {KEY_PREFIX} (capital letters, digits, _) and do not end with _URL. Set {KEY_PREFIX}KEY to the key "
            f"where ComfyUI is started, and write {KEY_PREFIX}KEY here."
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        return f"The environment variable {variable} is not set. Set it to the server's key and start ComfyUI again."
    if not _KEY.fullmatch(key):
        return f"The environment variable {variable} holds characters that no key has, such as spaces. Set it again."
    return ""


def _fault_of_server(variable: str, url: str) -> str:
    """Why the key in a variable does not go to the server at an address; "" where it may."""
    allowed = address_variable(variable)
    addresses = [_parts(address) for address in os.environ.get(allowed, "").replace(",", " ").split()]
    known = [address for address in addresses if address is not None]
    unread = len(addresses) - len(known)
    if unread:
        return (
            f"{unread} of the {len(addresses)} addresses in the environment variable {allowed} cannot be read. Set it "
            f"to the address of the server that the key in {variable} is for, such as https://host/v1, and start "
            "ComfyUI again."
        )
    server = _parts(url)
    if server and any(_is_within(server, address) for address in known):
        return ""
    if server and not addresses and _is_this_computer(server.hostname or ""):
        return ""
    others = f"only to the addresses in {allowed}" if addresses else "only to servers on this computer"
    return (
        f"The key in {variable} goes {others}, and {shown_address(url)} is none of them. If this server may have the "
        f"key, set the environment variable {allowed} to its address (several with spaces between them) where ComfyUI "
        "is started, and start it again. If you do not know this server, do not run the workflow."
    )


def _parts(address: str) -> SplitResult | None:
    """An address, if it is one that every program reads alike."""
    try:
        parts = urlsplit(address.strip())
        usable = parts.scheme in _PORTS and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    plain = address.isascii() and "@" not in parts.netloc and not any(each in address + "/" for each in _AMBIGUOUS)
    return parts if usable and plain else None


def _is_within(server: SplitResult, allowed: SplitResult) -> bool:
    """Whether a server is the allowed one: the same scheme, host and port, and its path or one below it."""
    return _origin(server) == _origin(allowed) and (server.path.rstrip("/") + "/").startswith(
        allowed.path.rstrip("/") + "/"
    )


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _is_this_computer(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def shown_address(url: str) -> str:
    """An address for a message: what stands before "@" or behind "?" may be secret."""
    text = re.sub(r"//.*@", "//", re.split(r"[?#]", url.strip())[0], flags=re.DOTALL)
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
