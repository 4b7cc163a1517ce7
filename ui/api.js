// The service seen from the page: pictures in, answers or ApiErrors out. Waits where the service says that it is busy.

const BASE = new URL("../", location.href);
export const PREDICT = new URL("predict?explain=1", BASE).href;
const BATCH = new URL("predict_batch?explain=1", BASE).href;
const TRIES = 4;
const PATIENCE = 45_000; // milliseconds for one try; the service itself gives up on a body after 30 s

/** Why there is no answer; without a connection there is no HTTP status: 0. */
export class ApiError extends Error {
  constructor(code, message, status = 0) {
    super(message);
    Object.assign(this, { code, status });
  }
  /** Whether the same request may do better later. */
  get retryable() { return [0, 401, 408, 429].includes(this.status) || this.status >= 500; }
  /** Whether any other picture would fare the same now. */
  get general() { return [0, 401, 429, 503].includes(this.status); }
}

let key = "";
let notBefore = 0; // when a busy service wants to be asked again
try { key = sessionStorage.getItem("key") ?? ""; } catch { /* storage may be forbidden */ }

/** The key of all requests from now on; it is remembered, until the tab is closed, once the service has accepted it. */
export function useKey(value) {
  key = value;
  remember("");
}
export const hasKey = () => key !== "";

function remember(value) {
  try { if (sessionStorage.getItem("key") !== value) sessionStorage.setItem("key", value); } catch { /* kept until the page is left */ }
}

/** What a file is sent as: the service looks at the bytes, and takes no text/plain for a picture. */
export const kind = (blob) => (blob.type.startsWith("image/") ? blob.type : "application/octet-stream");

/** One picture: {answer, milliseconds}, the latter there and back. */
export async function predict(blob, options = {}) {
  const headers = { "Content-Type": kind(blob) };
  const { body: answer, milliseconds } = await request(PREDICT, { method: "POST", body: blob, headers }, options);
  return { answer, milliseconds };
}

/** Several pictures in one request: {results, milliseconds}, the results answers or {error}, in order. */
export async function predictBatch(files, options = {}) {
  const form = new FormData();
  for (const file of files) form.append("images", file, file.name || "picture");
  const { body: { results }, milliseconds } = await request(BATCH, { method: "POST", body: form }, options);
  if (results?.length !== files.length) throw new ApiError("bad_answer", "The service did not answer each picture.", 502);
  return { results, milliseconds };
}

export const model = async () => (await request(new URL("model", BASE).href, {}, {})).body;

/** {body, milliseconds}: what the answer holds, and how long the try that brought it took. */
async function request(url, init, { signal, onWait }) {
  for (let attempt = 1; ; attempt++) {
    const wait = notBefore - performance.now();
    if (wait > 0) {
      onWait?.(wait / 1000);
      await pause(wait, signal);
    }
    const started = performance.now();
    const { response, body } = await once(url, init, signal);
    if (response.ok && body !== null) {
      if (key) remember(key);
      return { body, milliseconds: performance.now() - started };
    }
    const busy = response.status === 503 || response.status === 429;
    if (busy) {
      const asked = Number(response.headers.get("Retry-After"));
      notBefore = performance.now() + 1000 * Math.min(asked > 0 ? asked : 0.25 * 2 ** attempt, 10);
      if (attempt < TRIES) continue;
    }
    throw refusal(response, body?.error ?? {});
  }
}

async function once(url, init, signal) {
  const headers = key ? { ...init.headers, Authorization: `Bearer ${key}` } : init.headers;
  const patience = AbortSignal.timeout(PATIENCE);
  try {
    const response = await fetch(url, { ...init, headers, signal: signal ? AbortSignal.any([signal, patience]) : patience });
    const body = await response.json().catch((error) => { if (error.name === "SyntaxError") return null; throw error; });
    if (signal?.aborted) throw signal.reason;
    return { response, body };
  } catch (error) {
    if (signal?.aborted) throw error;
    if (patience.aborted) throw new ApiError("timeout", "The service took too long to answer.", 408);
    if (!(await readable(init.body))) throw new ApiError("unreadable", "It is a folder, or it has been moved or changed.", 400);
    throw new ApiError("offline", "The service cannot be reached.");
  }
}

/** Whether the files of a request can be read at all: fetch says the same of them as of a broken connection. */
async function readable(body) {
  try {
    for (const blob of body instanceof FormData ? body.values() : body ? [body] : []) await blob.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

function refusal({ ok, status }, { code = `http_${status}`, message }) {
  if (ok) return new ApiError("bad_answer", "Something between here and the service answered in its place.", 502);
  if (status === 401) return new ApiError(code, key ? "That key was not accepted." : "Whoever runs it can give you one.", 401);
  return new ApiError(code, message ?? `The service answered ${status} without saying why.`, status);
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
