// On each node of this pack: where its model is and what it takes, or what the planner says.

import { heldBytes } from "./bars.js";
import { mib } from "./element.js";
import { isOurs, root } from "./graph.js";
import { text } from "./texts.js";

const GOOD = "#1b5e20";
const BAD = "#b00020";
const PLAIN = "#37474f";

const worn = new WeakMap(); // node -> our badge and what it says

/** Put badges on the nodes of the graph, or none where there is no plan. */
export function showBadges(plan) {
  for (const [id, node] of root()) {
    if (isOurs(node)) wear(node, plan ? badge(plan, id, node) : null);
  }
}

function badge(plan, id, node) {
  if (node.comfyClass === "GGMLMemoryPlanner") {
    return plan.fits ? { said: text("fits"), color: GOOD } : { said: text("fits_not"), color: BAD };
  }
  const color = plan.shortage?.loader === id || plan.shortage?.node === id ? BAD : PLAIN;
  const said = asLoader(plan, id, node) ?? asWorker(plan, id);
  return said === null ? null : { said, color };
}

/** Of a loader: device, where the weights are, and the most that its models take there together. */
function asLoader(plan, id, node) {
  const phases = plan.phases.map(({ models }) => models.filter(({ loader }) => loader === id));
  const first = phases.flat()[0];
  if (!first) return null;
  const there = (models) => models.filter(({ device }) => device === first.device);
  const taken = phases.map((models) => there(models).reduce((sum, model) => sum + heldBytes(model) + mapped(model), 0));
  return [first.device, weightsOf(first, node), mib(Math.max(...taken))].filter(Boolean).join(" · ");
}

/** The word of the loader's `weights` input for where they are; null where it has none. */
function weightsOf(model, node) {
  const chosen = node.widgets?.find(({ name }) => name === "weights")?.value;
  if (chosen !== "auto") return chosen ?? null;
  return model.bytes.streamed || mapped(model) ? "ram" : "device";
}

function mapped(model) {
  return model.bytes["in RAM from the file"] ?? 0;
}

/** Of a node with a phase of its own: what that takes. */
function asWorker(plan, id) {
  const phase = plan.phases.find(({ node }) => node === id);
  const taken = Object.entries(phase?.devices ?? {}).filter(([, { peak }]) => peak > 0);
  return taken.length ? taken.map(([device, { peak }]) => `${device} ${mib(peak)}`).join(" · ") : null;
}

function wear(node, wanted) {
  const before = worn.get(node);
  if (before?.said === wanted?.said && before?.color === wanted?.color) return;
  const others = node.badges.filter((each) => each !== before?.made);
  const made = wanted && (() => new LGraphBadge({ text: wanted.said, fgColor: "#ffffff", bgColor: wanted.color }));
  const oldValue = node.badges;
  node.badges = made ? [...others, made] : others;
  worn.set(node, wanted && { ...wanted, made });
  const changed = { nodeId: node.id, property: "badges", oldValue, newValue: node.badges };
  node.graph?.trigger("node:property:changed", { type: "node:property:changed", ...changed });
  node.setDirtyCanvas(true, true);
}
