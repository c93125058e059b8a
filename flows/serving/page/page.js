// The inspection page: what was sent, what came back, and the picture that follows the threshold.

import * as api from "./api.js";
import * as draw from "./draw.js";
import { chosen, dropped, ofFolder } from "./files.js";
import { decode, regions } from "./maps.js";
import { mark, place, pointing } from "./pointing.js";

const AT_ONCE = 4; // images on their way; the server makes batches of them
const KEPT = 24; // answers with pictures that are kept; an older one is asked for again when it is looked at
const $ = (id) => document.getElementById(id);
const short = (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toPrecision(4));

const PLACES = ["input", "heat"].map($); // pictures whose places may be asked about
const entries = [];
const waiting = [];
const kept = [];
const cards = new Map(); // of each model that served while the page was open
let card, current, reference, running = 0;

async function start() {
  try {
    await renew();
  } catch (refused) {
    told(refused);
    return;
  }
  $("unlock").hidden = true;
  $("problem").textContent = "";
}

async function renew() {
  card = await api.model();
  cards.set(card.model, card);
  $("category").textContent = card.category;
  document.title = `Kintsugi inspection: ${card.category}`;
  $("model").replaceChildren(`${card.model}, threshold ${short(card.threshold)}, `, link(card, "its audit"));
}

// The card of the model that answered; after a promotion or a rollback it is not the one that the page has.
async function cardOf(model) {
  if (model !== card?.model) await renew();
  return cards.get(model);
}

function link({ audit }, text) {
  const a = document.createElement("a");
  Object.assign(a, { href: audit, textContent: text, target: "_blank" });
  a.addEventListener("click", api.open);
  return a;
}

function told(refused) {
  $("problem").textContent = refused.message;
  if (refused.status === 401) {
    $("unlock").hidden = false;
    $("key").focus();
  }
}

// Sending

function add(files) {
  if (!files.length) {
    $("status").textContent = "There is no image among these.";
    return;
  }
  if (golden() && !reference) {
    $("problem").textContent = "Choose the golden reference first.";
    return;
  }
  $("problem").textContent = "";
  $("work").hidden = false;
  for (const one of files) {
    const entry = { ...one, reference: golden() ? reference : null, item: document.createElement("button") };
    entry.item.type = "button";
    entry.item.textContent = `${one.name}: waiting`;
    entry.item.addEventListener("click", () => show(entry));
    const place = document.createElement("li");
    place.append(entry.item);
    $("list").append(place);
    entries.push(entry);
    waiting.push(entry);
  }
  while (running < AT_ONCE && waiting.length) send();
}

async function send() {
  running++;
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    await inspect(entry);
    if (!current && entry.answer) show(entry);
    progress();
  }
  running--;
  progress();
}

function progress() {
  const done = entries.filter((entry) => entry.verdict).length;
  const bad = entries.filter((entry) => entry.verdict === "defective").length;
  $("status").textContent = `${done} of ${entries.length} inspected, ${bad} defective.`;
}

async function inspect(entry) {
  try {
    const asked = [api.inspect(entry.file, entry.name)];
    if (entry.reference) asked.push(api.compare(entry.file, entry.reference));
    const [answer, comparison] = await Promise.all(asked);
    const judged = comparison ?? answer;
    const under = await cardOf(judged.model);
    if (!under || answer.model !== judged.model) return inspect(entry); // the model changed in between
    const verdict = judged.score > judged.threshold ? "defective" : "normal";
    Object.assign(entry, { answer, judged, verdict, card: under, error: null });
    const word = comparison ? comparison.verdict : verdict;
    entry.item.textContent = `${entry.name}: ${word}, ${short(judged.score)}`;
    remember(entry);
  } catch (refused) {
    Object.assign(entry, { verdict: "unreadable", error: refused.message });
    entry.item.textContent = `${entry.name}: ${refused.message}`;
    told(refused);
  }
  entry.item.className = entry.verdict;
}

function remember(entry) {
  kept.push(entry);
  while (kept.length > KEPT) {
    const oldest = kept.shift();
    if (oldest !== current && !kept.includes(oldest)) Object.assign(oldest, { answer: null, judged: null, map: null, pictures: null });
  }
}

// Looking

