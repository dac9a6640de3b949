"use strict";
// Draws each element with data-chart from the JSON element of that id.
function fitted(spec, room) {
  // A plain chart shrinks to a narrow screen; a grid keeps its cells and its box scrolls.
  const plain = typeof spec.width === "number" && typeof spec.height === "number";
  if (plain && (spec.layer || spec.mark) && spec.width + 90 > room) {
    return Object.assign({}, spec, {
      width: Math.max(220, room), autosize: { type: "fit-x", contains: "padding" },
    });
  }
  return spec;
}
const drawing = Array.from(document.querySelectorAll("[data-chart]"), (element) => {
  const spec = JSON.parse(document.getElementById(element.dataset.chart).textContent);
  const options = { renderer: "svg", actions: false, loader: { http: {} } };
  return vegaEmbed(element, fitted(spec, element.clientWidth), options);
});
Promise.all(drawing).then(
  () => { document.documentElement.dataset.drawn = String(drawing.length); },
  (error) => { console.error(error); },
);
