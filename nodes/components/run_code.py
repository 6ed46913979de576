"""The code that a trace runs, and all that it finds by name: noted, and compared with what is there in another session.

A trace does what its code says. Where the module, what it is given, and all that this code finds in the modules of
Python are as they were, the same code runs again, and the same trace is made.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import comfy.cli_args
import psutil  # type: ignore[import-untyped]
import torch
from comfy import model_management
from comfyui_version import __version__

from ...native.ggml_build import installed_version
from .fingerprint import MODELS, OWN, Uncertain, described, functions_in, home, is_below, is_of
from .run_watch import Run

_PACK = Path(__file__).parents[2]
_FOLDERS = (_PACK / "native", _PACK / "nodes")
_PACKAGES = ("torch", "comfy_kitchen", "numpy", "einops", "sympy")
_ENVIRONMENT = ("TORCH", "PYTORCH", "COMFY", "GGML")  # beginnings of variables that are read below what a trace runs
_OF_THE_SERVER = ("port", "listen", "auto_launch", "verbose", "log_stdout")  # options of ComfyUI that compute nothing
_ALWAYS = ("torch", "torch._tensor", "torch.nn.functional", "torch.functional")  # whose C functions are models' verbs
_CACHING = ("einops",)  # packages that keep what they found out, so that little of their code runs later on
_GENERATED = "<"  # what the files of code begin with that a function has made: it is in the class that has it
_OF_TUPLES = "namedtuple_"  # what the names of modules begin with that those of collections.namedtuple are of


def surroundings() -> list[Any]:
    """All that distinguishes sessions whichever code runs: versions, files, the machine, settings of torch.

    Raises Uncertain where files of this pack have changed since this process started.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda") or torch._C._len_torch_function_stack():
        raise Uncertain("torch has been told to compute otherwise")
    variables = sorted(each for each in os.environ.items() if each[0].startswith(_ENVIRONMENT))
    settings = str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled(), sys.flags.optimize
    machine = platform.machine(), torch.backends.cpu.get_cpu_capability(), str(model_management.get_torch_device())
    options = vars(comfy.cli_args.args).items()
    command_line = sorted((name, repr(value)) for name, value in options if name not in _OF_THE_SERVER)
    _check_unchanged()
    return [_versions(), _own_code(), machine, settings, variables, command_line]


def found_by(run: Run, given: Any, weights: Collection[int]) -> dict[str, Any]:
    """For each module whose code has run the names that it looks up, and what is there; given: what the code had.

    Raises Uncertain where code of other nodes ran, or where something that was looked up has no description.
    """
    names: dict[str, set[str]] = defaultdict(set)
    below = {*_ALWAYS, *(each for each in sys.modules if is_of(each, _CACHING))}
    if not all(is_below(str(each.get("__name__"))) for each in run.readers):
        raise Uncertain("it reads variables of the environment")
    for code, held in run.codes.values():
        name = str(held.get("__name__"))
        where = home(name)
        is_models = is_of(where, MODELS)
        if not is_models and not is_below(where) and not is_of(where, ("pack",)) and not name.startswith(_OF_TUPLES):
            raise Uncertain(f"code of {name} runs in it")
        if code.co_filename.startswith(_GENERATED) or not code.co_flags & inspect.CO_OPTIMIZED:
            continue
        if not is_models:
            below.add(where)
        elif vars(sys.modules[name]) is not held:
            raise Uncertain(f"{name} was imported again")
        else:
            names[where].update(code.co_names)
    asked = {name: sorted(each) for name, each in sorted(names.items())}
    return {"asked": asked, "found": _found(asked, given, weights), "below": _functions(below)}


def is_found_again(before: dict[str, Any], given: Any, weights: Collection[int]) -> bool:
    """Whether what `found_by` told of another session is so now; functions that are not loaded yet are not replaced.

    Raises Uncertain as it does.
    """
    functions = _functions(before["below"])
    if any(before["below"][name] != digest for name, digest in functions.items()):
        return False
    if not before["asked"].keys() <= sys.modules.keys():
        return False
    return bool(_found(before["asked"], given, weights) == before["found"])


def _found(asked: dict[str, list[str]], given: Any, weights: Collection[int]) -> dict[str, str]:
    """The digest of what there is under these names in each module, and in the modules that what is there names."""
    every = {name for names in asked.values() for name in names}
    found = {name: _digest(described(_looked_up(name, names), names=every)) for name, names in asked.items()}
    return {**found, "": _digest(described(given, weights, every))}


def _looked_up(module: str, names: list[str]) -> list[Any]:
    held = vars(sys.modules[module])
    places = [(held if name in held else vars(builtins) if hasattr(builtins, name) else sys.modules) for name in names]
    return [(name, place[name]) for name, place in zip(names, places, strict=True) if name in place]


def _functions(modules: Iterable[str]) -> dict[str, str]:
    """The digest of the functions of each of these modules that is loaded."""
    loaded = {each: sys.modules.get(f"{OWN}{each[4:]}" if is_of(each, ("pack",)) else each) for each in modules}
    return {name: _digest(functions_in(each)) for name, each in sorted(loaded.items()) if each is not None}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def digest_of(given: Any, weights: Collection[int]) -> str:
    """The digest of what a trace is given, and of what distinguishes this session; as `described`."""
    return _digest([surroundings(), described(given, weights)])


@cache
def _versions() -> list[Any]:
    found: list[Any] = [__version__, platform.python_version(), torch.__version__, installed_version()]
    for name in _PACKAGES:
        try:
            package = distribution(name)
            record = Path(str(package.locate_file(""))) / f"{package._path.name}" / "RECORD"  # type: ignore[attr-defined]
            stat = os.stat(record) if record.exists() else None
            found.append([name, package.version, stat and [stat.st_size, stat.st_mtime_ns]])
        except PackageNotFoundError:
            found.append([name, None])
    return found


@cache
def _started() -> int:
    """When this process started, in nanoseconds, or a little before: systems know it to a second."""
    return int((psutil.Process().create_time() - 2) * 1e9)


@cache
def _own_code() -> str:
    """The digest of this pack's files: what they make of a trace hangs on them."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(f"{path}\n".encode() + Path(path).read_bytes())
    return digest.hexdigest()


def _check_unchanged() -> None:
    for path in _sources():
        stat = os.stat(path)
        if max(stat.st_mtime_ns, stat.st_ctime_ns) > _started():
            raise Uncertain(f"{path} has changed since ComfyUI started")


def _sources() -> list[str]:
    return sorted(str(path) for folder in _FOLDERS for path in folder.rglob("*.py"))
