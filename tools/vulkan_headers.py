"""Vulkan headers new enough for ggml on a Debian whose own are too old.

They come from Debian's next suite through apt, with a configuration, lists and cache of its own, and are unpacked into
a folder: the system's apt and its packages stay as they are. The mirror is the one that the system itself uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from .places import complete_folder
from .steps import Failure, run

SUITE = "trixie"  # headers 1.4.309; bookworm has 1.3.239, which lacks vk::LayerSettingEXT
PACKAGES = ("libvulkan-dev", "spirv-headers")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OS_RELEASE = Path("/etc/os-release")


def wanted() -> bool:
    """Whether this is a Debian; other systems use their own headers."""
    return KEYRING.exists() and shutil.which("apt-get") is not None and os_release().get("ID") == "debian"


def os_release() -> dict[str, str]:
    """The fields of /etc/os-release, empty where there is none."""
    try:
        lines = OS_RELEASE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip().strip('"') for name, _, value in (line.partition("=") for line in lines)}


def fetch(cache: Path, log: Path) -> Path:
    """The folder that holds include/ and share/cmake/SPIRV-Headers; fetched once per user."""
    final = cache / "vulkan-headers" / SUITE
    if not final.exists():
        with complete_folder(final) as partial:
            unpack(partial, log)
    return final / "usr"


def unpack(folder: Path, log: Path) -> None:
    """Downloads the packages and unpacks them into `folder`."""
    mirror = debian_mirror(source_files(), os_release().get("VERSION_CODENAME", ""))
    apt = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n", encoding="utf-8")
    (apt / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{apt}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{apt}/lists";\nDir::Cache "{apt}/cache";\n'
        # Root's apt downloads as another user, who may not enter root's cache folder.
        'APT::Sandbox::User "root";\n',
        encoding="utf-8",
    )
    environment = {"APT_CONFIG": str(apt / "apt.conf")}
    run(["apt-get", "update", "-qq"], log, environment)
    run(["apt-get", "download", "-qq", *PACKAGES], log, environment, cwd=apt)
    for package in sorted(apt.glob("*.deb")):
        run(["dpkg", "-x", package, folder], log)
    shutil.rmtree(apt)


def source_files() -> dict[str, str]:
    """The text of every file that names the system's package sources."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]
    files += sorted(folder.glob("sources.list.d/*.sources"))
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}


def debian_mirror(files: dict[str, str], codename: str) -> str:
    """The address from which the system takes its own release; raises Failure where no source names one."""
    for name, text in files.items():
        entries = deb822_entries(text) if name.endswith(".sources") else one_line_entries(text)
        for address, suite, components in entries:
            if suite == codename and "main" in components and address.startswith(("http://", "https://")):
                return address
    raise Failure(
        f"no file under /etc/apt names a mirror of Debian {codename}, from which newer Vulkan headers could come",
        "add Debian's own source to /etc/apt/sources.list",
    )


def one_line_entries(text: str) -> Iterable[tuple[str, str, list[str]]]:
    """Address, suite and components of each `deb` line."""
    for line in text.splitlines():
        before, bracket, rest = line.partition("[")
        if bracket and before.strip() == "deb":
            line = f"deb {rest.partition(']')[2]}"
        kind, *words = line.split() or [""]
        if kind == "deb" and len(words) >= 3:
            yield words[0], words[1], words[2:]


def deb822_entries(text: str) -> Iterable[tuple[str, str, list[str]]]:
    """Address, suite and components of each combination in a .sources file."""
    for paragraph in text.split("\n\n"):
        fields = {
            name.strip().lower(): value.split()
            for name, colon, value in (line.partition(":") for line in paragraph.splitlines() if line[:1] != "#")
            if colon
        }
        if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
            for address in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield address, suite, fields.get("components", [])
