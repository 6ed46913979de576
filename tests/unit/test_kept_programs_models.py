"""Programs of models kept on disk: the tests of kept_programs_models.py, in a process of their own as a session has.

In one in which other tests have run, nothing may be kept, as they replace functions that traces run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("kept_programs_models.py")


def test_models(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", f"cache_dir={tmp_path}", str(CASES)]
    run = subprocess.run(command, cwd=CASES.parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
    assert "13 passed" in run.stdout
