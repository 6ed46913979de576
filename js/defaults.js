// What a new node's inputs begin with where the user's settings say it; a node of a workflow gets its own values after.

import { app } from "../../scripts/app.js";
import { USUAL } from "./settings.js";

export function setUsualValues(node) {
  for (const [setting, [type, name]] of Object.entries(USUAL)) {
    if (node.comfyClass !== type) continue;
    const widget = node.widgets?.find((each) => each.name === name);
    const value = app.extensionManager.setting.get(setting);
    const offered = widget?.options?.values;
    if (widget && value && (!Array.isArray(offered) || offered.includes(value))) widget.value = value;
  }
}
