// The page: what a person writes or brings in, what the service answers out. Wires the sheet, the gallery and the camera to the answer's panel.

import { ApiError, Latest, PREDICT, hasKey, kind, model, predict, useKey } from "./api.js";
import { Camera } from "./camera.js";
import { Gallery } from "./gallery.js";
import { GLYPHS } from "./glyphs.js";
import { Sheet } from "./sheet.js";
import { apology, curl, milliseconds, percent, toCsv, verdict } from "./words.js";

const $ = (id) => document.getElementById(id);
const root = document.documentElement;

const sheet = new Sheet($("surface"));
const gallery = new Gallery($("cards"), $("tally"));
const camera = new Camera(
  { dialog: $("camera"), video: $("video"), text: $("camera-text"), take: $("camera-take"), other: $("camera-other"), close: $("camera-close") },
  (file) => bring([file]),
  () => $("capture").click(),
);
const latest = new Latest();
const LATE = 300; // milliseconds until an answer that is awaited is missed

let shown = null; // the gallery's entry on the sheet, if any
let wanted = 0; // how many drawings have been asked about: an answer to the newest ends the waiting
let sent = null; // {blob, base64} of a drawing or {blob, name, saved}: what the answer on the screen answers

// ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────────────

const bars = GLYPHS.map((_, digit) => {
  const item = document.createElement("li");
  const value = Object.assign(document.createElement("span"), { className: "value" });
  const bar = Object.assign(document.createElement("span"), { className: "bar" });
  const label = Object.assign(document.createElement("span"), { className: "digit", textContent: digit });
  const words = Object.assign(document.createElement("span"), { className: "visually-hidden" });
  for (const part of [value, bar, label]) part.setAttribute("aria-hidden", "true");
  item.append(value, bar, label, words);
  $("bars").append(item);
  return { item, value, bar, words };
});

function drawBars(probabilities, digit) {
  bars.forEach(({ item, value, bar, words }, i) => {
    const p = probabilities?.[i] ?? 0;
    item.classList.toggle("best", i === digit);
    bar.style.setProperty("--p", p);
    value.textContent = p >= 0.005 ? Math.round(p * 100) : "";
    words.textContent = probabilities ? `${i}: ${percent(p)}` : `${i}: nothing yet`;
  });
}

let announcing = 0;
function announce(text) {
  // A screen reader should hear the answer when the hand rests, not each one on the way.
  clearTimeout(announcing);
  announcing = setTimeout(() => { $("announce").textContent = text; }, 500);
}

let patience = 0;
/** Says whether what the panel shows is still behind what is on the sheet; if that lasts, the panel shows it. */
function behind(yes) {
  $("answer").setAttribute("aria-busy", String(yes));
  if (yes) patience ||= setTimeout(late, LATE);
  else rest();
}

function rest() {
  clearTimeout(patience);
  patience = 0;
  $("answer").classList.remove("late");
}

function late() {
  if (answered()) $("answer").classList.add("late");
  else showReading();
}

const answered = () => ["accepted", "refused"].includes($("answer").dataset.state);

/** Fills the whole panel anew; what is not given is empty. */
function panel(state, { headline = "", detail = "", answer = null, roundTrip = "–", inService = "–", request = null, said = "" }) {
  rest();
  $("answer").dataset.state = state;
  $("headline").textContent = headline;
  $("detail").textContent = detail;
  drawGlyph(answer && GLYPHS[answer.digit]);
  drawBars(answer?.probabilities ?? null, answer?.digit);
  $("seen").hidden = !answer;
  $("seen").src = answer ? `data:image/png;base64,${answer.seen}` : "data:,";
  $("seen").alt = answer ? "The picture as the model saw it, 28 by 28 pixels" : "";
  $("round-trip").textContent = roundTrip;
  $("in-service").textContent = inService;
  showCurl(request);
  if (state !== "error") hideTrouble();
  announce(said);
}

function drawGlyph(path) {
  const stroke = $("glyph-stroke");
  if (!path) return stroke.removeAttribute("d");
  if (stroke.getAttribute("d") === path) return;
  stroke.setAttribute("d", path);
  for (const motion of $("glyph").getAnimations({ subtree: true })) { motion.cancel(); motion.play(); } // written anew
}

function showNothing() {
  panel("idle", { headline: "Nothing written yet", detail: "The answer follows while you draw." });
}

function showReading() {
  panel("idle", { headline: "Reading…", detail: shown?.name });
}

function showAnswer(answer, { blob, base64, name, saved, roundTrip, together = 1 }) {
  const [headline, detail] = verdict(answer);
  panel(answer.accepted ? "accepted" : "refused", {
    headline,
    detail,
    answer,
    roundTrip: milliseconds(roundTrip) + (together > 1 ? ` for ${together}` : ""),
    inService: milliseconds(answer.milliseconds),
    request: { blob, base64, name, saved },
    said: `${headline}. ${detail}`,
  });
  $("model").textContent = answer.model ?? "–";
}

