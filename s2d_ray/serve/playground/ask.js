/** Asking until there is an answer: a service that starts, or is full, is asked again. */

import { ApiError, streamChat } from "./api.js";

const UNAVAILABLE = 503;

/**
 * Have a text written.
 * @param {object} body
 * @param {AbortSignal} signal
 * @param {{onChunk: (chunk: any) => void, onWait: (error: ApiError, seconds: number) => void}} told
 *   onWait: the service cannot take it now, and is asked again in so many seconds
 */
export async function ask(body, signal, { onChunk, onWait }) {
  for (;;) {
    let hasBegun = false;
    try {
      for await (const chunk of streamChat(body, signal)) {
        hasBegun = true;
        onChunk(chunk);
      }
      return;
    } catch (error) {
      const mayWait = error instanceof ApiError && error.status === UNAVAILABLE && !hasBegun;
      if (!mayWait || error.code === "deadline") throw error;
      const seconds = error.retryAfterS ?? 1;
      onWait(error, seconds);
      await pause(seconds, signal);
    }
  }
}

/**
 * @param {number} seconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
