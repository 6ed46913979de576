// The words of the panel in the user's language, from locales/LANGUAGE/main.json.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let words = {};

/** Once, before anything is shown. */
export async function loadTexts() {
  const all = await (await api.fetchApi("/i18n")).json();
  const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  words = { ...all.en?.ggmlMemory, ...all[language]?.ggmlMemory };
}

/** The words of a key, with [name] replaced by values. */
export function text(key, values = {}) {
  return (words[key] ?? key).replace(/\[(\w+)\]/g, (_, name) => values[name] ?? "");
}