let keyTried = false; // the answer says whether it was the right one

function showError(error, request = null) {
  panel("error", { request });
  [$("trouble-title").textContent, $("trouble-text").textContent] = apology(error);
  $("trouble").hidden = false;
  $("key").hidden = error.status !== 401;
  $("retry").hidden = !error.retryable || error.status === 401;
  if (error.status === 401 && keyTried) {
    $("key-value").focus(); // which select() does in Chromium alone
    $("key-value").select();
  }
  keyTried = false;
}

function hideTrouble() {
  // What had the focus is about to go. On the sheet a key meant to scroll would take a picture away.
  if ($("trouble").contains(document.activeElement)) $(shown ? "headline" : "surface").focus({ preventScroll: true });
  $("trouble").hidden = true;
}

/** The request behind what is shown; a drawing's own bytes are spared the eye and come with Copy. */
function showCurl(request) {
  sent = request;
  $("copy").disabled = !request;
  $("curl").textContent = request ? command(request.base64 && "…") : "Write or pick something first.";
}

function command(base64) {
  const { blob, name, saved } = sent;
  return curl(PREDICT, kind(blob), { name, saved, base64, key: hasKey() });
}

async function encoded(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

function showBusy(seconds) {
  if (!answered()) showReading();
  const words = `The service is busy. Trying again in ${Math.max(1, Math.round(seconds))} s…`;
  $("detail").textContent = words;
  announce(words);
}

/** The model that answers now; an older answer keeps its own. */
function showVersion(name) {
  if (name) $("version").textContent = name;
}

function again() {
  gallery.again();
  if (shown) show(shown);
  else ask(true);
  learnModel();
}

// ── Drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function ask(now) {
  if (sheet.empty) {
    latest.cancel();
    showNothing();
    behind(false);
    return;
  }
  wanted++;
  behind(true);
  latest.ask(async (signal) => {
    const number = wanted;
    try {
      const blob = await sheet.png();
      const base64 = await encoded(blob); // now: Safari's clipboard takes only what is there at the click
      if (signal.aborted) return;
      const { answer, milliseconds: roundTrip } = await predict(blob, { signal, onWait: showBusy });
      showVersion(answer.model);
      showAnswer(answer, { blob, base64, roundTrip });
      behind(number !== wanted);
    } catch (error) {
      if (signal.aborted) return;
      showError(error instanceof ApiError ? error : new ApiError("page", String(error)));
      behind(number !== wanted);
    }
  }, now);
}

sheet.addEventListener("change", ({ detail: { settled } }) => {
  if (shown) putOnSheet(null);
  tidy();
  ask(settled);
});

sheet.addEventListener("pen", ({ detail }) => {
  $("pen").textContent = detail;
  if (detail || !shown) return;
  putOnSheet(null); // the pen moves on the sheet, not under a picture
  tidy();
  ask(true);
});

function tidy() {
  const usable = { undo: sheet.canUndo, redo: sheet.canRedo, clear: !sheet.empty || shown !== null };
  for (const [id, yes] of Object.entries(usable)) {
    if (!yes && document.activeElement === $(id)) $("surface").focus({ preventScroll: true }); // a button that is off loses it
    $(id).disabled = !yes;
  }
  $("hint").hidden = !sheet.empty || shown !== null;
}

function clear() {
  const hadPicture = shown !== null;
  if (hadPicture) putOnSheet(null);
  if (!sheet.empty) return sheet.clear();
  if (hadPicture) { tidy(); ask(true); }
}

function setBrush(size) {
  $("brush").value = size;
  sheet.brush = $("brush").valueAsNumber / 100;
  $("brush").setAttribute("aria-valuetext", `${$("brush").value} hundredths of the sheet`);
  sheet.redraw();
}

$("undo").addEventListener("click", () => sheet.undo());
$("redo").addEventListener("click", () => sheet.redo());
$("clear").addEventListener("click", clear);
$("brush").addEventListener("input", () => setBrush($("brush").value));

// ── Pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Files to read; `saved` says whether they are on the user's disk, by that name. */
function bring(files, saved = false) {
  if (!files.length) return;
  latest.cancel();
  const entry = gallery.add(files, saved);
  sheet.clear(); // Undo brings the drawing back
  show(entry);
}

function putOnSheet(entry) {
  shown = entry;
  $("picture").hidden = !entry;
  $("unseen").hidden = true;
  $("sheet").classList.toggle("pictured", entry !== null);
  if (entry) Object.assign($("picture"), { src: entry.url, alt: `Your picture ${entry.name}` });
  else $("picture").removeAttribute("src");
  gallery.select(entry);
}

$("picture").addEventListener("error", () => {
  $("picture").hidden = true; // HEIC, say: this browser can't show it, the service may still read it
  $("unseen").textContent = shown?.name ?? "";
  $("unseen").hidden = !shown;
});

