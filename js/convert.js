// Loaders of others become those of this pack: in the graph, by a command that one undo takes back.

import { app } from "../../scripts/app.js";
import { ask } from "./ask.js";
import { capture } from "./graph.js";
import { text } from "./texts.js";

const COMMAND = "GGML.Convert";

/** As an extension declares them. */
export const commands = [
  { id: COMMAND, label: "Convert model loaders to GGML", icon: "pi pi-sync", function: () => convertGraph() },
];
export const menuCommands = [{ path: ["Edit"], commands: [COMMAND] }];

async function convertGraph() {
  const workflow = app.extensionManager.workflow?.activeWorkflow;
  const tracker = workflow?.changeTracker;
  capture();
  const { activeState, initialState } = tracker ?? {};
  let made;
  try {
    made = await ask("/ggml/convert", { workflow: (app.rootGraph ?? app.graph).serialize() });
  } catch (error) {
    say("error", text("title"), error.message);
    return;
  }
  const kept = made.kept.map(({ why }) => why);
  if (!made.converted.length) {
    say("info", text("convert_none"), kept.join("\n"));
    return;
  }
  await app.loadGraphData(made.workflow, false, false, workflow, { silentAssetErrors: true });
  if (tracker) { // which takes what is loaded for a new beginning
    tracker.undoQueue.push(activeState);
    tracker.redoQueue.length = 0;
    tracker.initialState = initialState;
    tracker.updateModified();
  }
  const notes = made.converted.flatMap((each) => each.notes);
  say("success", text("convert_done", { count: made.converted.length }), [...notes, ...kept].join("\n"));
}

function say(severity, summary, detail) {
  app.extensionManager.toast.add({ severity, summary, detail, life: 10000 });
}
