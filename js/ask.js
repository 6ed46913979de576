// This pack's part of ComfyUI's HTTP API.

import { api } from "../../scripts/api.js";

/** The server's answer was no; the message is its own, `status` that of HTTP. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** What the server answers to a path, with `body` posted where there is one. Throws Refused, and what fetch does. */
export async function ask(path, body = null, signal = null) {
  const headers = { "Content-Type": "application/json" };
  const posted = body && { method: "POST", body: JSON.stringify(body), headers };
  const answer = await api.fetchApi(path, { ...posted, signal });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(told.error, answer.status);
  return told;
}
