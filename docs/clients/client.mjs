// Sends pictures to the service with fetch: `node client.mjs http://localhost:3000 seven.jpg three.png` (Node 20 or newer).
// In a browser the two functions are the same; pass them File objects, and allow the page's origin with DIGITS_CORS_ORIGINS.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";

const key = globalThis.process?.env.API_KEY;
const KEY = key ? { "X-API-Key": key } : {}; // where the service asks for one

const at = (url, route) => new URL(route, url.replace(/\/*$/, "/")); // behind whatever path a proxy puts before it

/** One picture, a Blob or File, as the raw body. */
async function predict(url, picture) {
  const headers = { ...KEY, "Content-Type": picture.type || "application/octet-stream" };
  const answer = await fetch(at(url, "predict"), { method: "POST", body: picture, headers });
  return answer.json();
}

/** Many pictures in one request: a result or an error for each, in order. */
async function predictBatch(url, pictures) {
  const form = new FormData();
  for (const picture of pictures) form.append("images", picture, picture.name ?? "picture");
  const answer = await fetch(at(url, "predict_batch"), { method: "POST", body: form, headers: KEY });
  const json = await answer.json();
  if (json.error) throw new Error(`${json.error.code}: ${json.error.message}`);
  return json.results;
}

function show(name, { error, digit, probability, accepted }) {
  const share = `${(100 * probability).toFixed(2)}%`;
  console.log(error ? `${name}: ${error.code}: ${error.message}` : `${name}: ${digit} (${share}${accepted ? "" : ", not accepted"})`);
}

const [url, ...names] = process.argv.slice(2);
const pictures = await Promise.all(names.map(async (name) => new Blob([await readFile(name)])));
const results = pictures.length > 1 ? await predictBatch(url, pictures) : [await predict(url, pictures[0])];
results.forEach((result, place) => show(basename(names[place]), result));
