// Draws the figures of a report once it is read, and anew when the theme changes or it is printed.
"use strict";

(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [...document.querySelectorAll(".chart")].map((element) => [
    element,
    JSON.parse(document.getElementById(`${element.id}-data`).textContent),
  ]);
  const draw = (isDark) => charts.forEach(([element, figure]) => drawFigure(element, figure, isDark));
  draw(dark.matches);
  dark.addEventListener("change", () => draw(dark.matches));

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
    draw(false);
  });
  window.addEventListener("afterprint", () => {
    closed.forEach((details) => { details.open = false; });
    draw(dark.matches);
  });
})();
