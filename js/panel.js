// The memory panel in the sidebar.

import { app } from "../../scripts/app.js";
import { Colors, deviceBars } from "./bars.js";
import { DeviceMonitor } from "./device_monitor.js";
import { element, styleSheet } from "./element.js";
import { setInputs } from "./graph.js";
import { livePlan } from "./live_plan.js";
import { timeOf } from "./seconds.js";
import { text } from "./texts.js";

let shown = null; // what `mount` made

/** Fill the sidebar's element, and keep it so. */
export function mount(container) {
  unmount();
  const plan = element("div");
  const monitor = new DeviceMonitor();
  container.replaceChildren(styleSheet(), element("div", { class: "ggml-memory" }, plan, monitor.element));
  shown = { monitor, draw: () => plan.replaceChildren(...described()) };
  livePlan.addEventListener("change", shown.draw);
  shown.draw();
  monitor.start();
  livePlan.renew();
}

export function unmount() {
  if (!shown) return;
  livePlan.removeEventListener("change", shown.draw);
  shown.monitor.stop();
  shown = null;
}

export function isOpen() {
  return shown !== null;
}

function described() {
  const { plan, error, waiting, measured } = livePlan;
  const state = waiting && element("p", { class: "ggml-waiting", role: "status" }, text("planning"));
  if (error) return [element("p", { class: "ggml-verdict ggml-bad", role: "status" }, error), state].filter(Boolean);
  if (!plan) return [state || element("p", { class: "ggml-verdict" }, text("nothing"))];
  const colors = new Colors();
  const devices = Object.keys(plan.devices).filter((device) => plan.devices[device].peak > 0 || plan.shortage?.device === device);
  const time = timeOf(plan, devices);
  const bars = devices.map((device) => deviceBars(plan, device, measured, colors));
  return [
    element("p", { class: `ggml-verdict ${plan.fits ? "ggml-good" : "ggml-bad"}`, role: "status" }, plan.verdict),
    plan.profile && element("p", {}, text("profile", { profile: plan.profile })),
    time && element("p", { class: "ggml-time" }, time),
    state,
    plan.shortage && element("p", {}, plan.shortage.message),
    ...plan.advice.map(suggestion),
    ...bars,
    colors.legend(),
    plan.notes.length > 0 && element("ul", { class: "ggml-notes" }, plan.notes.map((note) => element("li", {}, note))),
  ].filter(Boolean);
}

function suggestion({ words, change }) {
  const apply = element("button", { type: "button", class: "ggml-apply", onclick: () => applied(change) }, text("apply"));
  return element("div", { class: "ggml-advice" }, element("span", {}, words), apply);
}

function applied(change) {
  const hindered = setInputs(change);
  if (hindered) {
    const detail = text("hindered", hindered);
    app.extensionManager.toast.add({ severity: "warn", summary: text("title"), detail, life: 10000 });
    return;
  }
  livePlan.renew();
}
