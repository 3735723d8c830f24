// The page: one or two settings, asked about whenever a control changes.

import * as controls from "./controls.js";
import { headerOf, HeaderError } from "./header.js";
import * as live from "./live.js";
import * as results from "./results.js";

const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const PATIENCE_MS = 1000;
const START = { model: "smolvlm2-256m", machine: "nexys-video", weights: "mxfp8:block=8", context: 1024 };

let settings = [];
let side = 0;
let started = false;
let changedAt = 0;
const answers = [{}, {}];
const asking = [null, null];
const abouts = new Map();

async function ask(path, body, signal) {
  const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  if (body !== undefined) sent.headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { ...sent, signal });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.message ?? `the server answered ${answer.status}`);
  return found;
}

async function about(kind, name) {
  const key = `${kind}?name=${encodeURIComponent(name)}`;
  if (!abouts.has(key)) abouts.set(key, await ask(`/api/${key}`));
  return abouts.get(key);
}

// Asks about one side: once at a time, and once more if it was changed meanwhile.
async function answer(which) {
  const before = asking[which];
  if (before) {
    before.again = true;
    if (performance.now() - before.started < PATIENCE_MS) return before.done;
    before.controller.abort();
  }
  const now = { started: performance.now(), again: false, controller: new AbortController() };
  asking[which] = now;
  now.done = (async () => {
    await askAll(which, now);
    if (asking[which] !== now) return;
    asking[which] = null;
    if (now.again) await answer(which);
  })();
  return now.done;
}

async function askAll(which, now) {
  const setting = settings[which];
  if (!setting) return;
  const slow = setTimeout(() => root.classList.add("slow"), 300);
  const shown = answers[which];
  const told = (path) => ask(path, setting, now.controller.signal).catch((error) => error);
  const take = async (part, found) => {
    if (asking[which] !== now) return;
    const wrong = found instanceof Error;
    if (!wrong) shown[part] = found;
    else if (part !== "plan") shown[part] = null; // the last plan stays, and says that it is not this one
    // What cannot be planned cannot be simulated either, and what is wrong is said once.
    shown.problems = part === "plan" && wrong ? {} : { ...shown.problems };
    shown.problems[part] = found.message;
    const sides = answers.slice(0, settings.length);
    results.show(sides);
    if (part === "plan") painted("answered");
    await results.draw(sides, painted);
  };
  const simulated = told("/api/timeline"); // by another process, at the same time
  const plan = await told("/api/plan");
  const goesOn = () => !(plan instanceof Error) && !now.again; // a later change makes the rest of this one vain
  const bounds = goesOn() ? told("/api/bounds") : null; // while the memory map is drawn
  await take("plan", plan);
  const then = async (part, asked) => {
    const found = await asked;
    if (goesOn()) await take(part, found);
  };
  if (goesOn()) await Promise.all([then("bounds", bounds), then("timeline", simulated)]); // as they come
  if (!goesOn()) now.controller.abort();
  clearTimeout(slow);
  if (asking[which] === now) root.classList.remove("slow");
}

// Keeps how long after a change something was on the screen, for whoever measures it.
function painted(what) {
  const since = changedAt;
  requestAnimationFrame(() =>
    setTimeout(() => performance.measure(what, { start: since, end: performance.now() })),
  );
}

// Asks about what has changed; the page says `idle` once all of it is shown.
async function refresh(sides) {
  root.dataset.state = "busy";
  const asked = Promise.all(sides.map(answer)); // first of all: what follows is done while the server works
  byId("results").setAttribute("aria-busy", "true");
  history.replaceState(null, "", `?${controls.toAddress(settings)}`);
  await asked;
  if (started && !asking.some(Boolean)) rest();
}

function rest() {
  byId("results").removeAttribute("aria-busy");
  root.dataset.state = "idle";
}

async function showSetting() {
  const setting = settings[side];
  try {
    controls.showModel(await about("model", setting.model));
  } catch (error) {
    fileProblem(error.message);
    setting.model = START.model;
    controls.showModel(await about("model", setting.model));
  }
  try {
    controls.showMachine(await about("machine", setting.machine));
  } catch {
    setting.machine = START.machine;
    controls.showMachine(await about("machine", setting.machine));
  }
  controls.write(setting);
}

async function changed(event) {
  if (["compare", "file", "keep-class", "keep-format"].includes(event.target.id)) return;
  if (event.target.name === "side") return;
  const isSelect = event.target.tagName === "SELECT";
  if (isSelect !== (event.type === "change")) return;
  changedAt = event.timeStamp;
  root.dataset.state = "busy";
  if (event.target.id === "model") {
    settings[side] = controls.read();
    delete settings[side].keep;
    await showSetting();
  } else if (event.target.id === "machine") {
    settings[side] = controls.read();
    delete settings[side].overrides;
    await showSetting();
  }
  settings[side] = controls.read();
  await refresh([side]);
}

async function compare() {
  const two = byId("compare").checked;
  byId("side-choice").hidden = !two;
  settings = two ? [settings[0], settings[1] ?? { ...settings[0] }] : [settings[0]];
  if (!two) await chooseSide(0);
  await refresh(two ? [0, 1] : [0]);
}

