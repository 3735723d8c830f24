// What follows from a setting, put on the page. Every text goes in as text, never as HTML.

const byId = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const FIGURES = ["memory", "roofline", "timeline"];
const LABELS = { memory: "Memory map", roofline: "Roofline", timeline: "Timeline of one token" };

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Shows the answers of all sides: [{plan, bounds, timeline, problems}, ...]. Parts come one after the other.
export function show(answers) {
  const several = answers.length > 1;
  document.body.classList.toggle("several", several);
  for (const side of [0, 1]) showSide(side, answers[side], several);
  showFacts(answers);
}

function showSide(side, answer, several) {
  for (const part of ["verdict", "glance", "commands", "notes", "key", ...FIGURES]) {
    byId(`${part}-${side}`).hidden = !answer;
  }
  const problems = answer?.problems ?? {};
  setText(byId(`problem-${side}`), Object.values(problems).filter(Boolean).join(" "));
  if (problems.plan && !answer.plan) setText(byId(`verdict-${side}`), "No plan yet: change what is wrong");
  if (!answer?.plan) return;
  const { plan, bounds, timeline } = answer;
  const before = several ? `${"AB"[side]}: ` : "";
  const verdict = byId(`verdict-${side}`);
  setText(verdict, before + plan.verdict);
  verdict.dataset.strategy = plan.strategy;
  verdict.classList.toggle("stale", Boolean(problems.plan));
  const title = bounds?.fits ? "To go faster" : "What to change";
  byId(`glance-${side}`).replaceChildren(
    ...(several ? [element("h2", "AB"[side])] : []),
    tiles(plan.facts.filter((fact) => fact.main)),
    ...(bounds?.remedies.length ? [element("h3", title), list(bounds.remedies)] : []),
  );
  const key = bounds?.roofline.key ?? [];
  byId(`key-${side}`).replaceChildren(...key.map((text) => element("li", text)));
  byId(`notes-${side}`).replaceChildren(...plan.notes.map((note) => element("li", note)));
  const commands = [plan.command, timeline?.command].filter(Boolean);
  byId(`commands-${side}`).replaceChildren(...commands.map((text) => command(text)));
}

// A live region speaks when its text changes, so it is left alone where it does not.
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function list(lines) {
  const made = document.createElement("ul");
  made.append(...lines.map((line) => element("li", line)));
  return made;
}

function tiles(facts) {
  const made = element("dl", null, { class: "tiles" });
  for (const fact of facts) {
    const tile = document.createElement("div");
    tile.append(element("dt", fact.label), element("dd", fact.text));
    made.append(tile);
  }
  return made;
}

function command(text) {
  const row = element("div", null, { class: "command" });
  const copy = element("button", "Copy", { type: "button", "aria-label": `copy: ${text}` });
  copy.addEventListener("click", () => navigator.clipboard?.writeText(text));
  row.append(element("code", text, { tabindex: "0" }), copy);
  return row;
}

function showFacts(answers) {
  const several = answers.length > 1;
  const rows = new Map();
  answers.forEach((answer, side) => {
    for (const fact of [...(answer.plan?.facts ?? []), ...(answer.timeline?.facts ?? [])]) {
      if (!rows.has(fact.key)) rows.set(fact.key, { label: fact.label, cells: [] });
      rows.get(fact.key).cells[side] = fact;
    }
  });
  const head = element("tr", null);
  head.append(element("th", "", { scope: "col" }));
  head.append(...answers.map((_, side) => element("th", several ? "AB"[side] : "", { scope: "col" })));
  document.querySelector("#facts thead").replaceChildren(...(several ? [head] : []));
  const made = [...rows].map(([key, { label, cells }]) => {
    const row = element("tr", null);
    row.append(element("th", label, { scope: "row" }));
    answers.forEach((_, side) => row.append(cell(key, side, cells[side])));
    return row;
  });
  document.querySelector("#facts tbody").replaceChildren(...made);
}

function cell(key, side, fact) {
  const made = element("td", fact?.text ?? "–", { "data-key": key, "data-side": side });
  if (fact) made.dataset.value = JSON.stringify(fact.value);
  return made;
}

// Figures are drawn when they are in view or nearly: a change costs what one looks at.
const inView = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      entry.target.inView = entry.isIntersecting;
      if (entry.isIntersecting) drawWanted(entry.target);
    }
  },
  { rootMargin: "300px" },
);

// Draws the figures that are there; the script that draws them may still be on its way. Tells `done` each.
export async function draw(answers, done = () => {}) {
  if (!window.Plotly || !window.drawFigure) return;
  const targets = answers.flatMap((answer, side) =>
    FIGURES.map((name) => {
      const target = byId(`${name}-${side}`);
      target.wanted = { name, figure: figureOf(answer, name) };
      inView.observe(target);
      return target;
    }),
  );
  for (const target of targets.filter((t) => t.inView)) {
    if (!(await drawWanted(target))) continue;
    done(target.wanted.name);
    await new Promise((go) => setTimeout(go)); // what stands already is painted before the next is drawn
  }
}

function figureOf(answer, name) {
  const part = { memory: "plan", roofline: "bounds", timeline: "timeline" }[name];
  return answer[part]?.[name];
}

// Draws what a place is to show, and says whether it was something else before.
async function drawWanted(target) {
  const { name, figure } = target.wanted;
  if (!figure || figure.message) {
    window.Plotly.purge(target);
    target.replaceChildren(...(figure ? [element("p", figure.message, { class: "help" })] : []));
    delete target.dataset.drawn;
    return false;
  }
  const key = JSON.stringify(figure) + dark.matches;
  if (target.drawnKey === key && target.dataset.drawn) return false;
  if (!target.dataset.drawn) target.replaceChildren();
  target.drawnKey = key;
  target.setAttribute("role", "img");
  target.setAttribute("aria-label", `${LABELS[name]}. Its figures are in the table above.`);
  // Its title is in the page's heading and the verdict.
  const { title: _, ...layout } = figure.layout;
  layout.margin = { ...layout.margin, t: 30 };
  layout.title = { text: "", font: {} };
  layout.height = figure.layout.height - 30;
  // Below the axis's name, whatever the height.
  const plot = layout.height - layout.margin.t - layout.margin.b;
  layout.legend = { ...layout.legend, y: -54 / Math.max(plot, 60) };
  await window.drawFigure(target, { ...figure, layout }, dark.matches);
  target.dataset.drawn = "yes";
  return true;
}

export function onThemeChange(redraw) {
  dark.addEventListener("change", redraw);
}
