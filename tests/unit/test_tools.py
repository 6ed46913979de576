"""The steps of set-up: done once, resumed after an interruption, explained when they fail."""

from __future__ import annotations

import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools import comfyui, ggml_wheel, packages, system_packages, vulkan, vulkan_headers
from tools.places import Places, cache_folder, complete_folder
from tools.steps import Failure, Stamp, Step, failure_message, recipe_key, run, run_steps


@pytest.fixture
def places(tmp_path: Path) -> Places:
    root = tmp_path / "a checkout"
    root.mkdir()
    return Places(root=root, state=root / ".dev", cache=tmp_path / "a cache")


def test_recipe_key_follows_content_not_order():
    assert recipe_key({"a": 1, "b": ("x", "y")}) == recipe_key({"b": ("x", "y"), "a": 1})
    assert recipe_key({"a": 1, "b": ("x", "y")}) != recipe_key({"a": 1, "b": ("y", "x")})


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        (ggml_wheel, "FLAGS", ("-DGGML_VULKAN=ON",)),
        (ggml_wheel, "REQUIREMENT", "ggml-python==9"),
        (ggml_wheel, "processor_flags", lambda: ["another", "processor"]),
        (ggml_wheel, "left_out", lambda: {"undefined": ["another"]}),
        (vulkan_headers, "wanted", lambda: not vulkan_headers.KEYRING.exists()),
    ],
)
def test_wheel_key_changes_with_each_part_of_its_recipe(monkeypatch, owner, name, other):
    before = ggml_wheel.key()
    assert before == ggml_wheel.key()
    monkeypatch.setattr(owner, name, other)
    assert ggml_wheel.key() != before


def test_packages_recipe_changes_with_every_requirement_file(places, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    host = comfyui.tree(places)
    for file in packages.requirement_files(places, host):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# a note\n\nnumpy\n")
    names = [name for name in packages.requirements(places, host) if not name.endswith(".txt")]
    assert names == [*packages.TORCH, "numpy", "-r", "-r"]
    seen = {packages.packages_recipe(places)}
    for file in packages.requirement_files(places, host):
        file.write_text("numpy>=2\n")
        seen.add(packages.packages_recipe(places))
    assert len(seen) == 4


def folder_step(folder: Path, recipe: str, interruptions: list[type[BaseException]], made: list[str]) -> Step:
    """A step that fills a folder, and is broken off half-way once for each of the interruptions."""
    stamp = Stamp(folder / "stamp")

    def action(log: Path) -> None:
        with complete_folder(folder) as partial:
            (partial / "first").write_text(recipe)
            if interruptions:
                raise interruptions.pop()
            (partial / "second").write_text(recipe)
        stamp.write(recipe)
        made.append(recipe)

    return Step("fill the folder", lambda: stamp.matches(recipe), action, "nothing")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError, Failure])
def test_a_step_broken_off_half_way_is_done_again_and_then_not_again(tmp_path, interruption):
    folder, made = tmp_path / "product", []
    stop = Failure("no network") if interruption is Failure else interruption
    step = folder_step(folder, "recipe 1", [stop], made)
    with pytest.raises(SystemExit):
        run_steps([step], tmp_path / "logs")
    assert not folder.exists()
    assert not list(tmp_path.glob("*.partial")), "half of it was left behind"

    for _ in range(2):
        run_steps([step], tmp_path / "logs")
    assert made == ["recipe 1"]
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second", "stamp"]

    run_steps([folder_step(folder, "recipe 2", [], made)], tmp_path / "logs")
    assert made == ["recipe 1", "recipe 2"]
    assert (folder / "first").read_text() == "recipe 2"


def test_steps_after_a_failed_one_are_not_tried(tmp_path):
    made: list[str] = []
    steps = [
        folder_step(tmp_path / "one", "1", [], made),
        folder_step(tmp_path / "two", "2", [OSError], made),
        folder_step(tmp_path / "three", "3", [], made),
    ]
    with pytest.raises(SystemExit, match="step 2 of 3: fill the folder"):
        run_steps(steps, tmp_path / "logs")
    assert made == ["1"]


