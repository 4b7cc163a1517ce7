// What the page says about an answer or an error: data in, short English sentences out. Also CSV and shell quoting.

export function percent(probability) {
  if (probability >= 0.9995) return "over 99.9%";
  if (probability < 0.001) return "under 0.1%";
  return `${(probability * 100).toFixed(probability < 0.1 ? 1 : probability >= 0.99 ? 1 : 0)}%`;
}

export function milliseconds(value) {
  return Number.isFinite(value) ? `${value < 10 ? value.toFixed(1) : Math.round(value)} ms` : "–";
}

const article = (digit) => (digit === 8 ? "an" : "a");

/** [headline, detail] of an answer. */
export function verdict({ digit, probability, accepted }) {
  return accepted
    ? [`That’s ${article(digit)} ${digit}`, `${percent(probability)} sure`.replace(/^o/, "O").replace(/^u/, "U")]
    : ["That doesn’t look like one digit", probability < 0.5 ? "None of the ten comes close." : `If it is one, most likely ${article(digit)} ${digit} (${percent(probability)}).`];
}

const KIND = {
  offline: "I can’t reach the service",
  timeout: "No answer has come",
  unreadable: "I can’t open that file",
  unauthorized: "This service asks for a key",
  not_an_image: "I can’t open that as a picture",
  truncated_image: "That picture is incomplete",
  empty_body: "That file is empty",
  unsupported_media_type: "I can’t read that kind of file",
  too_large: "That picture is too large",
  too_many_pixels: "That picture is too large",
  animated_image: "That picture moves",
  elsewhere: "That is on another page",
};

/** [title, text] of an error, kindly. */
export function apology(error) {
  const busy = error.status === 503 || error.status === 429;
  const title = error.status === 401 ? KIND.unauthorized : busy ? "The service is busy" : KIND[error.code];
  const text = error.message.replace(/^./, (first) => first.toUpperCase()).replace(/([^.!?…])$/, "$1.");
  return [title ?? "That didn’t work", text];
}

/** The answers as CSV (RFC 4180, with the mark of UTF-8 that Excel wants). A name that a spreadsheet would take for a formula gets an apostrophe before it. */
export function toCsv(entries) {
  const cell = (value) => {
    const text = String(value ?? "").replace(/^(?=[=+\-@\t\r])/, typeof value === "string" ? "'" : "");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const digits = [...Array(10).keys()];
  const head = ["name", "digit", "probability", "accepted", ...digits.map((d) => `p${d}`), "model", "error"];
  const rows = entries.map(({ name, answer, error }) => [
    name, answer?.digit, answer?.probability, answer?.accepted,
    ...digits.map((d) => answer?.probabilities[d]), answer?.model, error?.message,
  ]);
  return "\uFEFF" + [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The very request as a command line. A drawing has no file, so its PNG (base64) goes along; a pasted picture has none yet.
 * A name with a line break, which nobody has on their disk by chance, would end the comment. */
export function curl(url, type, { name, saved, base64, key }) {
  const header = [`-H ${quote(`Content-Type: ${type}`)}`];
  if (key) header.push('-H "Authorization: Bearer $API_KEY"'); // the key itself is never shown
  const send = (body) => `curl -sS ${header.join(" ")} --data-binary ${body} ${quote(url)}`;
  if (base64) return `echo ${base64} | base64 --decode | ${send("@-")}`;
  const file = name.replace(/[\0-\x1f\x7f]/g, "_");
  return (saved ? "" : `# save the picture as ${quote(file)} first\n`) + send(quote(`@${file}`));
}
