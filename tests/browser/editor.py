"""ComfyUI's editor in a real Chromium, worked with mouse and keys."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.comfy_server import WORKFLOWS, Client, eventually
from tests.pack import ROOT
from tools.micro_models import graph_with_micro_models
from tools.system_packages import browser

SCREENSHOTS = ROOT / ".dev" / "screenshots"
SIZE = (1600, 1000)  # pixels of the window
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    f"--window-size={SIZE[0]},{SIZE[1]}", "--force-device-scale-factor=1",
)  # fmt: skip
_READY = "return !!(window.app?.isGraphReady && document.querySelector('.side-tool-bar-container'))"
PANEL = "ggml-memory"  # class of its element, and of its button


class Editor:
    """One page."""

    def __init__(self, client: Client, driver: webdriver.Chrome) -> None:
        self.client = client
        self.driver = driver

    def open(self, **settings: Any) -> None:
        """Load the page anew with these settings of ComfyUI's, and an empty graph."""
        usual = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False, "Comfy.Minimap.Visible": False}
        usual |= {"Comfy.Locale": "en", "Comfy.RightSidePanel.IsOpen": False}
        self.client.send("/settings", {**usual, **{name.replace("__", "."): value for name, value in settings.items()}})
        self.driver.get(self.client.server.url)
        eventually(lambda: self.run(_READY), "the editor")
        self.run("window.app.graph.clear()")

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs a function body in JavaScript and returns its result."""
        return self.driver.execute_script(script, *arguments)

    def find(self, css: str, text: str = "") -> WebElement:
        """The first visible element of a selector whose text has these words, once it is there."""

        def look() -> WebElement | None:
            with suppress(StaleElementReferenceException):  # drawn anew meanwhile
                found = self.driver.find_elements(By.CSS_SELECTOR, css)
                return next((each for each in found if each.is_displayed() and text in each.text), None)
            return None

        element: WebElement = eventually(look, f"{css} with {text!r}")
        return element

    def says(self, css: str, text: str = "") -> str:
        """The text of the first visible element of a selector that has these words, once it is there."""

        def look() -> str | None:
            with suppress(StaleElementReferenceException):  # drawn anew meanwhile
                return self.find(css, text).text
            return None

        said: str = eventually(look, f"the text of {css}")
        return said

    def texts(self, css: str) -> list[str]:
        """The text of each element of a selector, read at one moment: the panel is drawn anew at any time."""
        texts: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)", css
        )
        return texts

    def load(self, name: str) -> None:
        """Open a template with the micro models as a file that is dropped is opened."""
        self.load_graph(graph_with_micro_models(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))))

    def load_graph(self, graph: Mapping[str, Any]) -> None:
        """Open a graph. What newer front ends give back for it is nothing that WebDriver can carry."""
        self.driver.execute_async_script(
            "const [graph, done] = arguments; window.app.loadGraphData(graph).then(() => done())", graph
        )

    def command(self, name: str) -> None:
        """Do what an entry of ComfyUI's menus does."""
        self.run("window.app.extensionManager.command.execute(arguments[0])", name)

    def open_panel(self) -> WebElement:
        """The memory panel."""
        if not self.driver.find_elements(By.CSS_SELECTOR, f".{PANEL}"):
            # newer front ends name no class after the tab
            self.find(f".{PANEL}-tab-button, .side-bar-button:has(.pi-chart-bar)").click()
        return self.find(f".{PANEL}")

    def planned(self) -> str:
        """The panel's verdict, after waiting for the plan of the current graph."""
        time.sleep(0.6)  # longer than the panel waits for another change
        eventually(lambda: not self.driver.find_elements(By.CSS_SELECTOR, ".ggml-waiting"), "the plan")
        return self.says(".ggml-verdict")

    def prompt(self) -> dict[str, Any]:
        """The graph in API format."""
        made = "window.app.graphToPrompt().then(({ output }) => arguments[0](JSON.stringify(output)))"  # in its order
        prompt: dict[str, Any] = json.loads(self.driver.execute_async_script(made))
        return prompt

    def nodes(self) -> dict[str, str]:
        """Class and id of each node of the graph."""
        found = self.run("return window.app.graph.nodes.map((node) => [node.comfyClass, String(node.id)])")
        return dict(found)

    def widget(self, node: str, name: str) -> Any:
        """The value of a node's input."""
        widgets = "window.app.graph.getNodeById(arguments[0]).widgets"
        return self.run(f"return {widgets}.find((each) => each.name === arguments[1]).value", node, name)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the left button, in pixels of the page."""
        move = ActionChains(self.driver, duration=100)
        move.w3c_actions.pointer_action.move_to_location(*map(int, start)).pointer_down()
        move.w3c_actions.pointer_action.move_to_location(*(int((a + b) / 2) for a, b in zip(start, end, strict=True)))
        move.w3c_actions.pointer_action.move_to_location(*map(int, end)).pointer_up()
        move.perform()

    def slot(self, node: str, name: str, output: bool = False) -> tuple[float, float]:
        """Where a node's input or output is on the page; widgets' inputs too."""
        x, y = self.run(
            """
            const [id, name, output] = arguments, node = window.app.graph.getNodeById(id);
            const slots = output ? node.outputs : node.inputs;
            const index = slots.findIndex((slot) => slot.name === name);
            const [x, y] = output ? node.getOutputPos(index) : node.getInputPos(index);
            const box = window.app.canvas.canvas.getBoundingClientRect(), view = window.app.canvas.ds;
            return [(x + view.offset[0]) * view.scale + box.left, (y + view.offset[1]) * view.scale + box.top];
            """,
            node, name, output,
        )  # fmt: skip
        return x, y

    def press(self, node: str, name: str) -> None:
        """Click on a node's widget that the canvas draws."""
        script = """
            const [id, name] = arguments, node = window.app.graph.getNodeById(id);
            const widget = node.widgets.find((each) => each.name === name);
            const box = window.app.canvas.canvas.getBoundingClientRect(), view = window.app.canvas.ds;
            const x = node.pos[0] + node.size[0] / 2, y = node.pos[1] + widget.last_y + 10;
            return [(x + view.offset[0]) * view.scale + box.left, (y + view.offset[1]) * view.scale + box.top];
            """
        place = None
        while place != (place := self.run(script, node, name)):  # until the view has come to rest
            time.sleep(0.3)
        click = ActionChains(self.driver)
        click.w3c_actions.pointer_action.move_to_location(*map(int, place)).pointer_down().pause(0.05).pointer_up()
        click.perform()

    def middle(self, element: WebElement) -> tuple[float, float]:
        """Of an element, in pixels of the page."""
        box = element.rect
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def view(self, scale: float) -> None:
        """Look at the graph's upper left corner, right of an open sidebar."""
        script = "const { canvas } = window.app; Object.assign(canvas.ds, arguments[0]); canvas.setDirty(true, true)"
        self.run(script, {"scale": scale, "offset": [385 / scale, 100 / scale]})

    def choose(self, inputs: Mapping[str, Mapping[str, Any]]) -> None:
        """Set inputs of nodes by id, as their widgets do."""
        self.run(
            """
            for (const [id, values] of Object.entries(arguments[0])) {
              const node = window.app.graph.getNodeById(id);
              for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find((each) => each.name === name);
                widget.value = value;
                widget.callback?.(value);
              }
            }
            const tracker = window.app.extensionManager.workflow.activeWorkflow?.changeTracker;
            if (tracker?.captureCanvasState) tracker.captureCanvasState();
            else tracker?.checkState(); // before front end 1.45
            """,
            inputs,
        )

    def add(self, kind: str, **inputs: Any) -> None:
        """A new node, below all others."""
        script = "const made = LiteGraph.createNode(arguments[0]); made.pos = [0, 1500]; window.app.graph.add(made)"
        self.run(script, kind)
        self.choose({self.nodes()[kind]: inputs})

    def badge(self, kind: str) -> str:
        """The text of this pack's badge on the node of a class."""
        said: str = self.run(
            "return window.app.graph.getNodeById(arguments[0]).badges.at(-1)().text", self.nodes()[kind]
        )
        return said

    def errors(self) -> set[str]:
        """Errors in the browser's console since the last call, without addresses and numbers."""
        said = (entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE")
        return {re.sub(r"https?://[^/ ]+|\d+", "", message) for message in said}

    def keep(self, name: str) -> None:
        """Saves a screenshot under this name."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


@contextmanager
def opened(client: Client, profile: Path) -> Iterator[Editor]:
    """A browser with a profile folder of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = browser() or ""
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    try:
        yield Editor(client, driver)
    finally:
        driver.quit()
