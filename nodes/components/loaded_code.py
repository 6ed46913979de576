"""The code that a trace runs through: its files, versions and command line, and whether any of it was replaced."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import comfy.cli_args
import psutil  # type: ignore[import-untyped]
import torch
from comfy import model_management
from comfyui_version import __version__

from ...native.ggml_build import installed_version

OWN = __name__.rpartition(".nodes.components")[0]  # under the name that ComfyUI has given this pack
_PACK = Path(__file__).parents[2]
_COMFYUI = Path(comfy.cli_args.__file__).parents[1]
_FOLDERS = [_PACK / "native", _PACK / "nodes", *(_COMFYUI / each for each in ("comfy", "comfy_api", "comfy_execution"))]
_TOP = ("node_helpers", "folder_paths", "latent_preview", "comfyui_version", "nodes", "execution", "server")
PACKAGES = ("torch", "torchvision", "torchaudio", "transformers", "comfy_kitchen", "comfy_aimdo", "einops", "spandrel",
            "numpy")  # fmt: skip
# Of these every function is looked at: other nodes replace some, for all models.
_LOOKED_AT = ("comfy", "einops")
_BYSTANDERS = (
    "typing_extensions",
    "tqdm",
    "tokenizers",
    "pytorch_lightning",
    "safetensors",
    "PIL",
    "scipy",
    "sympy",
    "torchsde",
    "packaging",
    "psutil",
)  # they lend modules classes that compute nothing
_OF_TORCH = ("torch", "torch.functional", "torch._tensor", "torch.nn.functional")
_MODULES_OF_TORCH = "torch.nn.modules."


class Uncertain(Exception):
    """A thing that a trace hangs on cannot be told for certain."""


def code_now() -> list[Any]:
    """All that distinguishes the code that runs from that of other sessions, as JSON.

    Raises Uncertain where files have changed since this process started, or functions were replaced by others' code.
    """
    settings = sorted((name, repr(value)) for name, value in vars(comfy.cli_args.args).items())
    machine = platform.machine(), torch.backends.cpu.get_cpu_capability(), str(model_management.get_torch_device())
    return [_versions(), machine, torch.get_default_dtype().__repr__(), settings, _files(), _replaced()]


def is_known(module: str) -> bool:
    """Whether a module is part of what `code_now` tells about."""
    root = module.partition(".")[0]
    return (
        root in (*_LOOKED_AT, *PACKAGES, "comfy_api", "comfy_execution", *_TOP)
        or module == OWN
        or module.startswith(f"{OWN}.")
        or root in sys.stdlib_module_names
    )


def check_code(function: types.FunctionType) -> None:
    """Raise Uncertain for a function of a file that is none of those that `code_now` tells about."""
    file = function.__code__.co_filename
    made = file.startswith("<") and (function.__name__.startswith("__") or file.startswith("<frozen"))  # by dataclass
    if not made and not file.startswith(_trusted()):
        raise Uncertain(f"{function.__qualname__} is of {file}")


@cache
def _versions() -> list[Any]:
    found: list[Any] = [__version__, platform.python_version(), torch.__version__, installed_version()]
    for name in PACKAGES:
        try:
            found.append([name, version(name)])
        except PackageNotFoundError:
            found.append([name, None])
    return found


@cache
def _trusted() -> tuple[str, ...]:
    """The folders of files that `code_now` tells about."""
    packages = []
    for name in (*PACKAGES, *_BYSTANDERS):
        file = Path(getattr(sys.modules.get(name), "__file__", None) or "/")
        packages += [file.parent] if file.name == "__init__.py" else [file] if file.suffix == ".py" else []
    standard = Path(sysconfig.get_paths()["stdlib"])
    more = [each for each in standard.iterdir() if each.name not in ("site-packages", "dist-packages")]
    folders = [*_FOLDERS, *(_COMFYUI / f"{each}.py" for each in _TOP), *packages, *more]
    spellings = {str(each) for each in folders} | {os.path.realpath(each) for each in folders}
    return tuple(each if each.endswith(".py") else each + os.sep for each in spellings)


@cache
def _started() -> int:
    """When this process started, in nanoseconds, or a little before: systems know it to a second."""
    return int((psutil.Process().create_time() - 2) * 1e9)


def _files() -> list[Any]:
    """Name, size and times of each file of Python. Raises Uncertain where one is newer than this process."""
    found: list[Any] = []
    for number, folder in enumerate(_FOLDERS):
        for path in _sources(str(folder)):
            stat = os.stat(path)
            if max(stat.st_mtime_ns, stat.st_ctime_ns) > _started():
                raise Uncertain(f"{path} has changed since ComfyUI started")
            found.append((number, path[len(str(folder)) :], stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return sorted(found)


def _sources(folder: str) -> Iterator[str]:
    for each in os.scandir(folder):
        if each.is_dir() and each.name != "__pycache__":
            yield from _sources(each.path)
        elif each.name.endswith(".py"):
            yield each.path


def _replaced() -> list[str]:
    """Functions of known code that are in another place than where they were written, in order.

    Raises Uncertain for functions and classes of other code, as nodes put into ComfyUI's modules and torch's.
    """
    found = []
    for name, module in list(sys.modules.items()):
        looked_at = name.partition(".")[0] in _LOOKED_AT or name in _OF_TORCH or name.startswith(_MODULES_OF_TORCH)
        if not looked_at or not isinstance(module, types.ModuleType):
            continue
        for key, value in list(vars(module).items()):
            if not isinstance(value, type):
                found += _moved(value, name, key)
                continue
            if not is_known(value.__module__) and value.__module__.partition(".")[0] not in _BYSTANDERS:
                raise Uncertain(f"{name}.{key} is of {value.__module__}")
            if value.__module__ == name:
                for each, held in list(vars(value).items()):
                    found += _moved(held, name, f"{value.__qualname__}.{each}")
    return sorted(found)


def _moved(value: Any, module: str, place: str) -> list[str]:
    """The place, and what is there, where a function is not the one that was written there or imported."""
    found = []
    for function in functions_of(value):
        check_code(function)
        written = function.__module__ == module and function.__qualname__ == place
        if not written and getattr(sys.modules.get(function.__module__), place, None) is not function:
            line = function.__code__.co_firstlineno
            found.append(f"{module}.{place}: {function.__module__}.{function.__qualname__}:{line}")
    return found


def functions_of(value: Any, depth: int = 3) -> Iterator[types.FunctionType]:
    """A function of Python, and those that it holds in cells, as decorators have them."""
    value = getattr(value, "__func__", value)
    if isinstance(value, property):
        for each in (value.fget, value.fset):
            yield from functions_of(each, depth)
    elif isinstance(value, types.FunctionType):
        yield value
        for cell in (value.__closure__ or ()) if depth else ():
            try:
                yield from functions_of(cell.cell_contents, depth - 1)
            except ValueError:  # an empty cell
                continue
