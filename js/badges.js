// On each node of this pack: where its model is and what it takes, or what the planner says. On loaders of others: what
// becomes of them where every model runs on GGML.

import { app } from "../../scripts/app.js";
import { heldBytes } from "./bars.js";
import { mib } from "./element.js";
import { isOurs, root } from "./graph.js";
import { about } from "./seconds.js";
import { text } from "./texts.js";

const GOOD = "#1b5e20";
const BAD = "#b00020";
const PLAIN = "#37474f";

const said = new WeakMap(); // node -> what its badge says
let redrawn = { badges: 0 };

/** To be given the sidebar's tab: the front end makes it reactive, so badges that read it are drawn when it changes. */
export function redrawWith(tab) {
  redrawn = tab;
}

/** Give a new node of this pack its badge, which says nothing yet. */
export function addBadge(node) {
  if (isOurs(node)) give(node);
}

function give(node) {
  said.set(node, null);
  node.badges.push(() => {
    void redrawn.badges;
    const { text, color } = said.get(node) ?? { text: "", color: PLAIN };
    return new LGraphBadge({ text, fgColor: "#ffffff", bgColor: color });
  });
}

/** Have the badges say what the plan is, and what became of loaders of others; nothing where there is neither. */
export function showBadges(plan, conversion) {
  const converted = new Set(conversion?.converted.map(({ node }) => node));
  const kept = new Set(conversion?.kept.map(({ node }) => node));
  for (const [id, node] of root()) {
    const isLoader = converted.has(id) || kept.has(id);
    if (isLoader && !said.has(node)) give(node);
    if (!said.has(node)) continue;
    const planned = plan && (isOurs(node) || converted.has(id)) ? badge(plan, id, node) : null;
    if (converted.has(id)) said.set(node, { text: ["GGML", planned?.text].filter(Boolean).join(" · "), color: planned?.color ?? PLAIN });
    else said.set(node, kept.has(id) ? { text: text("on_torch"), color: PLAIN } : planned);
  }
  redrawn.badges = (redrawn.badges ?? 0) + 1;
  app.canvas.setDirty(true, true);
}

function badge(plan, id, node) {
  if (node.comfyClass === "GGMLMemoryPlanner") {
    return plan.fits ? { text: text("fits"), color: GOOD } : { text: text("fits_not"), color: BAD };
  }
  const color = plan.shortage?.loader === id || plan.shortage?.node === id ? BAD : PLAIN;
  const words = asLoader(plan, id, node) ?? asWorker(plan, id);
  return words === null ? null : { text: words, color };
}

/** Of a loader: device, where the weights are, and the most that its models take there together. */
function asLoader(plan, id, node) {
  const phases = plan.phases.map(({ models }) => models.filter(({ loader }) => loader === id));
  const [first, ...others] = new Set(phases.flat().map(({ device }) => device));
  if (!first) return null;
  const taken = (device) => mib(Math.max(...phases.map((models) => models
    .filter((model) => model.device === device)
    .reduce((sum, model) => sum + heldBytes(model) + mapped(model), 0))));
  if (others.length) return [first, ...others].map((device) => `${device} ${taken(device)}`).join(" · ");
  return [first, weightsOf(phases.flat()[0], node), taken(first)].filter(Boolean).join(" · ");
}

/** The word of the loader's `weights` input for where they are; null where it has none. A loader of others is on auto. */
function weightsOf(model, node) {
  const chosen = isOurs(node) ? node.widgets?.find(({ name }) => name === "weights")?.value : "auto";
  if (chosen !== "auto") return chosen ?? null;
  return model.bytes.streamed || mapped(model) ? "ram" : "device";
}

function mapped(model) {
  return model.bytes["in RAM from the file"] ?? 0;
}

/** Of a node with a phase of its own: what that takes, and how long. */
function asWorker(plan, id) {
  const phase = plan.phases.find(({ node }) => node === id);
  const taken = Object.entries(phase?.devices ?? {}).filter(([, { peak }]) => peak > 0);
  if (!taken.length) return null;
  const words = taken.map(([device, { peak }]) => `${device} ${mib(peak)}`);
  return [...words, ...(phase.seconds === null ? [] : [about(phase.seconds)])].join(" · ");
}
