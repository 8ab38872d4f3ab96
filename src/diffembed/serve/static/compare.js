// Compare: one question, two indexes side by side, and how ranks moved between them.

import { call } from "./api.js";
import { announce, h, placeOf, plural, svg } from "./dom.js";
import { legend, modelOf, reflow, tint } from "./evidence.js";
import { modeOptions, questionForm, segments, select } from "./form.js";
import { go, link } from "./route.js";
import { failure, nothing, waiting } from "./states.js";

const COUNT = 10;
let served, ask, out;

export function mount(root, state) {
  served = state;
  const names = served.indexes.map((index) => [index.name, index.name]);
  const modes = [...new Set(served.indexes.flatMap((index) => index.modes))];
  ask = questionForm({
    placeholder: "One question, two readers",
    choices: [
      select("left", names, { name: "left" }),
      select("right", names, { name: "right" }),
      segments("Search by", modeOptions(modes), { name: "mode" }),
    ],
    onsubmit: (values) => go("compare", values),
    verb: "Compare",
  });
  out = h("section", { class: "results", "aria-label": "Comparison" });
  root.append(h("div", { class: "column" }, ask.form), h("div", { class: "broad" }, out));
  new ResizeObserver(drawLines).observe(out);
}

export async function update(params, signal) {
  const [first, second] = served.indexes;
  const wanted = { mode: "dense", ...params, left: params.left ?? first?.name, right: params.right ?? second?.name ?? first?.name };
  ask.fill(wanted);
  if (served.indexes.length < 2) {
    out.replaceChildren(nothing("Two indexes are needed", "Serve a second index of the same texts, made with another model: --index A --index B."));
    return;
  }
  if (!wanted.q) {
    out.replaceChildren(nothing("Where do two models differ?", "Ask one question; passages that both find are joined, and what only one finds is marked."));
    ask.question.focus({ preventScroll: true });
    return;
  }
  delete out.dataset.tinted;
  out.setAttribute("aria-busy", "true");
  out.replaceChildren(h("div", { class: "pair" }, waiting(5), h("div"), waiting(5)));
  try {
    await showPair(wanted, signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    out.replaceChildren(failure(error, () => update(params, signal)));
  } finally {
    if (!signal.aborted) out.removeAttribute("aria-busy");
  }
}

async function showPair(wanted, signal) {
  const sides = await Promise.all(["left", "right"].map(async (side) => {
    const index = served.indexes.find((one) => one.name === wanted[side]);
    const answer = await call(
      "page/search",
      { index: wanted[side], question: wanted.q, instruction: wanted.instruction || null, mode: wanted.mode, k: COUNT },
      signal,
    );
    return { side, index, model: modelOf(served, index), hits: answer.hits };
  }));
  const ranks = sides.map(({ hits }) => new Map(hits.map((hit) => [placeOf(hit), hit.rank])));
  const shared = sides[0].hits.filter((hit) => ranks[1].has(placeOf(hit)));
  const said = sentence(sides, shared, ranks);
  announce(said);
  const columns = sides.map((side, i) => column(side, ranks[1 - i], wanted));
  out.replaceChildren(
    h("div", { class: "summary" }, h("p", {}, said), legend()),
    h("div", { class: "pair" }, columns[0].element, svg("svg", { class: "moves", "aria-hidden": "true" }), columns[1].element),
  );
  drawLines();
  for (const [i, { model }] of sides.entries()) {
    if (!model?.explains) continue;
    await tint(columns[i].entries, { model: model.name, question: wanted.q, instruction: wanted.instruction }, signal);
  }
  out.dataset.tinted = "true";
}

function sentence(sides, shared, ranks) {
  const count = Math.max(sides[0].hits.length, sides[1].hits.length);
  if (!shared.length) return "No passage is found by both.";
  const moves = shared.map((hit) => Math.abs(ranks[0].get(placeOf(hit)) - ranks[1].get(placeOf(hit))));
  const farthest = Math.max(...moves);
  return `${shared.length} of ${plural(count, "passage")} found by both; ` +
    (farthest ? `the farthest moved ${plural(farthest, "place")}.` : "in the same order.");
}

function column({ index, model, hits, side }, others, wanted) {
  const entries = [];
  const rows = hits.map((hit) => {
    const key = placeOf(hit);
    const body = h("p", { class: "passage brief" }, reflow(hit.text));
    entries.push([body, hit.text]);
    return h(
      "li",
      { class: "hit", "data-place": key, onmouseenter: () => light(key), onmouseleave: () => light(null) },
      h(
        "a",
        {
          class: "walk",
          onfocus: () => light(key),
          onblur: () => light(null),
          href: link("document", { index: index.name, source: hit.source, at: hit.start, q: wanted.q, instruction: wanted.instruction }),
          "aria-label": `${hit.rank}. ${hit.source}, line ${hit.line}, ${moveWords(hit.rank, others.get(key))}`,
        },
        h("span", { class: "rank" }, String(hit.rank)),
        h("span", { class: "file" }, hit.source),
        h("span", { class: "line" }, `:${hit.line}`),
        badge(hit.rank, others.get(key)),
        h("span", { class: "score" }, h("b", {}, hit.score.toFixed(3))),
      ),
      body,
    );
  });
  const facts = model ? `${model.attention}, ${model.pooling}` : "";
  const element = h(
    "section",
    { class: `side ${side}`, "aria-label": `${side}: ${index.name}` },
    h("h2", {}, index.name, h("small", {}, [index.name.includes(index.model) ? "" : index.model, facts].filter(Boolean).join(", "))),
    model && !model.explains && h("p", { class: "legend" }, model.reason),
    h("ol", { class: "hits" }, rows),
  );
  return { element, entries };
}

function moveWords(rank, other) {
  if (other === undefined) return "only here";
  return other === rank ? "same rank" : `rank ${other} on the other side`;
}

/** How this side ranks the passage compared with the other one. */
function badge(rank, other) {
  if (other === undefined) return h("span", { class: "badge only" }, "only here");
  const move = other - rank;
  if (move === 0) return h("span", { class: "badge same" }, "=");
  return h("span", { class: `badge ${move > 0 ? "up" : "down"}`, title: moveWords(rank, other) }, `${move > 0 ? "\u2191" : "\u2193"}${Math.abs(move)}`);
}

function light(key) {
  for (const element of out.querySelectorAll("[data-place]"))
    element.classList.toggle("is-lit", key !== null && element.dataset.place === key);
}

function drawLines() {
  const canvas = out?.querySelector("svg.moves");
  if (!canvas) return;
  const box = canvas.getBoundingClientRect();
  canvas.replaceChildren();
  if (box.width < 20) return;
  const middle = (item) => {
    const head = item.querySelector("a").getBoundingClientRect();
    return head.top + head.height / 2 - box.top;
  };
  const right = new Map([...out.querySelectorAll(".side.right .hit")].map((item) => [item.dataset.place, item]));
  for (const item of out.querySelectorAll(".side.left .hit")) {
    const twin = right.get(item.dataset.place);
    if (!twin) continue;
    const [from, to, width] = [middle(item), middle(twin), box.width];
    canvas.append(
      svg("path", {
        d: `M0 ${from} C${width * 0.5} ${from} ${width * 0.5} ${to} ${width} ${to}`,
        "data-place": item.dataset.place,
        class: Math.abs(from - to) < 2 ? "level" : "moved",
      }),
    );
  }
}
