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

// Draws `figure` ({data, layout}) into `element`, or draws it anew; returns plotly's promise.
function drawFigure(element, figure, dark) {
  const { data, layout } = themed(figure, figureThemes[dark ? "dark" : "light"]);
  const narrow = element.clientWidth < 520;
  if (narrow) {
    layout.font.size = 10;
    layout.title.font.size = 12;
  }
  const config = { responsive: true, displayModeBar: false };
  return Plotly.react(element, data, { ...layout, autosize: true }, config);
}
