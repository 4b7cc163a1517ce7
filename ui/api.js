// The service seen from the page: pictures in, answers or ApiErrors out. Waits where the service says that it is busy.

const BASE = new URL("../", location.href);
export const PREDICT = new URL("predict?explain=1", BASE).href;
const BATCH = new URL("predict_batch?explain=1", BASE).href;
const TRIES = 4;

export class ApiError extends Error {
  constructor(code, message, status = 0) {
    super(message);
    Object.assign(this, { code, status });
  }
}

let key = "";
try { key = sessionStorage.getItem("key") ?? ""; } catch { /* storage may be forbidden */ }

export function useKey(value) {
  key = value;
  try { sessionStorage.setItem("key", value); } catch { /* kept until the page is left */ }
}
export const hasKey = () => key !== "";

/** One picture: {answer, milliseconds}, the latter there and back. */
export async function predict(blob, options = {}) {
  const started = performance.now();
  const headers = { "Content-Type": blob.type || "application/octet-stream" };
  const answer = await request(PREDICT, { method: "POST", body: blob, headers }, options);
  return { answer, milliseconds: performance.now() - started };
}

/** Several pictures in one request: {results, milliseconds}, the results answers or {error}, in order. */
export async function predictBatch(files, options = {}) {
  const started = performance.now();
  const body = new FormData();
  for (const file of files) body.append("images", file, file.name || "picture");
  const { results } = await request(BATCH, { method: "POST", body }, options);
  if (results?.length !== files.length) throw new ApiError("bad_answer", "The service did not answer each picture.");
  return { results, milliseconds: performance.now() - started };
}

export const model = () => request(new URL("model", BASE).href, {}, {});

async function request(url, init, { signal, onWait }) {
  for (let attempt = 1; ; attempt++) {
    const headers = key ? { ...init.headers, Authorization: `Bearer ${key}` } : init.headers;
    let response;
    let body = null;
    try {
      response = await fetch(url, { ...init, headers, signal });
      body = await response.json().catch(() => null);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("offline", "The service cannot be reached.");
    }
    if (signal?.aborted) throw signal.reason;
    if (response.ok && body !== null) return body;
    const busy = response.status === 503 || response.status === 429;
    if (busy && attempt < TRIES) {
      const asked = Number(response.headers.get("Retry-After"));
      const seconds = Math.min(asked > 0 ? asked : 0.25 * 2 ** attempt, 10);
      onWait?.(seconds);
      await pause(seconds * 1000, signal);
      continue;
    }
    const { code = `http_${response.status}`, message } = body?.error ?? {};
    throw new ApiError(code, message ?? `The service answered ${response.status} without saying why.`, response.status);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/** Asks at most one thing at a time and only the latest: what is stale is aborted, never shown. */
export class Latest {
  #gap;
  #patience;
  #timer = 0;
  #controller = null;
  #started = 0;
  #job = null;

  constructor(gap = 70, patience = 1000) {
    this.#gap = gap;
    this.#patience = patience;
  }

  /** job(signal) runs soon, at once with `now`; a job asked for before and not yet begun is forgotten. */
  ask(job, now = false) {
    this.#job = job;
    if (now || performance.now() - this.#started > this.#patience) this.#controller?.abort();
    if (now) this.#begin();
    else if (!this.#timer && (!this.#controller || this.#controller.signal.aborted)) this.#later();
  }

  cancel() {
    this.#job = null;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#controller?.abort();
  }

  #later() {
    const wait = Math.max(0, this.#gap - (performance.now() - this.#started));
    this.#timer = setTimeout(() => this.#begin(), wait);
  }

  async #begin() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const job = this.#job;
    this.#job = null;
    if (!job) return;
    const controller = new AbortController();
    this.#controller = controller;
    this.#started = performance.now();
    try {
      await job(controller.signal);
    } finally {
      if (this.#controller === controller) {
        this.#controller = null;
        if (this.#job && !this.#timer) this.#later();
      }
    }
  }
}
