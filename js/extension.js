// What this pack adds to ComfyUI's editor: the memory panel, badges on its nodes, and its settings.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addBadge, redrawWith, showBadges } from "./badges.js";
import { commands, menuCommands } from "./convert.js";
import { setUsualValues } from "./defaults.js";
import { livePlan } from "./live_plan.js";
import { isOpen, mount, unmount } from "./panel.js";
import { addModelChoice } from "./server_models.js";
import { BADGES, LIVE, on, settings } from "./settings.js";
import { loadTexts, text } from "./texts.js";

const TAB = "ggml-memory";

app.registerExtension({
  name: "ggmlvulkan.memory",
  settings: settings(whatIsPlannedMayDiffer),
  commands,
  menuCommands,

  async setup() {
    await loadTexts();
    app.extensionManager.registerSidebarTab({
      id: TAB,
      icon: "pi pi-chart-bar",
      title: text("title"),
      tooltip: text("tooltip"),
      type: "custom",
      render: mount,
      destroy: unmount,
    });
    const tab = app.extensionManager.getSidebarTabs().find(({ id }) => id === TAB);
    redrawWith(tab);
    api.addEventListener("graphChanged", planIfLive);
    api.addEventListener("execution_start", () => livePlan.forgetMeasured());
    api.addEventListener("ggml.measured", ({ detail }) => livePlan.noteMeasured(detail));
    api.addEventListener("ggml.converted", ({ detail }) => livePlan.noteConversion(detail));
    api.addEventListener("ggml.rejected", ({ detail }) => {
      livePlan.set(detail);
      open();
    });
    livePlan.addEventListener("change", () => {
      tab.iconBadge = livePlan.plan && !livePlan.plan.fits ? "!" : "";
      showBadges(on(BADGES) ? livePlan.plan : null, livePlan.conversion);
    });
    livePlan.addEventListener("error", ({ detail }) => {
      app.extensionManager.toast.add({ severity: "warn", summary: text("title"), detail, life: 10000 });
    });
  },

  nodeCreated(node) {
    addBadge(node);
    setUsualValues(node);
    addModelChoice(node);
  },
  afterConfigureGraph: planIfLive,
});

function planIfLive() {
  if (on(LIVE)) livePlan.renew();
}

function whatIsPlannedMayDiffer() {
  livePlan.forget();
  planIfLive();
}

function open() {
  if (!isOpen()) app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${TAB}`);
}
