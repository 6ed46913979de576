"""Installs ggml with Vulkan as a Python wheel: the one that its project publishes, else one built here and cached."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from . import system_packages, vulkan_headers
from .places import Places, complete_folder
from .processes import Command
from .steps import Failure, Stamp, recipe_key, run, say

VERSION = "0.0.45"
REQUIREMENT = f"ggml-python=={VERSION}"
PREBUILT_INDEX = "https://abetlen.github.io/ggml-python/whl/vulkan"
INDEX_VARIABLE = "GGML_WHEEL_INDEX"  # of install.py: another place that is laid out as the folder above that one
FLAGS = ("-DGGML_VULKAN=ON", "-DGGML_RPC=ON", "-DGGML_NATIVE=ON")
# Where one of these is defined, ggml sums products of F16 values in half precision, which keeps 11 bits and ends at
# 65504 (ggml 0.15.3, ggml-cpu/simd-mappings.h:250, 365 and 482; llama.cpp #11920). Undefined, it sums in F32;
# -mno-avx512fp16 would be refused by the compilers that do not know it, such as gcc 11.
HALF_PRECISION = {  # by the name of the instructions in /proc/cpuinfo
    "avx512_fp16": "__AVX512FP16__",
    "asimdhp": "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC",
}
CHECK = """
import pathlib, ggml
libraries = sorted(path.name for path in pathlib.Path(ggml.__file__).parent.rglob("*ggml-vulkan*"))
print("ggml", ggml.__version__, libraries)
assert libraries, "this build of ggml has no Vulkan backend"
"""


def key() -> str:
    """Cache key of the wheel: its version, the flags, the headers, and the processor it is built for."""
    return recipe_key(
        {
            "requirement": REQUIREMENT,
            "flags": FLAGS,
            "headers": vulkan_headers.SUITE if vulkan_headers.wanted() else "system",
            "system": sys.platform,
            "machine": platform.machine(),
            "processor": processor_features(),
            **left_out(),
        }
    )


def processor_features() -> str:
    """A digest of the instructions this processor has: GGML_NATIVE compiles for all of them."""
    flags = processor_flags()
    return hashlib.sha256(" ".join(flags).encode()).hexdigest()[:16] if flags else platform.processor()


def left_out() -> dict[str, list[str]]:
    """The part of a recipe for the instructions that this processor has and `undefined` keeps out of the build.

    Empty where it has none of them: the same code is compiled then.
    """
    flags = processor_flags()
    found = [macro for name, macro in HALF_PRECISION.items() if not flags or name in flags]
    return {"undefined": found} if found and sys.platform != "win32" else {}


def processor_flags() -> list[str]:
    """The names of this processor's instructions, as Linux has them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    # "flags" on x86, "Features" on Arm; the first processor stands for all.
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return sorted(line.partition(":")[2].split())


def is_installed(places: Places) -> bool:
    return stamp(places).matches(key())


def stamp(places: Places) -> Stamp:
    return Stamp(places.venv / "steps" / "ggml")


def install(places: Places, log: Path) -> None:
    """Installs ggml into the virtual environment; builds it where no wheel works on this machine."""
    folder = places.cache / "ggml" / key()
    wheel = cached(folder)
    if wheel is None and prebuilt(folder, REQUIREMENT, PREBUILT_INDEX, places, log, "5 to 10 minutes"):
        wheel = cached(folder)
    if wheel is not None:
        say("    trying the wheel that is there")
        try:
            install_wheel(wheel, places, log)
        except Failure:
            say("    it does not work on this machine")
            wheel = None
    if wheel is None:
        build(folder, places, log)
        install_wheel(next(folder.glob("*.whl")), places, log)
    stamp(places).write(key())


def cached(folder: Path) -> Path | None:
    return next(folder.glob("*.whl"), None)


def install_wheel(wheel: Path, places: Places, log: Path) -> None:
    """Installs a wheel; raises Failure unless it loads with its Vulkan backend."""
    run([places.python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel], log)
    run([places.python, "-c", CHECK], log)


def prebuilt(folder: Path, requirement: str, index: str, places: Places, log: Path, else_takes: str) -> bool:
    """Downloads a project's own wheel; False where its index does not answer or has none for this machine."""
    # --index-url, not --extra-index-url: a wheel without Vulkan from the usual index would be taken for it.
    source = ["--retries", "1", "--timeout", "10", "--index-url", index]
    command: Command = [places.python, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", *source]
    try:
        with complete_folder(folder) as partial:
            run([*command, "--dest", partial, requirement], log)
    except Failure:
        say(f"    no prebuilt wheel to be had: building one ({else_takes} with two processors)")
        return False
    return True


def build(folder: Path, places: Places, log: Path) -> None:
    """Builds the wheel from the source on the package index."""
    if sys.platform == "win32" and not os.environ.get("VULKAN_SDK"):
        raise Failure(
            "there is no prebuilt ggml wheel for this machine, and no Vulkan SDK to build one with",
            "install Visual Studio's C++ build tools and the Vulkan SDK (it sets VULKAN_SDK), and open a new terminal",
        )
    system_packages.ensure(system_packages.BUILD, log)
    headers = vulkan_headers.fetch(places.cache, log) if vulkan_headers.wanted() else None
    arguments = cmake_arguments(FLAGS, headers, undefined())
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(processors()), "CMAKE_ARGS": arguments}
    # pip's own cache does not know CMAKE_ARGS: it would hand out a wheel built with other flags.
    command: Command = [places.python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    with complete_folder(folder) as partial:
        run([*command, "--no-binary", "ggml-python", "--wheel-dir", partial, REQUIREMENT], log, environment)


def undefined() -> list[str]:
    """The compiler's flags that keep ggml from accumulating in half precision.

    Microsoft's compiler, whose own flags they would take the place of, never defines the macros.
    """
    return [] if sys.platform == "win32" else [f"-U{macro}" for macro in HALF_PRECISION.values()]


def cmake_arguments(wanted: Sequence[str], headers: Path | None, compiler_flags: Sequence[str] = ()) -> str:
    """CMAKE_ARGS of a build, split like a shell's words, so that folders may have spaces.

    headers: the folder of private Vulkan headers. compiler_flags: for C and C++.
    """
    arguments, cxx_flags = [*wanted], [*compiler_flags]
    if headers is not None:
        include = headers / "include"
        spirv = headers / "share" / "cmake" / "SPIRV-Headers"
        arguments += [f"-DVulkan_INCLUDE_DIR={include}", f"-DSPIRV-Headers_DIR={spirv}"]
        # The compiler's flags are split once more, by the shell that runs the compiler.
        cxx_flags += ["-isystem", shlex.quote(str(include))]
    if compiler_flags:
        arguments.append(f"-DCMAKE_C_FLAGS={' '.join(compiler_flags)}")
    if cxx_flags:
        arguments.append(f"-DCMAKE_CXX_FLAGS={' '.join(cxx_flags)}")
    return shlex.join(arguments)


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
