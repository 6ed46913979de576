"""Whether a posted prompt is to be converted: what its extra_data says, else the user's setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from server import PromptServer

SETTING = "GGML.Convert.Always"  # js/settings.js declares it
FIELD = "ggml"  # of a prompt's extra_data


class ConversionError(ValueError):
    """A request that cannot be honoured; the message is for the user."""


def is_wanted(request: web.Request, posted: Mapping[str, Any]) -> bool:
    """Whether to convert: {"extra_data": {"ggml": {"convert": true or false}}}, else the setting of this user.

    Raises ConversionError for what is neither.
    """
    asked = (posted.get("extra_data") or {}).get(FIELD, {}) if _is_plain(posted) else {}
    if not isinstance(asked, Mapping):
        raise ConversionError(f'extra_data.ggml is {asked!r:.80}; it must be an object such as {{"convert": true}}.')
    chosen = asked.get("convert")
    if chosen is None:
        return _setting(request) is True
    if not isinstance(chosen, bool):
        raise ConversionError(f"extra_data.ggml.convert is {chosen!r:.80}; it must be true or false.")
    return chosen


def with_report(posted: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """The posted body with a report in its extra_data, which ComfyUI's history keeps."""
    extra = posted.get("extra_data") if _is_plain(posted) else None
    return {**posted, "extra_data": {**(extra or {}), FIELD: {"convert": True, **report}}}


def _is_plain(posted: Mapping[str, Any]) -> bool:
    return isinstance(posted.get("extra_data"), Mapping)


def _setting(request: web.Request) -> Any:
    try:
        return PromptServer.instance.user_manager.settings.get_settings(request).get(SETTING)
    except (web.HTTPException, KeyError, AttributeError):  # a user that is none, of whom ComfyUI says so
        return None
