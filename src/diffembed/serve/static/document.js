// Document: a long text as a strip. What the whole text gives as one vector, where reading stops, and its passages.

import { call } from "./api.js";
import { announce, h, plural, svg } from "./dom.js";
import { legend, modelOf, reflow, tint } from "./evidence.js";
import { questionForm, select } from "./form.js";
import { go, link } from "./route.js";
import { failure, nothing, waiting } from "./states.js";

const WIDTH = 1000;
const WAVE = 44;
const BAND = 18;
const GAP = 6;
let served, ask, out, own, source, sources, reading;
/** A text of the reader's own stays in this tab: it is too long for an address and nobody else's business. */
let ownText = "";

export function mount(root, state) {
  served = state;
  source = h("input", {
    type: "text", id: "source", name: "source", list: "sources", autocomplete: "off", placeholder: "a file of the index",
  });
  sources = h("datalist", { id: "sources" });
  ask = questionForm({
    placeholder: "What should the document be read for?",
    choices: [
      select("in", served.indexes.map((index) => [index.name, index.name]), {
        name: "index", isHidden: served.indexes.length < 2,
      }),
      h("span", { class: "choice wide-choice", hidden: served.indexes.length === 0 }, h("label", { for: "source" }, "file"), source, sources),
    ],
    onsubmit: (values) => go("document", values),
    verb: "Read",
  });
  source.addEventListener("change", () => source.value && go("document", ask.values()));
  own = ownForm();
  out = h("section", { class: "results", "aria-label": "Document" });
  root.append(h("div", { class: "column" }, ask.form, own), h("div", { class: "column reader" }, out));
}

function ownForm() {
  const text = h("textarea", { id: "own", rows: 7, maxlength: 200000, spellcheck: "false", required: true });
  const model = select("read by", served.models.map((one) => [one.name, one.name]), { name: "model", isHidden: served.models.length < 2 });
  const submit = (event) => {
    event.preventDefault();
    ownText = text.value;
    own.open = false;
    go("document", { own: "1", model: model.querySelector("select").value, q: ask.values().q, instruction: ask.values().instruction });
  };
  return h(
    "details",
    { class: "own" },
    h("summary", {}, "Read a text of your own"),
    h("form", { onsubmit: submit },
      h("label", { for: "own" }, "It is sent to this server only, and not kept."),
      text,
      h("div", { class: "row" }, model, h("button", { class: "button" }, "Read this text"))),
  );
}

