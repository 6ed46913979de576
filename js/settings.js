// This pack's settings. nodes/settings.py reads those that Python needs, by the same ids.

import { app } from "../../scripts/app.js";

export const LIVE = "GGML.Memory.Live";
export const BADGES = "GGML.Memory.Badges";
export const CONVERT = "GGML.Convert.Always";
const RESERVE = "GGML.Memory.Reserve";
const DEVICES = ["auto", "CPU", "Vulkan0", "Vulkan1", "Vulkan2", "Vulkan3"];

// The loader nodes, without "GGML" before their ids; the planner's table of them is nodes/planner/loaders.py.
const LOADERS = [
  "DiffusionModel", "TextEncoders", "VAE", "Checkpoint", "ControlNet", "ClipVision", "UpscaleModel",
  "LatentUpscaleModel", "ModelPatch", "AudioEncoder", "BackgroundRemoval", "MoGeModel",
  "DepthAnything3", "FrameInterpolation", "OpticalFlow", "LanguageModel",
];

/** Settings that are the defaults of new nodes: the node's class and input, by setting. */
export const USUAL = {
  ...Object.fromEntries(LOADERS.map((kind) => [`GGML.Device.${kind}`, [`GGML${kind}`, "device"]])),
  "GGML.Language.AfterUse": ["GGMLLanguageModel", "after_use"],
  "GGML.Language.ServerURL": ["GGMLLanguageServer", "url"],
};

/** Whether a setting that is yes or no is yes. */
export function on(id) {
  return app.extensionManager.setting.get(id) ?? true;
}

/** Their declarations. `onPlan` is called when one has changed that plans depend on. */
export function settings(onPlan) {
  return [
    {
      id: CONVERT, name: "Run every model on GGML", type: "boolean", defaultValue: false,
      tooltip: "A workflow that is run has its model loaders converted to those of this pack, on auto. The graph stays "
        + "as it is; a badge on each loader says what was done.",
      onChange: (_value, before) => before !== undefined && onPlan(),
    },
    {
      id: LIVE, name: "Plan the memory while the workflow is edited", type: "boolean", defaultValue: true,
      tooltip: "Off: the memory panel is filled only when a planner refuses a workflow.",
      onChange: (_value, before) => before !== undefined && onPlan(),
    },
    {
      id: BADGES, name: "Show device and memory on the nodes", type: "boolean", defaultValue: true,
      tooltip: "Takes effect with the next plan.",
    },
    {
      id: RESERVE, name: "MiB of each GPU that plans leave to other programs", type: "number", defaultValue: 512,
      attrs: { min: 0, max: 65536, step: 64 },
      tooltip: "For the desktop, the browser and the driver.",
      onChange: (_value, before) => before !== undefined && onPlan(),
    },
    {
      id: "GGML.CPU.Threads", name: "Threads that compute on the CPU", type: "number", defaultValue: 0,
      attrs: { min: 0, max: 1024, step: 1 },
      tooltip: "0: one for each physical core. Takes effect when ComfyUI starts. The environment variable "
        + "GGML_CPU_THREADS overrides this.",
    },
    {
      id: "GGML.Language.ServerURL", name: "URL of a new GGML Language Server", type: "text", defaultValue: "",
      tooltip: "Empty: the node's default. Existing nodes keep theirs.",
    },
    {
      id: "GGML.Language.AfterUse", name: "What a new GGML Language Model does after use", type: "combo",
      options: ["release", "keep"], defaultValue: "release",
      tooltip: "release: it is unloaded when a GGML model is about to compute. keep: it stays until ComfyUI unloads "
        + "models.",
    },
    ...LOADERS.map((kind) => ({
      id: `GGML.Device.${kind}`, name: `Device of a new ${kind}`, type: "combo", options: DEVICES, defaultValue: "auto",
      tooltip: "Existing nodes keep theirs.",
    })),
  ].map((setting) => ({ ...setting, category: ["GGML Vulkan", ...setting.id.split(".").slice(1)] }));
}
