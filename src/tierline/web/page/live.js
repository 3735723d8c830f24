// Runs that were started with `tierline run --live`: a list, and each followed as long as it goes.

const byId = (id) => document.getElementById(id);
const EVERY_MS = 2000;
const UNITS = [[1e12, "TB/s"], [1e9, "GB/s"], [1e6, "MB/s"], [1e3, "kB/s"], [1, "B/s"]];
const SIZES = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const sources = new Map();

export function watch() {
  look();
  setInterval(() => document.hidden || look(), EVERY_MS);
}

async function look() {
  let found;
  try {
    found = await (await fetch("/api/runs")).json();
  } catch {
    return;
  }
  byId("live-none").hidden = found.runs.length > 0;
  const wanted = new Set(found.runs.map((run) => run.run));
  for (const panel of [...byId("runs").children]) if (!wanted.has(panel.dataset.run)) panel.remove();
  for (const run of found.runs) {
    if (!panelOf(run.run)) {
      byId("runs").append(newPanel(run));
      show(run);
    }
    if (run.stage !== "done" && run.stage !== "failed" && !sources.has(run.run)) follow(run.run);
  }
}

function follow(run) {
  const source = new EventSource(`/api/runs/${encodeURIComponent(run)}`);
  sources.set(run, source);
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    source.close();
    sources.delete(run);
    setTimeout(look, 200);
  };
}

const panelOf = (run) => byId("runs").querySelector(`[data-run="${CSS.escape(run)}"]`);

function newPanel(run) {
  const panel = document.createElement("article");
  panel.dataset.run = run.run;
  panel.setAttribute("aria-label", `run of ${run.model}`);
  return panel;
}

function show(run) {
  const panel = panelOf(run.run);
  if (!panel) return;
  panel.dataset.stage = run.stage;
  panel.dataset.tokens = run.tokens;
  panel.replaceChildren(
    line("h3", `${run.model}: ${run.stage}, ${run.tokens} of ${run.most_tokens} tokens`),
    line("p", speed(run)),
    ...run.tiers.map((tier) =>
      bar(tier.name, tier.used_bytes, tier.allowed_bytes, (x) => scaled(x, SIZES)),
    ),
    ...run.links.map((link) =>
      bar(link.name, link.bytes_per_s, link.limit_bytes_per_s, (x) => scaled(x, UNITS)),
    ),
  );
}

function speed(run) {
  const now = run.tokens_per_s === null ? "no token yet" : `${run.tokens_per_s.toPrecision(3)} tok/s`;
  const planned = run.predicted_tokens_per_s === null ? "" : `, planned ${run.predicted_tokens_per_s.toPrecision(3)}`;
  const stall = run.stall_fraction === null ? "" : `; compute waits ${Math.round(100 * run.stall_fraction)} % of the time`;
  return now + planned + stall;
}

function line(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function bar(name, value, limit, text) {
  const made = document.createElement("label");
  made.className = "meter";
  const meter = document.createElement("meter");
  meter.max = limit ?? Math.max(value, 1);
  meter.value = value;
  const of = limit === null ? "" : ` of ${text(limit)}`;
  made.append(line("span", name), meter, line("span", text(value) + of));
  return made;
}

function scaled(value, steps) {
  const [factor, unit] = steps.find(([least]) => value >= least) ?? steps[steps.length - 1];
  return `${(value / factor).toFixed(factor === 1 ? 0 : 1)} ${unit}`;
}
