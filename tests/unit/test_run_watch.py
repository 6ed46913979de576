"""The code that runs in a thread is noted, in each Python there is: before 3.12 by another way than since."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pack import ROOT, part
from tools.matrix import find_python

kept_programs = part("nodes.components.kept_programs")
PYTHONS = [path for version in ("3.10", "3.12", "3.13", "3.14") if (path := find_python(version, []))]
WATCHED = f"""
import json, os, sys, threading

sys.path.insert(0, {str(ROOT / "nodes" / "components")!r})
import run_watch

def run(): return called()
def called(): return os.environ.get("A_VARIABLE")
def paused():
    yield
    resumed()
def resumed(): pass
def elsewhere(): of_another_thread()
def of_another_thread(): pass

def watched():
    left = paused()
    next(left)
    found = run_watch.Run()
    other = threading.Thread(target=elsewhere)
    with run_watch.noted(found) as is_noted:
        inside = is_noted and run_watch.is_watched()
        other.start()
        other.join()
        run()
        next(left, None)
    run()
    here = [code.co_name for code, names in found.codes.values() if names is globals()]
    readers = [names is globals() for names in found.readers]
    return sorted(here), readers, inside, run_watch.is_watched()

def began_in_another_thread():
    begun, ended = threading.Event(), threading.Event()
    def note():
        with run_watch.noted(run_watch.Run()):
            begun.set()
            ended.wait()
    other = threading.Thread(target=note, daemon=True)
    other.start()
    begun.wait()
    found = run_watch.Run()
    with run_watch.noted(found) as is_noted:
        run()
    ended.set()
    other.join()
    return is_noted is any(code.co_name == "called" for code, _ in found.codes.values())

print(json.dumps([watched() for _ in range(2)]))
print(json.dumps(began_in_another_thread()))
sys.settrace(lambda *_: None)
print(json.dumps(run_watch.is_watched()))
"""


@pytest.mark.parametrize("python", [Path(sys.executable), *PYTHONS], ids=lambda path: path.parent.parent.name)
def test_code_is_noted_when_it_runs_in_this_thread(python: Path) -> None:
    """Also a second time, what a generator goes on with, and who reads the environment."""
    run = subprocess.run([python, "-c", WATCHED], check=True, capture_output=True, text=True, timeout=60)
    said = run.stdout.splitlines()
    each = [["called", "paused", "resumed", "run"], [True], True, False]
    assert json.loads(said[0]) == [each, each]
    assert json.loads(said[1]) is True  # noted, or known not to be
    assert json.loads(said[2]) is True


def test_programs_are_kept_where_noting_takes_no_time_or_that_is_asked_for(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(kept_programs.VARIABLE)
    for version, kept in (((3, 11, 9), False), ((3, 12, 0), True)):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "version_info", version)
            assert kept_programs.is_on() is kept
    assert kept_programs.folder().name == "ggml_programs"
    monkeypatch.setenv(kept_programs.VARIABLE, "0")
    assert not kept_programs.is_on()
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path))
    assert kept_programs.is_on()
    assert kept_programs.folder() == tmp_path
