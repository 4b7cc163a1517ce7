// Pictures by the handful: files in; one card each, read a few at a time, and the entries for the CSV out.
// An entry is {file, name, saved, url, answer?, error?, milliseconds?, together?}: whether it is on the disk by that name, and
// how many shared those milliseconds.

import { ApiError, predict, predictBatch } from "./api.js";
import { GLYPHS } from "./glyphs.js";
import { apology, percent } from "./words.js";

const TOGETHER = 8; // pictures in a request,
const BREATH = 1000; // milliseconds after a connection that failed, as while a service starts again
const TOGETHER_BYTES = 12 * 2 ** 20; // and their weight: the first answers come early, and the service's limits stay far

export class Gallery extends EventTarget {
  #list;
  #tally;
  #cards = new Map();
  #queue = [];
  #busy = false;
  #controller = new AbortController();
  entries = [];

  constructor(list, tally) {
    super();
    this.#list = list;
    this.#tally = tally;
  }

  /** Adds the files and starts reading them; the first new entry is returned. */
  add(files, saved) {
    const fresh = files.map((file) => ({ file, saved, name: file.name || "pasted picture", url: URL.createObjectURL(file) }));
    for (const entry of fresh) this.#deal(entry);
    this.entries.push(...fresh);
    this.#queue.push(...fresh);
    this.#count();
    queueMicrotask(() => this.#work()); // once whoever brought them has shown the first
    return fresh[0];
  }

  /** Asks again for whatever may get an answer now. */
  again() {
    const waiting = this.entries.filter((entry) => entry.error?.retryable);
    for (const entry of waiting) {
      delete entry.error;
      this.#fill(entry);
    }
    this.#queue.push(...waiting);
    this.#count();
    queueMicrotask(() => this.#work());
  }

  select(entry) {
    for (const [each, { button }] of this.#cards) button.setAttribute("aria-pressed", String(each === entry));
  }

  clear() {
    this.#controller.abort();
    this.#controller = new AbortController();
    for (const { url } of this.entries) URL.revokeObjectURL(url);
    this.entries = [];
    this.#queue = [];
    this.#cards.clear();
    this.#list.replaceChildren();
    this.#count();
  }

  async #work() {
    if (this.#busy) return;
    this.#busy = true;
    while (this.#queue.length) {
      const { signal } = this.#controller;
      const some = this.#next();
      try {
        await this.#read(some, signal);
      } catch (error) {
        if (signal.aborted) continue; // these were removed; others may have come since
        const rest = some.filter((entry) => !entry.answer && !entry.error);
        for (const entry of rest) entry.error = error;
        this.#done(rest);
        if (error.status === 0) await new Promise((resolve) => setTimeout(resolve, BREATH)); // the next may fare better
      }
    }
    this.#busy = false;
  }

  /** Shows what has come of these. */
  #done(entries) {
    for (const entry of entries) this.#fill(entry);
    this.#count();
    this.dispatchEvent(new CustomEvent("read", { detail: entries }));
  }

  #next() {
    let bytes = 0;
    let count = 0;
    for (const { file } of this.#queue) {
      bytes += file.size;
      if (count && (count === TOGETHER || bytes > TOGETHER_BYTES)) break;
      count++;
    }
    return this.#queue.splice(0, count);
  }

  async #read(some, signal) {
    const onWait = (seconds) => this.dispatchEvent(new CustomEvent("wait", { detail: { entries: some, seconds } }));
    if (some.length > 1) {
      try {
        const { results, milliseconds } = await predictBatch(some.map(({ file }) => file), { signal, onWait });
        some.forEach((entry, i) => keep(entry, results[i], milliseconds, some.length));
        return this.#done(some);
      } catch (error) {
        // Refused as a whole (too heavy, say): each alone may still pass. Otherwise it would fare no better.
        if (!(error instanceof ApiError) || error.general) throw error;
      }
    }
    let silent = 0; // in a row that nothing was heard of: one may be large, two are a connection that is dead
    for (const entry of some) {
      try {
        const { answer, milliseconds } = await predict(entry.file, { signal, onWait });
        delete entry.error;
        Object.assign(entry, { answer, milliseconds });
        silent = 0;
      } catch (error) {
        silent = error.code === "timeout" && error.status === 408 ? silent + 1 : 0;
        if (!(error instanceof ApiError) || error.general || silent > 1) throw error;
        entry.error = error;
      }
      this.#done([entry]);
    }
  }

  /** Lays the card of an entry on the table. */
  #deal(entry) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "card" });
    const picture = Object.assign(new Image(), { loading: "lazy", alt: "", src: entry.url });
    const unseen = Object.assign(document.createElement("span"), { className: "unseen" });
    picture.addEventListener("error", () => picture.replaceWith(unseen)); // HEIC, say: sent all the same
    const result = Object.assign(document.createElement("span"), { className: "result" });
    const name = Object.assign(document.createElement("span"), { className: "name", textContent: entry.name });
    button.append(picture, result, name);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => this.dispatchEvent(new CustomEvent("pick", { detail: entry })));
    item.append(button);
    this.#list.append(item);
    this.#cards.set(entry, { button, result });
    this.#fill(entry);
  }

  /** Writes on the card what is known of its entry. */
  #fill(entry) {
    const card = this.#cards.get(entry);
    if (!card) return; // removed meanwhile
    const { answer, error, name } = entry;
    card.button.dataset.state = error ? "error" : !answer ? "waiting" : answer.accepted ? "accepted" : "refused";
    card.button.title = error ? `${name}: ${error.message}` : name;
    if (answer) card.result.replaceChildren(...result(answer));
    else card.result.textContent = error ? apology(error)[0] : "…";
  }

  #count() {
    const all = this.entries.length;
    const failed = this.entries.filter((entry) => entry.error).length;
    const read = this.entries.filter((entry) => entry.answer).length;
    const accepted = this.entries.filter((entry) => entry.answer?.accepted).length;
    const words = [read + failed < all ? `${read} of ${all} read` : `${read} read, ${accepted} accepted`];
    if (failed) words.push(`${failed} failed`);
    this.#tally.textContent = words.join(", ");
    this.dispatchEvent(new CustomEvent("count", { detail: all }));
  }
}

function result(answer) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 140");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svg.namespaceURI, "path"));
  svg.firstChild.setAttribute("d", GLYPHS[answer.digit]);
  const read = Object.assign(document.createElement("span"), { className: "visually-hidden", textContent: `${answer.digit}, ` });
  return [svg, read, answer.accepted ? percent(answer.probability).replace("over ", ">") : "not sure"];
}

function keep(entry, result, milliseconds, together) {
  if (result.error) entry.error = new ApiError(result.error.code, result.error.message, 422);
  else {
    delete entry.error;
    Object.assign(entry, { answer: result, milliseconds, together });
  }
}
