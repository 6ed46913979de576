// A bar for each phase on each device: what its models hold, the budget, and what was measured.

import { element, mib } from "./element.js";
import { text } from "./texts.js";

const NOT_HELD = ["in RAM from the file", "streamed"]; // pages of the file, which the system takes back as it needs
const COLORS = 6; // in panel.css

/** The part of the panel that is about one device. */
export function deviceBars(plan, device, measured, colors) {
  const { capacity, peak } = plan.devices[device];
  const most = Math.max(peak, ...plan.phases.map(({ node }) => measured[node]?.[device] ?? 0));
  // Where the budget is far away, nothing would be seen of the bars.
  const width = capacity > 4 * most ? 2 * most : Math.max(capacity, most) * 1.05;
  const bars = plan.phases.map((phase) => bar(phase, device, capacity, width, measured[phase.node]?.[device], colors));
  return element(
    "section",
    { class: "ggml-device", "data-device": device },
    element("h3", {}, device),
    element("p", {}, text("peak", { peak: mib(peak), capacity: mib(capacity) })),
    bars,
  );
}

function bar(phase, device, capacity, width, measured, colors) {
  const { peak } = phase.devices[device] ?? { peak: 0 };
  const share = (bytes) => `${Math.min(100, (100 * bytes) / width)}%`;
  const held = phase.models.filter((model) => model.device === device).map((model) => [model, heldBytes(model)]);
  const rest = peak - held.reduce((sum, [, bytes]) => sum + bytes, 0);
  const segments = held.map(([model, bytes]) => segment(model.name, bytes, share, colors.of(model.name)));
  if (rest > 0) segments.push(segment(text("meanwhile"), rest, share, "rest"));
  const spoken = measured === undefined ? mib(peak) : text("measured", { planned: mib(peak), measured: mib(measured) });
  return element(
    "div",
    { class: peak > capacity ? "ggml-phase ggml-over" : "ggml-phase", "data-node": phase.node, "data-peak": peak },
    element("span", { class: "ggml-title" }, phase.title),
    element("span", { class: "ggml-bytes" }, spoken),
    element(
      "div",
      { class: "ggml-bar", role: "img", "aria-label": `${phase.title}: ${spoken}` },
      segments,
      capacity <= width && element("i", { class: "ggml-budget", style: `left: ${share(capacity)}`, title: text("budget") }),
      measured !== undefined && element("i", { class: "ggml-measured", style: `left: ${share(measured)}` }),
    ),
  );
}

function segment(name, bytes, share, color) {
  return element("b", { class: `ggml-color-${color}`, style: `width: ${share(bytes)}`, title: `${name}: ${mib(bytes)}` });
}

/** Bytes that a model holds on its device. */
export function heldBytes(model) {
  const held = Object.entries(model.bytes).filter(([what]) => !NOT_HELD.includes(what));
  return held.reduce((sum, [, bytes]) => sum + bytes, 0);
}

/** One color for each model, the same on every device. */
export class Colors {
  #names = [];

  of(name) {
    if (!this.#names.includes(name)) this.#names.push(name);
    return this.#names.indexOf(name) % COLORS;
  }

  legend() {
    const entries = this.#names.map((name) =>
      element("li", {}, element("b", { class: `ggml-color-${this.of(name)}` }), name),
    );
    return element("ul", { class: "ggml-legend" }, entries);
  }
}
