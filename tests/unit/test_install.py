"""install.py, as ComfyUI-Manager runs it: which build of ggml it takes, what it leaves alone, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from native import ggml_build
from tests import ggml_wheels
from tests.pack import ROOT
from tools import ggml_wheel

MISSING_LOADER = "raise ImportError('libvulkan.so.1: cannot open shared object file: No such file or directory')"
HOW = "run install.py in this pack's folder with ComfyUI's Python"


@dataclass
class Place:
    """A Python of its own, an index of wheels, and what was asked of it."""

    python: Path
    index: Path
    url: str
    asked: list[str]

    def install(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and what this pack's own lines say."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        environment |= {
            "GGML_WHEEL_INDEX": f"{self.url}/whl/",
            "UV_DEFAULT_INDEX": f"{self.url}/usual",  # which has nothing, as on a computer without a network
            "UV_NO_CONFIG": "1",
            "UV_NO_CACHE": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        }
        done = subprocess.run(
            [self.python, "install.py", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout, done.stderr)
        lines = [line for line in done.stdout.splitlines() if line.startswith("[ggml-vulkan] ")]
        return done.returncode, "\n".join(lines)

    def packages(self) -> dict[str, bool]:
        """All that is installed, and whether ggml has Vulkan."""
        (site,) = self.python.parents[1].glob("lib/python*/site-packages")
        return {info.name: any(site.glob("ggml/lib/*vulkan*")) for info in site.glob("*.dist-info")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    index = tmp_path / "served" / "whl"
    (tmp_path / "served" / "usual").mkdir(parents=True)
    with ggml_wheels.served(tmp_path / "served") as (url, asked):
        yield Place(tmp_path / "venv" / "bin" / "python", index, url, asked)


OURS = "ggml_python-0.0.45.dist-info"


def test_the_build_with_vulkan_is_taken_alone_and_once(place: Place) -> None:
    for vulkan, folder in ((True, "vulkan"), (False, "cpu")):
        ggml_wheels.write(place.index / folder, vulkan)
    code, said = place.install()
    assert code == 0
    assert said.endswith("ggml-python 0.0.45 with Vulkan is installed.")
    assert place.packages() == {OURS: True}
    place.asked.clear()
    assert place.install() == (0, "[ggml-vulkan] ggml-python 0.0.45 with Vulkan is there already.")
    assert not place.asked


def test_without_a_wheel_with_vulkan_the_one_for_the_cpu_is_taken_until_there_is_one(place: Place) -> None:
    ggml_wheels.write(place.index / "cpu", False)
    code, said = place.install()
    assert code == 0
    assert "not to be had here: its authors' build with Vulkan" in said
    assert "ggml-python 0.0.45 for the CPU alone is installed." in said
    assert f"No GPU can be used with it. To change it, {HOW}" in said
    code, said = place.install()  # an update, while there is still none
    assert code == 0
    assert "No GPU can be used with it" in said
    assert place.packages() == {OURS: False}
    ggml_wheels.write(place.index / "vulkan", True)
    code, said = place.install()
    assert (code, place.packages()) == (0, {OURS: True})
    assert "with Vulkan is installed" in said
    assert place.install("cpu")[0] == 0
    assert place.packages() == {OURS: False}


def test_a_wheel_that_does_not_load_is_replaced(place: Place) -> None:
    ggml_wheels.write(place.index / "vulkan", True, MISSING_LOADER)
    ggml_wheels.write(place.index / "cpu", False)
    code, said = place.install()
    assert (code, place.packages()) == (0, {OURS: False})
    assert "it does not work on this computer: ImportError: libvulkan.so.1" in said
    assert "Vulkan's loader, which comes with the graphics driver, is missing" in said


def test_a_wheel_that_is_not_what_it_says_is_replaced(place: Place) -> None:
    ggml_wheels.write(place.index / "vulkan", False)
    ggml_wheels.write(place.index / "cpu", False)
    code, said = place.install()
    assert code == 0
    assert "it is not what it says" in said
    assert "for the CPU alone is installed" in said


def test_where_nothing_can_be_had_it_says_so_and_fails(place: Place) -> None:
    code, said = place.install()
    assert code == 1
    assert "ggml could not be installed" in said
    assert HOW in said
    assert place.packages() == {}
    assert place.install("everything")[0] == 2


def test_one_version_is_named_everywhere() -> None:
    text = (ROOT / "install.py").read_text(encoding="utf-8")
    assert f'VERSION = "{ggml_build.VERSION}"' in text
    assert f"{ggml_build.PACKAGE}=={ggml_build.VERSION}" == ggml_wheel.REQUIREMENT
    assert ggml_wheel.PREBUILT_INDEX.removesuffix("/vulkan") in text


def test_only_install_py_runs_pip() -> None:
    """As the registry demands of packs: nothing is installed while ComfyUI runs."""
    shipped = [ROOT / "__init__.py", ROOT / "plan.py"]
    shipped += [file for folder in ("nodes", "native") for file in (ROOT / folder).rglob("*.py")]
    for file in shipped:
        text = file.read_text(encoding="utf-8")
        assert '"pip"' not in text, file


@pytest.mark.parametrize(
    ("files", "words", "best"),
    [
        ({"ggml/lib/libggml-vulkan.so": ""}, "ggml-python 0.0.45 with Vulkan", True),
        ({"ggml/lib/ggml-vulkan.dll": ""}, "ggml-python 0.0.45 with Vulkan", True),
        (
            {"ggml/lib/libggml-cpu.so": ""},
            "for the CPU alone, so that no GPU is used. For the one with Vulkan run",
            False,
        ),
        (
            {"ggml_python-9.dist-info/METADATA": "Name: ggml-python\nVersion: 9\n"},
            "9 is installed, this pack needs",
            False,
        ),
    ],
)
def test_a_node_says_which_build_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], words: str, best: bool
) -> None:
    about = {"ggml/__init__.py": "raise ImportError", f"{OURS}/METADATA": "Name: ggml-python\nVersion: 0.0.45\n"}
    if any("dist-info" in name for name in files):
        del about[f"{OURS}/METADATA"]
    for name, content in {**about, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "ggml", raising=False)  # which other tests have imported
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    said, is_best = ggml_build.build_words()
    assert words in said
    assert is_best is best
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none")])
    said, is_best = ggml_build.build_words()
    assert said.startswith("ggml-python is not installed")
    assert str(ROOT / "install.py").removesuffix("/install.py") in said
    assert not is_best