async function chooseSide(which) {
  side = which;
  document.querySelector(`[name=side][value="${which}"]`).checked = true;
  await showSetting();
}

function keep(event) {
  const format = byId("keep-format").value.trim();
  const chosen = byId("keep-class").value;
  if (!format || !chosen) {
    byId("keep-format").focus();
    return;
  }
  for (const item of [...byId("kept").children]) {
    if (item.dataset.kept.startsWith(`${chosen}=`)) item.remove();
  }
  byId("kept").append(controls.keptItem(`${chosen}=${format}`));
  byId("keep-format").value = "";
  event.preventDefault();
  settings[side] = controls.read();
  refresh([side]);
}

function removeKept(event) {
  const item = event.target.closest("li");
  if (!item || event.target.tagName !== "BUTTON") return;
  item.remove();
  byId("keep-class").focus();
  settings[side] = controls.read();
  refresh([side]);
}

function fileProblem(text) {
  byId("file-problem").textContent = text;
}

// Takes a config.json, or a checkpoint with or without its config.json.
async function take(files) {
  fileProblem("");
  root.dataset.state = "busy";
  try {
    const config = files.find((file) => file.name.endsWith(".json"));
    const weights = files.filter((file) => file !== config);
    if (!files.length || weights.length > 1) {
      throw new HeaderError("drop one file, or a safetensors file with its config.json");
    }
    const main = await headerOf(weights[0] ?? config);
    const beside = weights.length && config ? (await headerOf(config)).content : new ArrayBuffer(0);
    const query = new URLSearchParams({
      name: main.name.slice(-120), file_bytes: main.fileBytes, config_bytes: beside.byteLength,
    });
    const body = new Uint8Array(beside.byteLength + main.content.byteLength);
    body.set(new Uint8Array(beside));
    body.set(new Uint8Array(main.content), beside.byteLength);
    const answer = await fetch(`/api/upload?${query}`, { method: "POST", body });
    const found = await answer.json();
    if (!answer.ok) throw new HeaderError(found.message);
    abouts.set(`model?name=${encodeURIComponent(found.model)}`, found);
    const { keep: _, ...rest } = settings[side];
    settings[side] = { ...rest, model: found.model };
    await showSetting();
    await refresh([side]);
  } catch (error) {
    fileProblem(error.message);
    root.dataset.state = "idle";
  }
}

function acceptDrops() {
  const drop = byId("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  byId("file").addEventListener("change", (event) => take([...event.target.files]));
  // The same file, mended, is a change too.
  byId("file").addEventListener("click", (event) => (event.target.value = ""));
}

async function saveReport() {
  const said = byId("said");
  said.textContent = "making the report…";
  try {
    const answer = await fetch("/api/report", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(settings[side]),
    });
    if (!answer.ok) throw new Error((await answer.json()).message);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = "report.html";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    said.textContent = "saved as report.html";
  } catch (error) {
    said.textContent = error.message;
  }
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    byId("said").textContent = "copied";
  } catch {
    byId("said").textContent = location.href;
  }
}

// Plotly takes longer to start than all else, so it comes once there is something to read.
function loadPlotly(redraw) {
  const script = document.createElement("script");
  script.src = "/static/plotly.js";
  script.addEventListener("load", redraw);
  document.head.append(script);
}

async function start() {
  settings = controls.fromAddress(location.search);
  if (!settings[0].model) settings[0] = { ...START };
  settings.forEach((setting) => (setting.machine ??= START.machine));
  const first = refresh(settings.map((_, which) => which));
  const early = Promise.allSettled([about("model", settings[0].model), about("machine", settings[0].machine)]);
  controls.offer(await ask("/api/choices"));
  await early;
  byId("compare").checked = settings.length > 1;
  byId("side-choice").hidden = settings.length < 2;
  const { model, machine } = settings[0];
  await showSetting();
  const replaced = settings[0].model !== model || settings[0].machine !== machine;
  const form = byId("controls");
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("compare").addEventListener("change", compare);
  for (const radio of document.querySelectorAll("[name=side]")) {
    radio.addEventListener("change", () => chooseSide(Number(radio.value)));
  }
  byId("keep-add").addEventListener("click", keep);
  byId("keep-format").addEventListener("keydown", (event) => event.key === "Enter" && keep(event));
  byId("kept").addEventListener("click", removeKept);
  byId("export").addEventListener("click", saveReport);
  byId("copy-link").addEventListener("click", copyLink);
  acceptDrops();
  const redraw = () => results.draw(answers.slice(0, settings.length));
  results.onThemeChange(redraw);
  await first;
  if (replaced) await refresh([0]); // the address named what is not there
  started = true;
  rest();
  root.dataset.readyMs = performance.now().toFixed(0);
  loadPlotly(redraw);
  live.watch();
}

start().catch((error) => {
  byId("problem-0").textContent = `The page could not start: ${error.message}`;
  root.dataset.state = "failed";
});
