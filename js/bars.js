// A bar for each phase on each device: what its models hold, the budget, and what was measured.

import { element, mib } from "./element.js";
import { about } from "./seconds.js";
import { text } from "./texts.js";

const NOT_HELD = ["in RAM from the file", "streamed"]; // pages of the file, which the system takes back as it needs
const COLORS = 6; // in panel.css

/** The part of the panel that is about one device. */
export function deviceBars(plan, device, measured, colors) {
  const { capacity, peak } = plan.devices[device];
  const bars = plan.phases.map((phase) => ({
    phase,
    peak: phase.devices[device]?.peak ?? 0,
    wanted: wanted(plan, phase, device),
    measured: measured[phase.node]?.[device],
  }));
  const most = Math.max(1, ...bars.map((bar) => Math.max(bar.peak, bar.wanted, bar.measured ?? 0)));
  // Where the budget is far away, nothing would be seen of the bars.
  const width = capacity > 4 * most ? 2 * most : Math.max(capacity, most) * 1.05;
  return element(
    "section",
    { class: "ggml-device", "data-device": device },
    element("h3", {}, device),
    element("p", {}, text("peak", { peak: mib(peak), capacity: mib(capacity) })),
    bars.map((bar) => drawn(bar, device, capacity, width, colors)),
  );
}

/** Bytes that a phase would need where they are not there; else 0. */
function wanted({ shortage, devices }, phase, device) {
  const lacks = shortage && shortage.over > 0 && shortage.device === device && shortage.node === phase.node;
  return lacks ? devices[device].capacity + shortage.over : 0;
}

function drawn({ phase, peak, wanted, measured }, device, capacity, width, colors) {
  const share = (bytes) => `${Math.min(100, (100 * bytes) / width)}%`;
  const held = phase.models.filter((model) => model.device === device).map((model) => [model, heldBytes(model)]);
  const rest = peak - held.reduce((sum, [, bytes]) => sum + bytes, 0);
  const segments = held.map(([model, bytes]) => segment(model.name, bytes, share, colors.of(model.name)));
  if (rest > 0) segments.push(segment(text("meanwhile"), rest, share, "rest"));
  if (wanted > peak) segments.push(segment(text("lacking"), wanted - peak, share, "lacking"));
  const spoken = [mib(wanted || peak), measured === undefined ? "" : text("measured", { measured: mib(measured) })];
  if (phase.seconds !== null && !wanted) spoken.push(about(phase.seconds));
  const said = spoken.filter(Boolean).join(", ");
  return element(
    "div",
    { class: wanted ? "ggml-phase ggml-over" : "ggml-phase", "data-node": phase.node },
    element("span", { class: "ggml-title" }, phase.title),
    element("span", { class: "ggml-bytes" }, said),
    element(
      "div",
      { class: "ggml-bar", role: "img", "aria-label": `${phase.title}: ${said}` },
      segments,
      capacity <= width && mark("ggml-budget", share(capacity), text("budget")),
      measured !== undefined && mark("ggml-measured", share(measured), text("measured", { measured: mib(measured) })),
    ),
  );
}

function mark(kind, left, title) {
  return element("i", { class: kind, style: `left: ${left}`, title });
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
