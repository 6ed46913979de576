"""Runs the script and the commands of docs/api.md, as they stand, against a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.comfy_server import ROOT, WORKFLOWS, Client, changed, picture, workflow
from tests.language_servers import MODELS, server_that

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8188"
PROMPT = {"CLIPTextEncode": {"text": "a yellow triangle on a white background"}}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture
def pack_folder(tmp_path: Path) -> Path:
    """A folder like the pack's, to write into."""
    folder = tmp_path / "workflows" / "api"
    folder.mkdir(parents=True)
    for file in (WORKFLOWS / "api").iterdir():  # as if the micro models were what they name
        (folder / file.name).write_text(json.dumps(workflow(file.stem), indent=2), encoding="utf-8")
    return tmp_path


def run(client: Client, folder: Path, *command: str) -> str:
    """Runs a command of the page against this server and returns what it prints."""
    line = [part.replace(ADDRESS, client.server.url) for part in command]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_script_draws_its_prompt(planning: Client, pack_folder: Path) -> None:
    (script,) = blocks("python")
    run(planning, pack_folder, sys.executable, "-c", script)
    wanted = planning.draw(changed(workflow("text_to_image"), {**PROMPT, "KSampler": {"seed": 7}}))
    assert np.array_equal(picture((pack_folder / "picture.png").read_bytes()), wanted)


@pytest.mark.skipif(not (shutil.which("sh") and shutil.which("curl")), reason="the commands need a shell and curl")
def test_the_commands_do_what_they_are_shown_for(planning: Client, pack_folder: Path) -> None:
    with server_that(lambda _: None) as url:
        commands = [block.replace("http://127.0.0.1:11434/v1", url) for block in blocks("sh")]
        queued, fetched, *told = [run(planning, pack_folder, "sh", "-ec", command) for command in commands]
    assert "prompt_id" in json.loads(queued)
    assert "success" in fetched
    wanted = planning.draw(changed(workflow("text_to_image"), PROMPT))
    assert np.array_equal(picture((pack_folder / "picture.png").read_bytes()), wanted)
    plan, language_models, devices, health, profiles = map(json.loads, told)
    assert plan["fits"]
    assert plan["chosen"]
    assert language_models == {"models": MODELS}
    assert {"name", "free", "total", "driver", "largest_buffer", "features", "traits"} <= set(devices["devices"][0])
    assert health["runner"] in ("running", "idle")
    assert plan["profile"] in profiles["profiles"]
    assert profiles["this_machine"]["ram"]
