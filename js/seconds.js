// Times as exact as they are known, as native/planning/seconds.py says them.

import { text } from "./texts.js";

const MINUTE = 60;
const HOUR = 3600;

/** Seconds in words: "about 3 min". */
export function about(seconds) {
  if (seconds < 1) return text("under_a_second");
  if (seconds < 10) return text("seconds", { time: Math.round(seconds) });
  if (seconds < MINUTE) return text("seconds", { time: inFives(seconds) });
  if (seconds < 10 * MINUTE) return text("minutes", { time: Math.round(seconds / MINUTE) });
  if (seconds < HOUR) return text("minutes", { time: inFives(seconds / MINUTE) });
  return text("hours", { time: (seconds / HOUR).toFixed(1) });
}

function inFives(number) {
  return 5 * Math.round(number / 5);
}

/** What a plan says of the time, and whether that was measured on its devices; devices: those that it uses. */
export function timeOf(plan, devices) {
  const rates = devices.map((device) => plan.rates[device]);
  if (plan.seconds !== null && !plan.shortage) {
    const time = about(plan.seconds);
    return rates.includes("published") ? text("takes_published", { time }) : text("takes", { time });
  }
  const unknown = devices.filter((device) => plan.rates[device] === null);
  return unknown.length ? text("not_timed", { devices: unknown.join(", ") }) : null;
}