def test_a_failed_command_is_told_with_step_reason_log_and_advice(tmp_path):
    log = tmp_path / "logs" / "compile.log"
    script = "import sys; print('loading'); sys.exit('error: no such header')"
    step = Step("compile", lambda: False, lambda log: run([sys.executable, "-c", script], log), "get the header")
    with pytest.raises(SystemExit) as stopped:
        run_steps([step], log.parent)
    message = str(stopped.value)
    assert "step 1 of 1: compile" in message
    assert "ended with code 1" in message
    assert "| error: no such header" in message
    assert str(log) in message
    assert "What to do: get the header." in message


def test_the_advice_of_a_failure_goes_before_that_of_its_step():
    step = Step("get", lambda: False, lambda log: None, "check the network")
    assert "What to do: check the network." in failure_message(step, Failure("why"), "1 of 1")
    assert "What to do: free some room." in failure_message(step, Failure("why", "free some room"), "1 of 1")


def test_a_program_that_is_not_there_is_a_failure(tmp_path):
    with pytest.raises(Failure, match="no-such-program could not be started"):
        run(["no-such-program"], tmp_path / "log")


def test_cache_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("GGML_VULKAN_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_debian_mirror_is_the_systems_own():
    files = {
        "sources.list": "# deb http://old.example/debian bookworm main\n"
        "deb cdrom:[Debian 12]/ bookworm main\n"
        "deb http://security.example/debian bookworm-security main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib\n",
    }
    assert vulkan_headers.debian_mirror(files, "bookworm") == "http://one.example/debian"

    off = "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
    on = "Types: deb\n# a note\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
    assert vulkan_headers.debian_mirror({"a.sources": f"{off}\n{on}"}, "bookworm") == "http://two.example/debian"
    with pytest.raises(Failure, match="mirror of Debian forky"):
        vulkan_headers.debian_mirror(files, "forky")


def test_a_wheel_is_built_anew_only_where_something_is_left_out(monkeypatch):
    """A processor with half-precision arithmetic needs another wheel than before; one without has the same."""
    monkeypatch.setattr(sys, "platform", "linux")
    processors = {"x86": ["avx2", "avx512_fp16"], "Arm": ["asimd", "asimdhp"], "older": ["avx2"], "unknown": []}
    found = {}
    for name, flags in processors.items():
        monkeypatch.setattr(ggml_wheel, "processor_flags", lambda flags=flags: flags)
        found[name] = ggml_wheel.left_out()
    macros = list(ggml_wheel.HALF_PRECISION.values())
    assert found == {
        "x86": {"undefined": ["__AVX512FP16__"]},
        "Arm": {"undefined": ["__ARM_FEATURE_FP16_VECTOR_ARITHMETIC"]},
        "older": {},
        "unknown": {"undefined": macros},
    }
    monkeypatch.setattr(sys, "platform", "win32")
    assert ggml_wheel.left_out() == {}
    assert ggml_wheel.undefined() == []


def test_cmake_arguments_survive_folders_with_spaces():
    words = shlex.split(ggml_wheel.cmake_arguments(ggml_wheel.FLAGS, Path("/a b/usr"), ["-Done", "-Dtwo"]))
    assert words[:3] == list(ggml_wheel.FLAGS)
    assert "-DVulkan_INCLUDE_DIR=/a b/usr/include" in words
    given = dict(word.removeprefix("-D").split("=", 1) for word in words)
    assert shlex.split(given["CMAKE_C_FLAGS"]) == ["-Done", "-Dtwo"]
    assert shlex.split(given["CMAKE_CXX_FLAGS"]) == ["-Done", "-Dtwo", "-isystem", "/a b/usr/include"]
    assert shlex.split(ggml_wheel.cmake_arguments(ggml_wheel.FLAGS, None)) == list(ggml_wheel.FLAGS)


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("cc"), reason="needs a compiler for x86")
def test_the_compiler_is_left_without_half_precision_arithmetic(tmp_path):
    """For a processor that has it, whatever this one has; its other instructions stay."""
    source = tmp_path / "empty.c"
    source.touch()
    command = ["cc", "-march=sapphirerapids", "-dM", "-E", str(source)]
    known = subprocess.run(command, capture_output=True, text=True, check=False)
    if known.returncode:
        pytest.skip("the compiler is older than the instructions")
    undefined = subprocess.run([*command, *ggml_wheel.undefined()], capture_output=True, text=True, check=True)
    assert set(known.stdout.splitlines()) - set(undefined.stdout.splitlines()) == {"#define __AVX512FP16__ 1"}


