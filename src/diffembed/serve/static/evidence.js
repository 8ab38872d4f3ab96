// The evidence: words tinted by what they add to the similarity.

import { call } from "./api.js";
import { h } from "./dom.js";

/** Below this strength, as a fraction of the strongest, a word stays untinted, whatever the others add. */
const FAINTEST = 0.25;
/** So few words have no typical one among them. */
const FEW_WORDS = 8;
const BATCH = 4;
const IS_WORD = /[\p{L}\p{N}]/u;

/** What a word adds for each token of it, times the tokens of its text: long words and long passages compare with short. */
const strengthOf = (text, [, share, tokens]) => (share / Math.max(tokens, 1)) * text.num_pooled;

/**
 * From where to where words are tinted. What half of all words add says nothing (a language model gives all texts a
 * common part); above it the most telling ones are full.
 */
function scaleOf(texts) {
  const strengths = texts
    .flatMap((text) => text.pieces.filter(([piece]) => IS_WORD.test(piece)).map((piece) => strengthOf(text, piece)))
    .sort((a, b) => b - a);
  const top = Math.max(strengths[Math.floor(Math.min(strengths.length * 0.01, 3))] ?? 0, 1e-6);
  const median = strengths.length < FEW_WORDS ? 0 : strengths[Math.floor(strengths.length / 2)];
  return { top, floor: Math.max(median, FAINTEST * top) };
}

/** Lines that a file breaks at some width are set as one paragraph; short lines and indented ones are left alone. */
export function reflow(text) {
  return text.replace(/([^\n]{50})\n(?=[\p{L}\p{N}("'\u2018\u201c])/gu, "$1 ");
}

/** Text nodes and marks which, joined, are the passage. */
export function tinted(text, scale) {
  const nodes = [];
  const shown = reflow(text.pieces.map(([piece]) => piece).join("") + text.unread);
  let [plain, position] = ["", 0];
  for (const part of text.pieces) {
    const [read, share] = part;
    const piece = shown.slice(position, position + read.length);
    position += read.length;
    const strength = (strengthOf(text, part) - scale.floor) / (scale.top - scale.floor || 1);
    if (!(strength > 0) || !IS_WORD.test(piece)) {
      plain += piece;
      continue;
    }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(
      h("mark", { "--w": (Math.min(strength, 1) ** 1.5).toFixed(3), title: `adds ${share.toFixed(3)} of ${text.similarity.toFixed(3)}` }, piece),
    );
  }
  if (plain) nodes.push(plain);
  if (text.unread) nodes.push(h("span", { class: "cut", title: "The model did not read this: the text is longer than it reads" }, shown.slice(position)));
  return nodes;
}

/**
 * Tints passages that are on the page already: `entries` are [element, text]. Resolves with the texts explained.
 * onBatch: called with all texts explained so far. isTinted: false asks for similarities only.
 */
export async function tint(entries, { model, question, instruction }, signal, { batch = BATCH, onBatch, isTinted = true } = {}) {
  const found = [];
  let scale = { top: 0, floor: 0 };
  for (let first = 0; first < entries.length; first += batch) {
    const part = entries.slice(first, first + batch);
    const answer = await call(
      "page/evidence",
      { model, question, instruction: instruction || null, texts: part.map(([, text]) => text) },
      signal,
    );
    part.forEach(([element], i) => found.push([element, answer.texts[i]]));
    const texts = found.map(([, text]) => text);
    onBatch?.(texts);
    if (!isTinted) continue;
    // The scale moves with what is found; what is tinted already is tinted anew only when that can be seen.
    const needed = scaleOf(texts);
    const isNew = needed.top > scale.top * 1.05 || Math.abs(needed.floor - scale.floor) > scale.top * 0.05;
    if (isNew) scale = needed;
    for (const [element, text] of isNew ? found : found.slice(first)) element.replaceChildren(...tinted(text, scale));
  }
  return found.map(([, text]) => text);
}

/** What the tint means; without a model, for all that are on the page. A late index read passages inside their documents. */
export function legend(model, index) {
  return h(
    "p",
    { class: "legend" },
    model?.explains !== false
      ? [
          h("span", { class: "ramp", "aria-hidden": "true" },
            [0.1, 0.4, 0.7, 1].map((weight) => h("i", { "--w": weight }))),
          `tint: what a word adds beyond most words${model ? `, exact for ${model.name}` : ""}`,
          index?.is_late ? " and each passage read alone; the scores are of passages read inside their documents" : "",
        ]
      : model.reason,
  );
}

export const modelOf = (served, index) => served.models.find((model) => model.name === index?.model);