async function show(entry) {
  if (!entry.verdict) return;
  current = entry;
  for (const one of entries) one.item.setAttribute("aria-current", one === entry);
  if (!entry.error && !entry.answer) await inspect(entry);
  $("detail").hidden = Boolean(entry.error);
  $("problem").textContent = entry.error ?? "";
  if (entry.error || current !== entry) return;
  const { answer, judged } = entry;
  entry.map ??= decode(judged.levels);
  entry.pictures ??= Object.fromEntries(await Promise.all(
    Object.entries(answer.pictures).map(async ([name, png]) => [name, await draw.picture(png)])));
  if (current !== entry) return;
  $("name").textContent = entry.name;
  $("score").textContent = short(judged.score);
  $("limit").textContent = short(judged.threshold);
  $("verdict").textContent = judged.verdict;
  $("verdict").className = entry.verdict;
  $("time").textContent = `${Math.round(judged.milliseconds)} ms`;
  $("by").replaceChildren(link(judged, judged.model));
  $("why").hidden = true;
  $("goldenpicture").hidden = !entry.reference;
  if (entry.reference) $("goldenimage").src = entry.golden ??= URL.createObjectURL(entry.reference);
  for (const name of ["reconstructed", "restored"]) draw.paint($(name), entry.pictures[name], answer.size);
  const slider = $("threshold");
  slider.min = Math.min(entry.map.low, judged.threshold);
  slider.max = Math.max(entry.map.high, 1.5 * judged.threshold);
  slider.value = judged.threshold;
  follow();
}

// The picture at the slider's threshold.
function follow() {
  const { judged, map, card } = current;
  const threshold = Number($("threshold").value);
  const { mask, found } = regions(map, threshold, card.min_area, current.reference ? 0 : card.reach);
  current.mask = mask;
  paint();
  $("level").textContent = short(threshold);
  const moved = Math.abs(threshold - judged.threshold) > 1e-6 * Math.abs(judged.threshold);
  const words = current.reference ? ["different", "same"] : ["defective", "normal"];
  $("moved").textContent = moved ? `At this threshold the image would be ${words[found.length ? 0 : 1]}.` : "";
  $("none").hidden = found.length > 0;
  $("regions").replaceChildren(...found.map(listed));
}

function paint() {
  const { answer, judged, map, pictures, card, mask } = current;
  draw.paint($("input"), pictures.input, answer.size, mask);
  draw.paintHeat($("heat"), pictures.input, map, current.reference ? 0 : card.map_low, judged.threshold, mask);
  mark(PLACES, view().grid);
}

function listed(region, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Region ${index + 1}: ${region.area} pixels at ${region.x}, ${region.y}, up to ${short(region.score)}`;
  button.addEventListener("click", () => explain(place(region.peak, view())));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

// The size of what is shown and how many codes lie in a row of it; nothing while it is on its way.
function view() {
  return current?.pictures && { size: current.answer.size, grid: current.answer.codes.codes.length };
}

// What the prior expected at a place.
async function explain({ row, column }) {
  const entry = current, { answer } = entry, { codes, restored } = answer.codes;
  try {
    const reason = await api.explain({ model: answer.model, codes, restored, row, column });
    if (current === entry) await explained(reason, row, column);
  } catch (refused) {
    told(refused);
  }
}

async function explained(reason, row, column) {
  $("whytitle").textContent = `Why: row ${row}, column ${column}`;
  $("chance").textContent = `The code there is ${reason.code}. Its likelihood is ${short(reason.likelihood)}` +
    ` after the codes before it, and ${short(reason.likelihood_restored)} after the restored ones.`;
  draw.paintAttention($("attention"), current.pictures.input, current.answer.size, reason.attention, row, column);
  const own = { code: `${reason.code} (as it is)`, probability: reason.likelihood_restored, patch: reason.patch };
  $("expected").replaceChildren(...[own, ...reason.expected].map(({ code, probability, patch }) => {
    const line = document.createElement("tr"), image = new Image();
    image.src = `data:image/png;base64,${patch}`;
    image.alt = `The place with code ${code}`;
    for (const content of [code, short(probability), image]) line.insertCell().append(content);
    return line;
  }));
  $("why").hidden = false;
}

// What people do

const golden = () => document.querySelector("input[name=mode]:checked").value === "golden";

for (const radio of document.querySelectorAll("input[name=mode]")) {
  radio.addEventListener("change", () => { $("golden").hidden = !golden(); });
}
$("reference").addEventListener("change", (event) => { reference = event.target.files[0]; });
for (const [name, found] of [["files", chosen], ["folder", ofFolder]]) {
  $(name).addEventListener("change", ({ target }) => {
    add(found(target.files));
    target.value = ""; // so that the same file may be chosen again
  });
}
$("threshold").addEventListener("input", follow);
$("reset").addEventListener("click", () => { $("threshold").value = current.judged.threshold; follow(); });
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey($("key").value);
  start();
});
pointing(PLACES, { view, asked: explain, moved: ({ row, column }) => {
  $("place").textContent = `Crosshair at row ${row}, column ${column}; Enter asks why.`;
  paint(); // and no more than that: a new list of regions would take the button from under the mouse
} });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // or the browser would open the file in place of the page
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
document.addEventListener("drop", async (event) => add(await dropped(event.dataTransfer)));
start();