@pytest.mark.skipif(sys.platform != "linux", reason="system packages are Linux's")
def test_without_root_the_one_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(system_packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    wanted = {"glslc": lambda: False, "cmake": lambda: True, "libvulkan-dev": lambda: False}
    with pytest.raises(Failure) as failure:
        system_packages.ensure(wanted, tmp_path / "log")
    assert failure.value.advice is not None
    assert failure.value.advice.endswith("apt-get install -y --no-install-recommends glslc libvulkan-dev")


def test_software_vulkan_only_where_there_is_no_gpu(places, tmp_path):
    environment = vulkan.software_environment(places, gpu=lambda: False)
    assert environment["GGML_VK_VISIBLE_DEVICES"] == "0"
    assert Path(environment["MESA_SHADER_CACHE_DIR"]).is_dir()
    assert vulkan.software_environment(places, gpu=lambda: True) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="device files are Linux's")
@pytest.mark.parametrize("file", ["dri/renderD128", "nvidia0"])
def test_a_gpu_is_seen_by_its_device_file(tmp_path, file):
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "card0").touch()  # a display without a render node, as virtual machines have
    (tmp_path / "nvidiactl").touch()  # the driver is loaded, the card is gone
    assert not vulkan.has_gpu(tmp_path)
    (tmp_path / file).touch()
    assert vulkan.has_gpu(tmp_path)


def archive_of(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            file.addfile(member, io.BytesIO(name.encode()))
    return path


def test_only_comfyui_is_unpacked_and_only_into_its_folder(tmp_path):
    inside = ["p-1/vendor/ComfyUI/main.py", "p-1/vendor/ComfyUI/comfy/sd.py"]
    outside = ["p-1/setup.py", "p-1/vendor/ComfyUI/../../../escaped", "p-1/vendor/ComfyUI2/main.py"]
    target = tmp_path / "deep" / "enough" / "tree"
    assert comfyui.unpack(archive_of(tmp_path / "a.tar.gz", inside + outside), target) == 2
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a.tar.gz", "deep/enough/tree/main.py", "deep/enough/tree/comfy/sd.py"}


def test_a_damaged_download_is_removed_so_that_the_next_run_gets_it_anew(places, tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    folder = places.cache / "comfyui" / comfyui.SDISTS[comfyui.NEWEST].replace("==", "-")
    folder.mkdir(parents=True)
    whole = archive_of(folder / "p.tar.gz", ["p-1/vendor/ComfyUI/main.py"]).read_bytes()
    (folder / "p.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Failure, match="damaged"):
        comfyui.fetch(places, tmp_path / "log")
    assert not list(folder.glob("*.tar.gz"))
    assert not comfyui.is_present(places)


def test_a_comfyui_path_without_comfyui_is_named(places, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(Failure, match=r"no main\.py"):
        comfyui.is_present(places)
    for name in ("main.py", "requirements.txt"):
        (tmp_path / name).touch()
    assert comfyui.is_present(places)
    assert comfyui.tree(places) == tmp_path
