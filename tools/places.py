"""Where things lie: the checkout, its one state folder, and the cache that all checkouts of a user share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WINDOWS = sys.platform == "win32"


@dataclass(frozen=True)
class Places:
    """The folders that set-up and servers work in."""

    root: Path
    state: Path
    cache: Path

    @property
    def venv(self) -> Path:
        return self.state / "venv"

    @property
    def python(self) -> Path:
        return self.program("python")

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def micro_models(self) -> Path:
        return self.root / "tests" / "micro" / "models"

    def program(self, name: str) -> Path:
        """A program of the virtual environment."""
        return self.venv / "Scripts" / f"{name}.exe" if WINDOWS else self.venv / "bin" / name


def here() -> Places:
    """The places of the checkout that this file is in."""
    root = Path(__file__).resolve().parent.parent
    return Places(root=root, state=root / ".dev", cache=cache_folder())


def cache_folder() -> Path:
    """The folder for what is slow to make and the same for every checkout; GGML_VULKAN_CACHE overrides it."""
    if override := os.environ.get("GGML_VULKAN_CACHE"):
        return Path(override).absolute()
    if WINDOWS:
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "ggml-vulkan"


@contextmanager
def complete_folder(final: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes `final` when the block ends well, and is removed when it does not."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{final.name}-", suffix=".partial", dir=final.parent))
    partial.chmod(0o755)
    try:
        yield partial
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
