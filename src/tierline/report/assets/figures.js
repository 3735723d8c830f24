// Draws figures made by tierline.report.figures.interactive, in the colours of the page's theme. Needs plotly.
"use strict";

const figureThemes = {
  light: { ink: "#1a1a1a", faint: "#707070", grid: "#dddddd", page: "#ffffff" },
  dark: { ink: "#e8e8e8", faint: "#a0a0a0", grid: "#3a3d42", page: "#16181c" },
};
const colourKeys = new Set(["color", "fgcolor", "bgcolor", "gridcolor", "linecolor"]);

// Returns a copy of `value` in which the words ink, faint, grid and page are colours of the theme.
function themed(value, theme, key = "") {
  if (Array.isArray(value)) return value.map((item) => themed(item, theme));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, item]) => [k, themed(item, theme, k)]));
  }
  return colourKeys.has(key) && Object.hasOwn(theme, value) ? theme[value] : value;
}

// Returns `text` in lines of at most so many letters, broken between words.
function wrapped(text, letters) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (longer.length > letters && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.join("<br>");
}

// Draws `figure` ({data, layout}) into `element`, or draws it anew; returns plotly's promise.
function drawFigure(element, figure, dark) {
  const { data, layout } = themed(figure, figureThemes[dark ? "dark" : "light"]);
  const narrow = element.clientWidth < 520;
  if (narrow) {
    layout.font.size = 10;
    layout.title.font.size = 12;
    Object.assign(layout.title, { xref: "container", text: wrapped(layout.title.text, element.clientWidth / 7) });
  }
  const config = { responsive: true, displayModeBar: false };
  return Plotly.react(element, data, { ...layout, autosize: true }, config);
}
