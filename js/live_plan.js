// The plan of the graph in the editor, asked for again when that has changed.

import { app } from "../../scripts/app.js";
import { ask, Refused } from "./ask.js";
import { isOurs, root } from "./graph.js";
import { CONVERT, on } from "./settings.js";

const QUIET = 400; // milliseconds without a change before it is asked for
const FILE_MISSING = 404; // the front end says so itself, and offers to download it
const PLANNER = "GGMLMemoryPlanner";
const NUMBERS = ["gpu_budget", "ram_budget", "unknown_width", "unknown_height", "unknown_batch"];

/** Says "change" when anything of it has, and "error" with the words of a graph that cannot be planned. */
class LivePlan extends EventTarget {
  plan = null; // as POST /ggml/plan answers
  conversion = null; // what became of loaders of others, as POST /ggml/plan says it; null where nothing is converted
  error = "";
  waiting = false;
  #graph = {}; // the types of the nodes that are planned, by id
  #measured = { nodes: {}, graph: {} }; // bytes by node and device, of the run that is going on or was last
  #timer = 0;
  #asking = new AbortController();
  #asked = ""; // what the plan is the answer to

  /** Ask for the plan once the graph has come to rest; an older question is taken back. */
  renew() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#renew(), QUIET);
  }

  /** Show this plan, as the server has just made it. */
  set(plan) {
    this.#asking.abort();
    this.#settle(plan, "");
  }

  /** What became of loaders of others in the run that begins. */
  noteConversion(conversion) {
    this.conversion = conversion;
    this.#tell();
  }

  /** What was answered holds no longer, such as when a setting has changed. */
  forget() {
    this.#asked = "";
  }

  /** Bytes by node and device, where the run was of the graph that is planned. */
  get measured() {
    const { nodes, graph } = this.#measured;
    return isSame(graph, this.#graph) ? nodes : {};
  }

  noteMeasured({ nodes, graph }) {
    this.#measured = { nodes, graph };
    this.#tell();
  }

  forgetMeasured() {
    this.noteMeasured({ nodes: {}, graph: {} });
  }

  async #renew() {
    if (!on(CONVERT)) this.conversion = null;
    if (!on(CONVERT) && ![...root()].some(([, node]) => isOurs(node))) {
      this.#asking.abort();
      this.#asked = "";
      this.#settle(null, "");
      return;
    }
    const body = question((await app.graphToPrompt()).output);
    this.#graph = typesOf(body.prompt);
    const asked = JSON.stringify(body);
    if (asked === this.#asked) return; // a node was moved
    this.#asking.abort();
    this.#asking = new AbortController();
    this.#asked = asked;
    this.waiting = true;
    this.#tell();
    const { signal } = this.#asking;
    try {
      const plan = await ask("/ggml/plan", body, signal);
      if (signal.aborted) return;
      this.conversion = plan.conversion ?? null;
      for (const { node, to } of plan.conversion?.converted ?? []) this.#graph[node] = to;
      this.#settle(plan, "");
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refused)) this.#asked = "";
      this.#settle(null, error.message, error.status === FILE_MISSING);
    }
  }

  #settle(plan, error, isToldElsewhere = false) {
    const news = error && error !== this.error && !isToldElsewhere;
    Object.assign(this, { plan, error, waiting: false });
    this.#tell();
    if (news) this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

function typesOf(prompt) {
  return Object.fromEntries(Object.entries(prompt).map(([node, { class_type }]) => [node, class_type]));
}

function isSame(one, other) {
  const nodes = Object.keys(one);
  return nodes.length === Object.keys(other).length && nodes.every((node) => one[node] === other[node]);
}

/** What to ask the server: as the graph's own planner would, where it has one. */
function question(prompt) {
  const inputs = Object.values(prompt).find((node) => node.class_type === PLANNER)?.inputs ?? {};
  const numbers = NUMBERS.filter((name) => Number.isInteger(inputs[name])).map((name) => [name, inputs[name]]);
  const asked = { prompt, ...Object.fromEntries(numbers) };
  if (on(CONVERT)) asked.convert = true;
  if (typeof inputs.mode === "string") asked.mode = inputs.mode;
  if (typeof inputs.hardware === "string" && inputs.hardware !== "this machine") asked.profile = inputs.hardware;
  return asked;
}

export const livePlan = new LivePlan();
