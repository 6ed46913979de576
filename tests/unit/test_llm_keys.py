"""Which server a key goes to: the ones beside it in the environment, and nothing that a workflow says."""

from __future__ import annotations

import pytest

from native.llm.keys import address_variable, key_for
from native.llm.model import LanguageModelError, RemoteServer

SECRET, VARIABLE, ADDRESSES = "sk-very-secret", "GGML_LLM_SHOP_KEY", "GGML_LLM_SHOP_URL"
BOUND = "https://api.shop.example/v1"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.delenv(ADDRESSES, raising=False)


def refused(url: str, variable: str = VARIABLE) -> str:
    key, problem = key_for(variable, url)
    assert not key
    assert SECRET not in problem
    assert "\n" not in problem
    assert len(problem) < 700
    with pytest.raises(LanguageModelError) as error:  # where the request is made
        RemoteServer(url, key_variable=variable).key()
    assert str(error.value) == problem
    return problem


@pytest.mark.parametrize("name", [SECRET, "OPENAI_API_KEY", "GGML_LLM_", "ggml_llm_key", "GGML_LLM_KEY ", ADDRESSES])
def test_only_variables_meant_for_this_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv(ADDRESSES, BOUND)
    assert "takes the name of an environment variable" in refused(BOUND, name)


def test_a_key_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RemoteServer("http://127.0.0.1:1/v1", key_variable=VARIABLE)
    assert server.key() == SECRET
    assert SECRET not in repr(server)
    monkeypatch.setenv(VARIABLE, f" {SECRET}\n")
    assert server.key() == SECRET
    monkeypatch.setenv(VARIABLE, f"{SECRET}\nX-Other: 1")
    assert "characters that no key has" in refused(server.url)
    monkeypatch.delenv(VARIABLE)
    assert f"{VARIABLE} is not set" in refused(server.url)
    assert RemoteServer("http://h/v1").key() == ""


def test_the_variable_with_the_addresses() -> None:
    assert address_variable("GGML_LLM_KEY") == "GGML_LLM_URL"
    assert address_variable("GGML_LLM_SHOP") == address_variable(VARIABLE) == ADDRESSES


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/v1", "http://localhost:1/v1", "http://[::1]:1/v1"])
def test_without_addresses_a_key_stays_on_this_computer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_for(VARIABLE, url) == (SECRET, "")
    said = refused(BOUND)
    assert f"The key in {VARIABLE} goes only to servers on this computer, and {BOUND} is none of them" in said
    assert f"set the environment variable {ADDRESSES} to its address" in said
    monkeypatch.setenv(ADDRESSES, BOUND)
    assert f"only to the addresses in {ADDRESSES}" in refused(url)


@pytest.mark.parametrize(
    "allowed", [BOUND, f"{BOUND}/", f" http://10.0.0.1/v1, {BOUND}", "https://API.shop.example:443"]
)
@pytest.mark.parametrize(
    "url", [BOUND, BOUND + "/", "https://api.shop.example:443/v1", "https://API.Shop.example/v1/x"]
)
def test_a_key_goes_to_its_addresses(url: str, allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESSES, allowed)
    assert key_for(VARIABLE, url) == (SECRET, "")


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/v1", "http://api.shop.example/v1", "https://api.shop.example:444/v1", "https://shop.example/v1",
     "https://api.shop.example.evil.example/v1", "https://evil.example/https://api.shop.example/v1",
     "https://api.shop.example/v2", "https://api.shop.example/v1x", "https://api.shop.example/", "https://evil.example?/v1",
     "https://api.shop.example/v1/../evil", "https://api.shop.example/v1/%2e%2e/evil", "https://api.shop.example/v1/..",
     "https://api.shop.example/v1?to=evil", "https://api.shop.example/v1#x", "https://api.shop.example\\.evil.example/v1",
     "https://api.shop.example@evil.example/v1", f"https://me:{SECRET}@api.shop.example/v1",
     "https://api.shop.example\u3002evil.example/v1", "https://api\uff0eshop.example/v1", "http://127.0.0.1/v1",
     "http://2130706433/v1", "https://evil.example/v1?" + SECRET, "https://" + "e" * 100_000, "", "x"],
)  # fmt: skip
def test_a_key_goes_nowhere_else(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESSES, BOUND)
    assert ADDRESSES in refused(url)


@pytest.mark.parametrize("url", ["http://2130706433/v1", "http://127.0.0.1.evil.example/v1", "http://0.0.0.0/v1"])
def test_what_only_looks_like_this_computer(url: str) -> None:
    assert ADDRESSES in refused(url)


@pytest.mark.parametrize(
    "allowed", ["api.shop.example", SECRET, f"{BOUND} x", "https://*.shop.example\\/", "https://a@b/v1"]
)
def test_addresses_that_cannot_be_read_allow_nothing(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESSES, allowed)
    said = refused(BOUND)
    assert f"addresses in the environment variable {ADDRESSES} cannot be read" in said
