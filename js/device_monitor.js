// The devices of this machine and what is left of their memory, while somebody looks.

import { ask } from "./ask.js";
import { element, mib } from "./element.js";
import { text } from "./texts.js";

const PERIOD = 2000; // milliseconds

export class DeviceMonitor {
  element = element("section", { class: "ggml-monitor" });
  #timer = 0;
  #devices = null; // once they are known: asking starts the process that loads the drivers

  start() {
    this.#look();
    this.#timer = setInterval(() => this.#look(), PERIOD);
  }

  stop() {
    clearInterval(this.#timer);
  }

  async #look() {
    try {
      const { memory } = await ask("/ggml/health");
      if (!memory) {
        this.#draw(element("button", { type: "button", onclick: () => this.#find() }, text("find")));
        return;
      }
      if (!this.#devices) await this.#find();
      const now = new Map(memory.devices.map((device) => [device.name, device]));
      this.#draw(...(this.#devices ?? []).map((device) => row(device, now.get(device.name) ?? device)));
    } catch (error) {
      this.#draw(element("p", { class: "ggml-bad" }, String(error.message ?? error)));
    }
  }

  async #find() {
    this.#devices = (await ask("/ggml/devices")).devices;
  }

  #draw(...content) {
    this.element.replaceChildren(element("h3", {}, text("devices")), ...content);
  }
}

function row(device, { free, total, held }) {
  const taken = total > 0 ? (100 * (total - free)) / total : 0;
  const features = [...device.features, ...device.traits].join(", ");
  return element(
    "div",
    { class: "ggml-phase", "data-monitored": device.name, title: features },
    element("span", { class: "ggml-title" }, device.name),
    element("span", { class: "ggml-bytes" }, text("free", { free: mib(free), total: mib(total) })),
    element("p", {}, [device.description, device.driver].filter(Boolean).join(", "), held ? ` — ${text("held", { held: mib(held) })}` : ""),
    element("div", { class: "ggml-bar" }, element("b", { class: "ggml-color-rest", style: `width: ${taken}%` })),
  );
}
