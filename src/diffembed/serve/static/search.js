// Search: one question, one index, passages with their evidence.

import { call } from "./api.js";
import { announce, h, plural } from "./dom.js";
import { legend, modelOf, reflow, tint } from "./evidence.js";
import { modeOptions, questionForm, segments, select, withDefaults } from "./form.js";
import { go, link } from "./route.js";
import { failure, nothing, waiting } from "./states.js";

const COUNT = 10;
let served, ask, out, column;

export function mount(root, state) {
  served = state;
  const modes = [...new Set(served.indexes.flatMap((index) => index.modes))];
  ask = questionForm({
    placeholder: "Ask in your own words",
    choices: [
      select("in", served.indexes.map((index) => [index.name, index.name]), {
        name: "index", isHidden: served.indexes.length < 2,
      }),
      segments("Search by", modeOptions(modes), { name: "mode" }),
    ],
    onsubmit: (values) => go("search", values),
  });
  out = h("section", { class: "results", "aria-label": "Results" });
  column = h("div", { class: "column" }, ask.form, out);
  root.append(column);
}

export async function update(params, signal) {
  const wanted = withDefaults(params, served);
  ask.fill(wanted);
  const index = served.indexes.find((one) => one.name === wanted.index);
  column.classList.toggle("home", !wanted.q);
  if (!index) {
    out.replaceChildren(nothing("No index is served", "Start the server with --index NAME to search; the document view works without."));
    return;
  }
  if (!wanted.q) {
    out.replaceChildren(
      nothing("Ask, and see why", `${plural(index.num_rows, "passage")} of ${index.name}, read by ${index.model}. ` +
        "Words of an answer are tinted by what they add to the similarity beyond most words."),
    );
    ask.question.focus({ preventScroll: true });
    return;
  }
  delete out.dataset.tinted;
  out.setAttribute("aria-busy", "true");
  out.replaceChildren(waiting());
  try {
    await showHits(wanted, index, signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    out.replaceChildren(failure(error, () => update(params, signal)));
  } finally {
    if (!signal.aborted) out.removeAttribute("aria-busy");
  }
}

async function showHits(wanted, index, signal) {
  const answer = await call(
    "page/search",
    { index: index.name, question: wanted.q, instruction: wanted.instruction || null, mode: wanted.mode, k: COUNT },
    signal,
  );
  if (!answer.hits.length) {
    announce("Nothing found");
    const hint = wanted.mode === "bm25" ? "No passage shares a word with the question. Search by meaning finds others." : "The index has no passage for this question.";
    out.replaceChildren(nothing("Nothing found", hint));
    return;
  }
  const model = modelOf(served, index);
  const entries = answer.hits.map((hit) => ({ hit, ...card(hit, wanted) }));
  announce(`${plural(answer.hits.length, "result")} in ${answer.seconds.toFixed(2)} seconds`);
  out.replaceChildren(
    h("div", { class: "summary" },
      h("p", {}, `${plural(answer.hits.length, "passage")} of ${index.num_rows.toLocaleString("en")}, ${Math.max(1, Math.round(answer.seconds * 1000))} ms`),
      model ? legend(model, index) : null),
    h("ol", { class: "hits" }, entries.map((entry) => entry.card)),
  );
  if (model?.explains) {
    await tint(
      entries.map(({ body, hit }) => [body, hit.text]),
      { model: model.name, question: wanted.q, instruction: wanted.instruction },
      signal,
    );
    out.dataset.tinted = "true";
  }
}

function card(hit, wanted) {
  const body = h("p", { class: "passage" }, reflow(hit.text));
  const target = link("document", { index: wanted.index, source: hit.source, at: hit.start, q: wanted.q, instruction: wanted.instruction });
  const element = h(
    "li",
    { class: "hit" },
    h(
      "a",
      { class: "walk", href: target, "aria-label": `${hit.rank}. ${hit.source}, line ${hit.line}` },
      h("span", { class: "rank" }, String(hit.rank)),
      h("span", { class: "file" }, hit.source),
      h("span", { class: "line" }, `line ${hit.line.toLocaleString("en")}`),
      h("span", { class: "score" }, scoreText(hit)),
    ),
    body,
  );
  return { card: element, body };
}

const PART_NAMES = { dense: "meaning", bm25: "words" };

export function scoreText(hit) {
  const parts = Object.entries(hit.parts);
  const main = h("b", {}, hit.score.toFixed(3));
  if (parts.length < 2) return main;
  return [h("small", {}, parts.map(([name, value]) => `${PART_NAMES[name] ?? name} ${value.toFixed(2)}`).join(" \u00b7 ")), main];
}
