"use strict";
/* The map of the cells on a canvas: colours, enlarging, and what lies under the pointer. */
(async () => {
  const place = document.getElementById("scatter");
  if (!place) return;
  const canvas = place.querySelector("canvas");
  const draw = canvas.getContext("2d");
  const choice = document.getElementById("colour");
  const under = document.getElementById("under");
  const legend = document.getElementById("legend");
  const answer = await fetch(place.dataset.points);
  if (!draw || !answer.ok) return;
  const points = await answer.json();
  const hint = under.textContent;
  place.hidden = false;
  document.getElementById("pictures").hidden = true;
  const view = { scale: 1, x: 0, y: 0 };
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

  function ramp(percent) {
    if (percent < 0) return "#bbbbbb";
    const at = (percent / 100) * (RAMP.length - 1);
    const low = Math.min(Math.floor(at), RAMP.length - 2);
    const mixed = RAMP[low].map((v, i) => Math.round(v + (RAMP[low + 1][i] - v) * (at - low)));
    return `rgb(${mixed.join(",")})`;
  }
  let gene = null;
  async function takeGene(name) {
    const found = await fetch(`${place.dataset.genes}/${encodeURIComponent(name)}`);
    if (!found.ok) return false;
    gene = await found.json();
    points.gene = gene.cells;
    let option = choice.querySelector('option[value="gene"]');
    if (!option) {
      option = document.createElement("option");
      option.value = "gene";
      choice.append(option);
    }
    option.textContent = gene.gene;
    choice.value = "gene";
    return true;
  }
  if (place.dataset.gene) await takeGene(place.dataset.gene);
  const form = document.getElementById("by-gene");
  if (form) {
    const box = form.querySelector("input[type=search]");
    const names = document.getElementById("gene-names");
    let waits = 0;
    box.addEventListener("input", () => {
      clearTimeout(waits);
      waits = setTimeout(async () => {
        const found = await fetch(`${place.dataset.genes}?search=${encodeURIComponent(box.value)}`);
        if (!found.ok) return;
        names.replaceChildren(...(await found.json()).map((text) => {
          const option = document.createElement("option");
          option.value = text;
          return option;
        }));
      }, 150);
    });
    form.addEventListener("submit", async (event) => {
      if (!box.value) return;
      event.preventDefault();
      if (await takeGene(box.value)) { paint(); name(); } else form.submit();
    });
  }
  const colour = (i) => choice.value === "label" ? points.colours[points.label[i]] : ramp(points[choice.value][i]);
  const margin = 12;
  const toX = (v) => (margin + (v / 10000) * (canvas.width - 2 * margin)) * view.scale + view.x;
  const toY = (v) => (margin + (1 - v / 10000) * (canvas.height - 2 * margin)) * view.scale + view.y;
  const radius = () => Math.max(1.2, Math.min(4, 250 / Math.sqrt(points.x.length))) * Math.sqrt(view.scale);

  function paint() {
    draw.fillStyle = "#ffffff";
    draw.fillRect(0, 0, canvas.width, canvas.height);
    const size = radius();
    // Cells with much of a gene lie on those with little.
    const order = points.x.map((_, i) => i);
    if (choice.value === "gene") order.sort((a, b) => points.gene[a] - points.gene[b]);
    for (const i of order) {
      draw.fillStyle = colour(i);
      draw.fillRect(toX(points.x[i]) - size, toY(points.y[i]) - size, 2 * size, 2 * size);
    }
  }
  function name() {
    legend.replaceChildren();
    const rows = choice.value === "label"
      ? points.labels.map((label, i) => [label, points.colours[i]])
      : [0, 25, 50, 75, 100].map((v) => [((v / 100) * (choice.value === "gene" ? gene.most : 1)).toFixed(2), ramp(v)]);
    for (const [text, fill] of rows) {
      const item = document.createElement("li");
      const box = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      box.setAttribute("viewBox", "0 0 10 10");
      box.setAttribute("class", "swatch");
      box.setAttribute("aria-hidden", "true");
      const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      square.setAttribute("width", "10");
      square.setAttribute("height", "10");
      square.setAttribute("fill", fill);
      box.append(square);
      item.append(box, text);
      legend.append(item);
    }
  }
  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  }
  function zoom(factor, x, y) {
    const scale = Math.min(Math.max(view.scale * factor, 1), 40);
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    if (scale === 1) { view.x = 0; view.y = 0; }
    paint();
  }
  choice.addEventListener("change", () => { paint(); name(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(view, { scale: 1, x: 0, y: 0 }); paint(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (step) { view.x += step[0]; view.y += step[1]; paint(); }
    else if (event.key === "+") zoom(1.25, canvas.width / 2, canvas.height / 2);
    else if (event.key === "-") zoom(0.8, canvas.width / 2, canvas.height / 2);
    else return;
    event.preventDefault();
  });
  let held = null, begun = null, pointed = -1;
  canvas.addEventListener("pointerdown", (event) => { held = at(event); begun = held; });
  canvas.addEventListener("click", (event) => {
    const [x, y] = at(event);
    const still = begun && Math.hypot(x - begun[0], y - begun[1]) < 5;
    if (still && pointed >= 0) location.href = place.dataset.cells + points.row[pointed];
  });
  addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (held) {
      view.x += x - held[0];
      view.y += y - held[1];
      held = [x, y];
      paint();
      return;
    }
    let best = -1, near = 100;
    for (let i = 0; i < points.x.length; i += 1) {
      const far = (toX(points.x[i]) - x) ** 2 + (toY(points.y[i]) - y) ** 2;
      if (far < near) { near = far; best = i; }
    }
    pointed = best;
    under.textContent = best < 0 ? hint
      : `${points.labels[points.label[best]]}, confidence ${(points.confidence[best] / 100).toFixed(2)}, novelty ${(points.novelty[best] / 100).toFixed(2)}`;
  });
  paint();
  name();
})();
