// The graph in the editor, by the ids that its nodes have in a prompt: "4", or "7:4" for node 4 of subgraph node 7.

import { app } from "../../scripts/app.js";

/** Every node with its id in the prompt, those of subgraphs too. */
export function* nodes(graph = app.graph, prefix = "") {
  for (const node of graph?.nodes ?? []) {
    const id = `${prefix}${node.id}`;
    yield [id, node];
    if (node.subgraph) yield* nodes(node.subgraph, `${id}:`);
  }
}

/** Whether a node is one of this pack's. */
export function isOurs(node) {
  return String(node.comfyClass ?? node.type).startsWith("GGML");
}

/** What stands in the way of setting `{id: {input: value}}`; nothing is set where anything does. */
export function setInputs(change) {
  const byId = new Map(root());
  const found = [];
  for (const [id, inputs] of Object.entries(change)) {
    for (const [name, value] of Object.entries(inputs)) {
      const node = byId.get(id);
      const widget = node?.widgets?.find((each) => each.name === name);
      const linked = node?.inputs?.find((each) => each.name === name)?.link != null;
      if (!widget || linked) return { id, name };
      found.push([node, widget, value]);
    }
  }
  for (const [node, widget, value] of found) {
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
  }
  app.canvas.setDirty(true, true);
  capture();
  return null;
}

/** Have the editor notice what was changed, as one step that can be undone. */
export function capture() {
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState(); // before front end 1.45
}

/** The nodes of the whole workflow, also while a subgraph of it is open. */
export function root() {
  return nodes(app.rootGraph ?? app.graph);
}