export async function update(params, signal) {
  const index = served.indexes.find((one) => one.name === params.index) ?? served.indexes[0];
  ask.fill({ ...params, index: index?.name });
  stopFollowing();
  const isOwn = params.own && ownText;
  if (!isOwn && !params.source) return showChoices(index, params, signal);
  out.setAttribute("aria-busy", "true");
  out.replaceChildren(waiting(5));
  try {
    const place = isOwn ? { text: ownText } : { index: index.name, source: params.source };
    const found = await call("page/document", place, signal);
    const model = isOwn ? served.models.find((one) => one.name === params.model) ?? served.models[0] : modelOf(served, index);
    await showDocument(found, place, { model, index: isOwn ? undefined : index }, params, signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    out.replaceChildren(failure(error, () => update(params, signal)));
  } finally {
    if (!signal.aborted) out.removeAttribute("aria-busy");
  }
}

async function showChoices(index, params, signal) {
  out.replaceChildren(nothing("A document from end to end", "Choose a file, open a search result, or paste a text of your own."));
  own.open = served.indexes.length === 0;
  if (!index) return;
  try {
    const { sources: names } = await call(`page/sources?index=${encodeURIComponent(index.name)}`, undefined, signal);
    sources.replaceChildren(...names.map((one) => h("option", { value: one.source })));
    out.append(
      h("ul", { class: "files" }, names.slice(0, 40).map((one) =>
        h("li", {}, h("a", { class: "walk", href: link("document", { ...params, index: index.name, source: one.source }) },
          h("span", { class: "file" }, one.source), h("span", { class: "line" }, plural(one.num_passages, "passage")))))),
    );
  } catch (error) {
    if (error.name !== "AbortError") out.append(failure(error));
  }
}

async function showDocument(found, place, { model, index }, params, signal) {
  const chunks = found.passages.map((passage) => chunkOf(passage));
  reading = { found, chunks, params, place, strip: makeStrip(found, chunks) };
  const captions = h("div", { class: "captions" });
  out.replaceChildren(
    h("header", { class: "document-head" },
      h("h1", {}, found.file),
      h("p", {}, `${plural(found.length, "character")}, ${plural(chunks.length, "passage")}`),
      params.q && model ? legend(model, index) : null),
    h("div", { class: "strip" }, reading.strip.element, captions),
    h("div", { class: "text" }, chunks.map((chunk) => chunk.element)),
  );
  follow();
  const at = params.at === undefined ? 0 : chunkAt(Number(params.at));
  if (params.at !== undefined) scrollTo(at, "instant");
  if (!params.q || !model) {
    captions.replaceChildren(h("p", {}, "Ask a question to see what the text contributes to it."));
    return;
  }
  const asked = { model: model.name, question: params.q, instruction: params.instruction || null };
  const whole = await call("page/strip", { ...place, ...asked }, signal);
  reading.strip.showWhole(whole);
  captions.replaceChildren(...wholeCaption(whole, model));
  announce(captions.textContent);
  const onBatch = (texts) => {
    texts.forEach((text, i) => (chunks[i].similarity = text.similarity));
    reading.strip.showPassages();
  };
  await tint(chunks.map((chunk) => [chunk.body, chunk.text]), asked, signal, { batch: 12, onBatch, isTinted: model.explains });
  const best = chunks.reduce((one, other) => (other.similarity > one.similarity ? other : one));
  captions.append(
    h("p", {}, h("b", {}, "passages"), ` read one by one, the best has similarity ${best.similarity.toFixed(3)}: `,
      h("button", { type: "button", class: "link", onclick: () => scrollTo(chunks.indexOf(best), "smooth") }, `line ${best.line}`)),
  );
  out.dataset.tinted = "true";
}

function wholeCaption(whole, model) {
  const read = whole.is_truncated
    ? [`; reading stops after ${whole.num_chars_read.toLocaleString("en")} of ${plural(whole.length, "character")} (${model.max_tokens.toLocaleString("en")} tokens)`]
    : ["; all of it is read"];
  return [h("p", {}, h("b", {}, "whole text"), ` as one vector: similarity ${whole.similarity.toFixed(3)}`, read)];
}

function chunkOf(passage) {
  const body = h("p", { class: "passage" }, reflow(passage.text));
  const score = h("span", { class: "score" });
  const element = h("section", { class: "chunk", tabindex: "-1", "aria-label": `line ${passage.line}` },
    h("div", { class: "margin" }, h("span", {}, passage.line.toLocaleString("en")), score), body);
  return { ...passage, element, body, score, similarity: null };
}

function chunkAt(position) {
  const { chunks } = reading;
  const next = chunks.findIndex((chunk) => chunk.stop > position);
  return next < 0 ? chunks.length - 1 : next;
}

function scrollTo(i, behavior) {
  const { chunks, params } = reading;
  const element = chunks[i].element;
  const top = element.getBoundingClientRect().top + window.scrollY - stickyHeight() - 16;
  window.scrollTo({ top, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : behavior });
  element.classList.remove("is-found");
  void element.offsetWidth;
  element.classList.add("is-found");
  history.replaceState(null, "", link("document", { ...params, at: chunks[i].start }));
  // The last passages cannot come to the top, and are the place all the same.
  reading.chosen = i;
  showPlace();
}

const stickyHeight = () => out.querySelector(".strip")?.offsetHeight ?? 0;

// The strip -----------------------------------------------------------------

function makeStrip(found, chunks) {
  const height = WAVE + GAP + BAND;
  const x = (position) => (position / Math.max(found.length, 1)) * WIDTH;
  const wave = svg("g", { class: "wave" });
  const unread = svg("g", { class: "unread" });
  const band = svg("g", { class: "band" });
  const view = svg("rect", { class: "view", y: 0, height, x: 0, width: 0 });
  const boxes = chunks.map((chunk) =>
    svg("rect", { x: x(chunk.start), y: WAVE + GAP, width: Math.max(x(chunk.stop) - x(chunk.start), 0.5), height: BAND, "--w": 0 }));
  band.append(...boxes);
  const element = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", tabindex: 0, role: "slider",
      "aria-label": "Place in the document", "aria-valuemin": 1, "aria-valuemax": chunks.length, "aria-valuenow": 1,
    },
    svg("defs", {}, svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "hatch-line" }))),
    svg("line", { class: "base", x1: 0, x2: WIDTH, y1: WAVE, y2: WAVE }),
    unread, wave, band, view,
  );
  const goTo = (i) => scrollTo(Math.min(Math.max(i, 0), chunks.length - 1), "smooth");
  const goToEvent = (event) => {
    const box = element.getBoundingClientRect();
    goTo(chunkAt(((event.clientX - box.left) / box.width) * found.length));
  };
  element.addEventListener("click", goToEvent);
  element.addEventListener("keydown", (event) => {
    const now = Number(element.getAttribute("aria-valuenow")) - 1;
    const target = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: chunks.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    goTo(target);
  });

  function showWhole(whole) {
    const highest = Math.max(...whole.bins.map(Math.abs), 1e-9);
    const step = WIDTH / whole.bins.length;
    wave.replaceChildren(...whole.bins.map((share, i) => {
      const size = Math.max((Math.abs(share) / highest) * WAVE, share ? 0.75 : 0);
      return svg("rect", { x: i * step, y: WAVE - size, width: step * 0.72, height: size, class: share < 0 ? "against" : "for" });
    }));
    if (!whole.is_truncated) return;
    const from = x(whole.num_chars_read);
    unread.replaceChildren(
      svg("rect", { x: from, y: 0, width: WIDTH - from, height: WAVE, fill: "url(#hatch)" }),
      svg("line", { class: "stop", x1: from, x2: from, y1: 0, y2: WAVE }),
      svg("title", {}, "not read: the text is longer than the model reads"),
    );
  }

  function showPassages() {
    const known = chunks.filter((chunk) => chunk.similarity !== null).map((chunk) => chunk.similarity);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    chunks.forEach((chunk, i) => {
      if (chunk.similarity === null) return;
      boxes[i].style.setProperty("--w", ((chunk.similarity - low) / Math.max(high - low, 1e-6)).toFixed(3));
      chunk.score.textContent = chunk.similarity.toFixed(3);
    });
  }

  function showView(first, last, now) {
    view.setAttribute("x", x(first));
    view.setAttribute("width", Math.max(x(last) - x(first), 2));
    element.setAttribute("aria-valuenow", now + 1);
    element.setAttribute("aria-valuetext", `passage ${now + 1} of ${chunks.length}, line ${chunks[now].line}`);
  }
  return { element, showWhole, showPassages, showView };
}

function showPlace() {
  if (!reading || !out.contains(reading.strip.element)) return;
  const top = stickyHeight() + 24;
  const visible = reading.chunks.filter(({ element }) => {
    const box = element.getBoundingClientRect();
    return box.bottom > top && box.top < innerHeight;
  });
  if (visible.length) reading.strip.showView(visible[0].start, visible.at(-1).stop, reading.chosen ?? reading.chunks.indexOf(visible[0]));
}

/** Whoever scrolls by hand goes on from what is seen. */
function forgetChoice() {
  reading.chosen = null;
}

const HANDS = ["wheel", "touchmove", "pointerdown"];

function follow() {
  for (const name of HANDS) window.addEventListener(name, forgetChoice, { passive: true });
  window.addEventListener("scroll", showPlace, { passive: true });
  window.addEventListener("resize", showPlace);
  showPlace();
}

function stopFollowing() {
  for (const name of HANDS) window.removeEventListener(name, forgetChoice);
  window.removeEventListener("scroll", showPlace);
  window.removeEventListener("resize", showPlace);
  delete out.dataset.tinted;
}
