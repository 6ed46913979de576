"""The README's pictures, from what the tests of the editor kept: `python -m tests.browser.readme_pictures`."""

from __future__ import annotations

from PIL import Image

from tests.browser.editor import SCREENSHOTS
from tests.pack import ROOT

PICTURES = {
    "planned_and_measured": "test_panel_and_badges_say_what_is_planned_and_measured-dark-canvas",
    "nodes_2_light": "test_panel_and_badges_say_what_is_planned_and_measured-light-nodes_2",
    "refused": "refused",
    "templates": "templates",
}


def main() -> None:
    """Shrink them into docs/screenshots."""
    target = ROOT / "docs" / "screenshots"
    target.mkdir(exist_ok=True)
    for name, kept in PICTURES.items():
        with Image.open(SCREENSHOTS / f"{kept}.png") as picture:
            size = (1200, round(1200 * picture.height / picture.width))
            few = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            few.save(target / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