function show(entry) {
  latest.cancel();
  putOnSheet(entry);
  tidy();
  const { file: blob, name, saved, answer, error, milliseconds: roundTrip, together } = entry;
  if (answer) showAnswer(answer, { blob, name, saved, roundTrip, together });
  else if (error) showError(error, { blob, name, saved });
  else showReading();
  behind(!answer && !error);
}

gallery.addEventListener("pick", ({ detail }) => {
  if (!sheet.empty) sheet.clear();
  show(detail);
  if ($("sheet").getBoundingClientRect().top < 0) $("sheet").scrollIntoView({ block: "start" });
});
gallery.addEventListener("wait", ({ detail: { entries, seconds } }) => { if (entries.includes(shown)) showBusy(seconds); });
gallery.addEventListener("read", ({ detail }) => {
  showVersion(detail.at(-1)?.answer?.model);
  if (detail.includes(shown)) show(shown);
});
gallery.addEventListener("count", ({ detail }) => { $("gallery").hidden = detail === 0; });

$("pick").addEventListener("click", () => $("files").click());
$("shoot").addEventListener("click", () => camera.open());
for (const id of ["files", "capture"]) {
  $(id).addEventListener("change", ({ target }) => {
    bring([...target.files], id === "files");
    target.value = ""; // so that the same file can be picked again
  });
}
addEventListener("paste", ({ clipboardData }) => bring([...(clipboardData?.files ?? [])]));
addEventListener("dragstart", (event) => event.preventDefault()); // the page's own pictures are here already
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    const files = event.dataTransfer?.types.includes("Files");
    const link = !files && event.dataTransfer?.types.includes("text/uri-list"); // what some browsers make of another page's picture
    if (files || link) event.preventDefault(); // a link would take this page's place
    const leaving = name === "drop" || (name === "dragleave" && !event.relatedTarget);
    document.body.classList.toggle("dropping", files && !leaving);
    if (name === "drop" && files) bring([...event.dataTransfer.files], true);
    if (name === "drop" && link) explainLinks();
  });
}

function explainLinks() {
  latest.cancel();
  showError(new ApiError("elsewhere", "Save the picture first, or copy it and paste it here.", 400));
  behind(false);
}

$("csv").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([toCsv(gallery.entries)], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: url, download: "digits.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});
$("empty").addEventListener("click", () => {
  if (shown) clear();
  gallery.clear();
  $("pick").focus();
});

// ── Curl, key, retry ─────────────────────────────────────────────────────────────────────────────────────────────────

$("copy").addEventListener("click", async () => {
  const whole = command(sent.base64);
  try {
    await navigator.clipboard.writeText(whole);
    $("copy").textContent = "Copied";
  } catch {
    $("curl").textContent = whole; // no clipboard on insecure addresses: show all of it, selected
    getSelection().selectAllChildren($("curl"));
    $("copy").textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it";
  }
  announce($("copy").textContent);
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
});

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key-value").value.trim());
  keyTried = true;
  again();
});
$("retry").addEventListener("click", again);
addEventListener("online", () => {
  if ($("answer").dataset.state === "error" || gallery.entries.some(({ error }) => error?.status === 0)) again();
});

async function learnModel() {
  try {
    const about = await model();
    showVersion(about.model);
    if (!answered()) $("model").textContent = $("version").textContent;
  } catch (error) {
    if (error.status === 401) showError(error);
  }
}

// ── Keys and colours ─────────────────────────────────────────────────────────────────────────────────────────────────

addEventListener("keydown", (event) => {
  const writing = event.target.matches?.("input:not([type=range]), textarea");
  if (writing || $("camera").open) return;
  const control = event.ctrlKey || event.metaKey;
  const thicker = { "[": -1, "]": 1 }[event.key];
  if (thicker && event.target === $("surface") && (!control || event.altKey)) { // with AltGr on many keyboards
    setBrush(Number($("brush").value) + thicker);
    return event.preventDefault();
  }
  if (event.altKey) return;
  const key = event.key.toLowerCase();
  if (control && key === "z") event.shiftKey ? sheet.redo() : sheet.undo();
  else if (control && key === "y") sheet.redo();
  else if (control && key === "o") $("files").click();
  else if (!control && (key === "delete" || key === "backspace") && !event.target.closest?.("#gallery")) clear();
  else return;
  event.preventDefault();
});

const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
function recolour() {
  $("theme").setAttribute("aria-pressed", String(dark()));
  sheet.redraw();
  const { backgroundColor } = getComputedStyle(document.body);
  for (const meta of document.querySelectorAll("meta[name=theme-color]")) meta.content = backgroundColor;
}
$("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* kept until the page is left */ }
  recolour();
});
system.addEventListener("change", recolour);

setBrush($("brush").value);
showNothing();
tidy(); // Firefox keeps what was usable before a reload
recolour();
learnModel();
