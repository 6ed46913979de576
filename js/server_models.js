// A button on GGML Language Server: what models the server lists, to choose one of them.

import { app } from "../../scripts/app.js";
import { ask } from "./ask.js";
import { element, styleSheet } from "./element.js";
import { root, setInputs } from "./graph.js";
import { text } from "./texts.js";

/** Give a new node of that kind its button. A server is asked only then: a workflow from elsewhere may name any. */
export function addModelChoice(node) {
  if (node.comfyClass !== "GGMLLanguageServer") return;
  const button = node.addWidget("button", text("models"), null, () => choose(node), { serialize: false });
  button.serialize = false;
}

async function choose(node) {
  const list = element("div", { role: "status" }, text("asking"));
  const dialog = element(
    "dialog",
    { class: "ggml-memory ggml-models", "aria-label": text("models"), onclose: () => dialog.remove() },
    styleSheet(),
    element("h3", {}, text("models")),
    list,
    element("button", { type: "button", onclick: () => dialog.close() }, text("close")),
  );
  app.canvas.canvas.parentElement.append(dialog);
  dialog.showModal();
  const value = (name) => node.widgets.find((widget) => widget.name === name)?.value;
  try {
    const asked = { url: value("url"), key_variable: value("key_variable") };
    const { models } = await ask("/ggml/language_models", asked);
    const chosen = (model) => {
      dialog.close();
      take(node, model);
    };
    list.replaceChildren(...models.map((model) => element("button", { type: "button", onclick: () => chosen(model) }, model)));
    if (!models.length) list.replaceChildren(text("no_models"));
  } catch (error) {
    list.replaceChildren(element("p", { class: "ggml-verdict ggml-bad" }, error.message));
  }
}

function take(node, model) {
  const [id] = [...root()].find(([, each]) => each === node) ?? [];
  if (id === undefined) return; // removed meanwhile
  const hindered = setInputs({ [id]: { model } });
  if (!hindered) return;
  const detail = text("hindered", hindered);
  app.extensionManager.toast.add({ severity: "warn", summary: text("models"), detail, life: 10000 });
}
