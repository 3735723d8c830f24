// The controls: what they offer, how they are read into a setting, and a setting put into them.

const byId = (id) => document.getElementById(id);
const fields = () => [...document.querySelectorAll("[data-field]")];
const numbers = () => [...document.querySelectorAll("[data-path]")];
const LISTS = { overrides: "set", keep: "keep" };

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function fill(id, options) {
  byId(id).replaceChildren(...options.map(([value, text]) => option(value, text ?? value)));
}

// Gives every control what it offers; `choices` is what the server knows.
export function offer(choices) {
  fill("model", choices.models.map((m) => [m.name, m.title]));
  fill("machine", choices.machines.map((m) => [m.name, m.title]));
  fill("formats", choices.formats.map((name) => [name]));
  fill("weight-formats", [...choices.formats, ...choices.mixes].map((name) => [name]));
  fill("activation_policy", choices.activation_policies.map((name) => [name]));
  fill("strategy", choices.strategies.map((name) => [name]));
  fill("policy", [["", "the strategy's own"], ...choices.policies.map((name) => [name])]);
  const most = choices.most;
  for (const id of ["context", "prompt_tokens", "new"]) byId(id).max = most.tokens;
  byId("batch").max = most.batch;
  byId("images").max = most.images;
  byId("steps").max = most.steps;
  byId("prefetch_depth").max = most.slots;
}

// Returns what the controls say: only what is not left at its default.
export function read() {
  const setting = {};
  for (const control of fields()) {
    const text = control.value.trim();
    if (text === "" || control.closest("[hidden]") || text === defaultOf(control)) continue;
    setting[control.dataset.field] = control.type === "number" ? Number(text) : text;
  }
  setting.model = byId("model").value;
  setting.machine = byId("machine").value;
  const changed = numbers().filter((n) => n.value.trim() !== "");
  if (changed.length) setting.overrides = changed.map((n) => `${n.dataset.path}=${n.value.trim()}`);
  const kept = [...byId("kept").children].map((item) => item.dataset.kept);
  if (kept.length) setting.keep = kept;
  return setting;
}

function defaultOf(control) {
  return { strategy: "auto", activation_policy: "fused", kv: "bf16", activations: "bf16" }[control.id] ?? "";
}

// Puts a setting into the controls; what a model and a machine bring has to be shown already.
export function write(setting) {
  for (const control of fields()) {
    const given = setting[control.dataset.field];
    control.value = given ?? (control.tagName === "SELECT" ? defaultOf(control) : "");
  }
  const changed = Object.fromEntries((setting.overrides ?? []).map((text) => cut(text)));
  for (const number of numbers()) number.value = changed[number.dataset.path] ?? "";
  byId("numbers-details").open ||= Object.keys(changed).length > 0;
  byId("kept").replaceChildren(...(setting.keep ?? []).map(keptItem));
}

function cut(text) {
  const at = text.indexOf("=");
  return [text.slice(0, at), text.slice(at + 1)];
}

export function keptItem(kept) {
  const item = document.createElement("li");
  item.dataset.kept = kept;
  const remove = document.createElement("button");
  remove.type = "button";
  remove.className = "remove";
  remove.textContent = "remove";
  remove.setAttribute("aria-label", `keep ${kept} no longer`);
  item.append(`${kept} `, remove);
  return item;
}

// Shows the controls that mean something for a model; `about` is what the server says of it.
export function showModel(about) {
  if (about.model.startsWith("upload:") && ![...byId("model").options].some((o) => o.value === about.model)) {
    byId("model").append(option(about.model, `${about.name} (dropped: ${about.source})`));
  }
  fill("keep-class", about.selectors.map((name) => [name]));
  byId("images-pair").hidden = !about.sees;
  byId("steps-pair").hidden = !about.steps;
  byId("steps").placeholder = about.steps ?? "";
}

// Shows the numbers of a machine, each with an input to set another one.
export function showMachine(about) {
  byId("numbers").replaceChildren(
    ...about.numbers.map((number) => {
      const pair = document.createElement("div");
      pair.className = "pair";
      const label = document.createElement("label");
      label.htmlFor = `number-${number.path}`;
      label.textContent = number.path;
      label.title = number.kind ? `${number.kind}: ${number.source}` : "not known";
      const input = document.createElement("input");
      input.id = label.htmlFor;
      input.dataset.path = number.path;
      input.placeholder = number.text ?? "not known";
      input.spellcheck = false;
      pair.append(label, input);
      return pair;
    }),
  );
}

// The address keeps what is set: `model=...&set=...`, the second setting's with `b.` before.
export function toAddress(settings) {
  const query = new URLSearchParams();
  settings.forEach((setting, side) => {
    const before = side ? "b." : "";
    for (const [name, value] of Object.entries(setting)) {
      if (name in LISTS) for (const one of value) query.append(before + LISTS[name], one);
      else query.append(before + name, value);
    }
  });
  return query.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
}

export function fromAddress(text) {
  const found = [{}, {}];
  const known = new Set(fields().map((control) => control.dataset.field));
  const names = Object.fromEntries(Object.entries(LISTS).map(([name, short]) => [short, name]));
  for (const [key, value] of new URLSearchParams(text)) {
    const side = key.startsWith("b.") ? 1 : 0;
    const name = side ? key.slice(2) : key;
    if (name in names) (found[side][names[name]] ??= []).push(value);
    else if (!known.has(name)) continue;
    else if (byId(name).type !== "number") found[side][name] = value;
    else if (Number.isFinite(Number(value))) found[side][name] = Number(value);
  }
  return found.filter((setting, side) => side === 0 || setting.model);
}
