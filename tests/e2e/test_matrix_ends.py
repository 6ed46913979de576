"""The oldest ComfyUI, torch and Python that the pack supports; all other tests run with the newest ComfyUI."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.pack import ROOT
from tools.matrix import ROWS


@pytest.mark.turns(3)
@pytest.mark.skipif(sys.platform == "win32", reason="the matrix is not tried on Windows yet")
def test_the_oldest_end_of_the_matrix() -> None:
    """Takes 3 minutes on two busy processors with what it downloads in uv's cache.

    Where the package index is out of reach, or there is no such Python, it fails and says so.
    """
    command = [sys.executable, "dev.py", "matrix", "--row", ROWS[0].name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
