// Map: passages of an index in two dimensions, near where their vectors are near; coloured by file.

import { call } from "./api.js";
import { announce, h, plural } from "./dom.js";
import { questionForm, select } from "./form.js";
import { go, link } from "./route.js";
import { failure, nothing, waiting } from "./states.js";

const COLOURS = 8;
let served, ask, out, view;

export function mount(root, state) {
  served = state;
  ask = questionForm({
    placeholder: "Where does a question fall?",
    choices: [select("in", served.indexes.map((index) => [index.name, index.name]), { name: "index", isHidden: served.indexes.length < 2 })],
    onsubmit: (values) => go("map", values),
    verb: "Locate",
  });
  out = h("section", { class: "results", "aria-label": "Map" });
  root.append(h("div", { class: "column" }, ask.form), h("div", { class: "middle" }, out));
  ask.form.querySelector("select").addEventListener("change", () => go("map", ask.values()));
  new ResizeObserver(draw).observe(out);
  window.addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

export async function update(params, signal) {
  const index = served.indexes.find((one) => one.name === params.index) ?? served.indexes[0];
  ask.fill({ ...params, index: index?.name });
  if (!index) {
    out.replaceChildren(nothing("No index is served", "Start the server with --index NAME to see a map of it."));
    return;
  }
  out.setAttribute("aria-busy", "true");
  out.replaceChildren(waiting(5));
  try {
    const answer = await call("page/map", { index: index.name, question: params.q || null, instruction: params.instruction || null }, signal);
    showMap(answer, index, params);
  } catch (error) {
    if (error.name === "AbortError") return;
    out.replaceChildren(failure(error, () => update(params, signal)));
  } finally {
    if (!signal.aborted) out.removeAttribute("aria-busy");
  }
}

function showMap(answer, index, params) {
  const groups = groupsOf(answer.points);
  const canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": `${plural(answer.points.length, "passage")} of ${index.name} in two dimensions` });
  const tip = h("div", { class: "tip", hidden: true });
  view = { answer, groups, canvas, tip, places: [], index, params, lit: null };
  const explained = answer.explained.map((part) => `${Math.round(part * 100)} %`).join(" and ");
  out.replaceChildren(
    h("p", { class: "summary" },
      `${plural(answer.points.length, "passage")} of ${index.num_rows.toLocaleString("en")}; the two directions of most variance, which show ${explained} of it.`),
    h("div", { class: "map" }, canvas, tip),
    h("ul", { class: "keys-of-map" }, groups.map((group, i) =>
      h("li", { onmouseenter: () => lightGroup(group), onmouseleave: () => lightGroup(null) },
        h("i", { class: `dot c${i}` }), `${group.name} `, h("small", {}, String(group.count))))),
  );
  canvas.addEventListener("pointermove", (event) => point(nearest(event)));
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("click", (event) => open(nearest(event)));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" && view.lit !== null) open(view.lit);
    if (!step) return;
    event.preventDefault();
    point(((view.lit ?? -1) + step + answer.points.length) % answer.points.length);
    announce(tip.textContent);
  });
  draw();
}

function groupsOf(points) {
  const counts = new Map();
  for (const { source } of points) counts.set(source, (counts.get(source) ?? 0) + 1);
  const named = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  // The last colour is for all others together, unless there is just one.
  const numNamed = named.length > COLOURS ? COLOURS - 1 : COLOURS;
  const groups = named.slice(0, numNamed).map(([name, count]) => ({ name, count, has: (source) => source === name }));
  const rest = named.slice(numNamed);
  if (rest.length) {
    const names = new Set(rest.map(([name]) => name));
    groups.push({ name: `${rest.length} others`, count: rest.reduce((sum, [, count]) => sum + count, 0), has: (source) => names.has(source) });
  }
  return groups;
}

function draw() {
  if (!view || !out?.contains(view.canvas)) return;
  const { canvas, answer, groups, lit, litGroup } = view;
  const style = getComputedStyle(document.documentElement);
  const colours = Array.from({ length: COLOURS }, (_, i) => style.getPropertyValue(`--c${i}`));
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const all = answer.question ? [...answer.points, answer.question] : answer.points;
  const range = (axis) => [Math.min(...all.map((p) => p[axis])), Math.max(...all.map((p) => p[axis]))];
  const [[left, right], [low, high]] = [range("x"), range("y")];
  const edge = 28;
  // One unit is as long in both directions, so that distances can be read.
  const unit = Math.min((width - 2 * edge) / (right - left || 1), (height - 2 * edge) / (high - low || 1));
  const place = (p) => [width / 2 + (p.x - (left + right) / 2) * unit, height / 2 - (p.y - (low + high) / 2) * unit];
  const size = answer.points.length > 300 ? 3.5 : 6;
  view.places = answer.points.map(place);
  answer.points.forEach((p, i) => {
    const group = groups.findIndex((one) => one.has(p.source));
    const [x, y] = view.places[i];
    pen.globalAlpha = litGroup && groups[group] !== litGroup ? 0.12 : 0.75;
    pen.fillStyle = colours[group];
    pen.beginPath();
    pen.arc(x, y, size * (lit === i ? 1.6 : 1), 0, 7);
    pen.fill();
  });
  pen.globalAlpha = 1;
  if (!answer.question) return;
  const [x, y] = place(answer.question);
  pen.strokeStyle = style.getPropertyValue("--ink");
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(x, y, 8, 0, 7);
  pen.moveTo(x - 13, y);
  pen.lineTo(x + 13, y);
  pen.moveTo(x, y - 13);
  pen.lineTo(x, y + 13);
  pen.stroke();
}

function nearest(event) {
  const box = view.canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let [best, distance] = [null, 18];
  view.places.forEach(([px, py], i) => {
    const far = Math.hypot(px - x, py - y);
    if (far < distance) [best, distance] = [i, far];
  });
  return best;
}

function point(i) {
  if (i === view.lit) return;
  view.lit = i;
  const { tip, canvas } = view;
  tip.hidden = i === null;
  canvas.classList.toggle("is-pointing", i !== null);
  if (i !== null) {
    const passage = view.answer.points[i];
    tip.replaceChildren(h("b", {}, `${passage.source}:${passage.line}`), h("p", {}, passage.text));
    const [x, y] = view.places[i];
    tip.style.setProperty("--x", `${Math.min(Math.max(x, 150), Math.max(canvas.clientWidth - 150, 150))}px`);
    tip.style.setProperty("--y", `${y}px`);
    tip.classList.toggle("is-below", y < canvas.clientHeight / 2);
  }
  draw();
}

function open(i) {
  if (i === null) return;
  const { source, start } = view.answer.points[i];
  go("document", { index: view.index.name, source, at: start, q: view.params.q, instruction: view.params.instruction });
}

function lightGroup(group) {
  view.litGroup = group;
  draw();
}
