/** The HTTP API: one function for each thing that is asked, one kind of error. */

import { key } from "./key.js";
import { events } from "./sse.js";

/** @typedef {import("./answer.js").Plan} Plan */
/** @typedef {{id: string, s2d: {plan?: Plan, model?: string, chooses_among?: string[]}}} Model */

const NO_ANSWER = "The server does not answer. Is it still running?";

/** What went wrong, in words for the user. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, param?: string | null, code?: string | null, retryAfterS?: number}} [facts]
   *   status: of HTTP, 0 if there was no answer; retryAfterS: when to try again, if the server said so
   */
  constructor(message, facts = {}) {
    super(message);
    this.status = facts.status ?? 0;
    this.param = facts.param ?? null;
    this.code = facts.code ?? null;
    this.retryAfterS = facts.retryAfterS ?? null;
  }
}

/** @returns {Promise<Model[]>} */
export async function models() {
  return (await (await call("v1/models")).json()).data;
}

/** State of the whole service, as docs/api.md describes it. */
export async function health() {
  return (await call("health")).json();
}

/**
 * One chat completion, chunk by chunk.
 * @param {object} body
 * @param {AbortSignal} signal ends it
 * @returns {AsyncGenerator<any>} throws ApiError, or AbortError once the signal has been given
 */
export async function* streamChat(body, signal) {
  const response = await call("v1/chat/completions", {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  try {
    for await (const data of events(/** @type {ReadableStream} */ (response.body))) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(`The server gave up: ${chunk.error.message}`, chunk.error);
      yield chunk;
    }
  } catch (error) {
    throw told(error);
  }
  throw new ApiError("The connection broke before the text had ended.");
}

/**
 * Ask, and turn whatever is no success into an ApiError.
 * @param {string} path relative, so that the service may live below another path
 * @param {RequestInit} [options]
 */
async function call(path, options = {}) {
  /** @type {Record<string, string>} */
  const headers = options.body ? { "content-type": "application/json" } : {};
  if (key()) headers.authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw told(error);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/**
 * The error that a broken connection is told by; a stop by the user stays what it is.
 * @param {any} error
 */
function told(error) {
  return error instanceof ApiError || error.name === "AbortError" ? error : new ApiError(NO_ANSWER);
}

/** @param {Response} response */
async function refusal(response) {
  const retryAfter = Number(response.headers.get("retry-after"));
  const facts = { status: response.status, retryAfterS: retryAfter || undefined };
  try {
    const { message, param, code } = (await response.json()).error;
    return new ApiError(message, { ...facts, param, code });
  } catch {
    return new ApiError(`The server answered with HTTP ${response.status}.`, facts);
  }
}
