// The question, its instruction, and the choices beside it; the same form in every view.

import { h, svg } from "./dom.js";

let count = 0;

export function select(label, options, { name, isHidden = false }) {
  const id = `field-${(count += 1)}`;
  const field = h("select", { id, name }, options.map(([value, text]) => h("option", { value }, text)));
  return h("span", { class: "choice", hidden: isHidden }, h("label", { for: id }, label), field);
}

export function segments(label, options, { name }) {
  return h(
    "fieldset",
    { class: "segments", hidden: options.length < 2 },
    h("legend", { class: "unseen" }, label),
    options.map(([value, text, title]) =>
      h("label", { title }, h("input", { type: "radio", name, value }), h("span", {}, text)),
    ),
  );
}

/** A form whose values become parameters of the address. `fill` puts an address back into the fields. */
export function questionForm({ placeholder, choices, onsubmit, verb = "Search" }) {
  const question = h("input", {
    type: "search", id: "question", name: "q", placeholder, autocomplete: "off", spellcheck: "false",
    enterkeyhint: "search", "aria-label": "Question", maxlength: 2000,
  });
  const id = `field-${(count += 1)}`;
  const instruction = h("input", {
    type: "text", id, name: "instruction", autocomplete: "off", maxlength: 1000,
    placeholder: "for example: find the passage that explains the cause",
  });
  const more = h(
    "details",
    { class: "instruction" },
    h("summary", {}, "Instruction"),
    h("label", { for: id, class: "unseen" }, "Instruction put before the question"),
    instruction,
  );
  const values = () => Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]));
  const submit = (event) => {
    event?.preventDefault();
    onsubmit(values());
  };
  const form = h(
    "form",
    { class: "ask", role: "search", onsubmit: submit },
    h("div", { class: "ask-line" }, lens(), question, h("kbd", { "aria-hidden": "true" }, "/"),
      h("button", { class: "button primary", "aria-label": verb }, lens(), h("span", {}, verb))),
    h("div", { class: "ask-choices" }, choices, more),
  );
  // A choice is an answer by itself: it need not be sent with the button.
  form.addEventListener("change", (event) => {
    if (event.target.matches("select, input[type=radio]") && question.value.trim()) submit();
  });
  const fill = (params) => {
    for (const field of form.elements) {
      if (!field.name) continue;
      const value = params[field.name];
      if (field.type === "radio") field.checked = value === undefined ? field.defaultChecked : field.value === value;
      else if (field.tagName === "SELECT") field.value = value ?? field.options[0]?.value;
      else field.value = value ?? "";
    }
    more.classList.toggle("is-set", instruction.value !== "");
    if (instruction.value) more.open = true;
  };
  return { form, fill, values, question };
}

function lens() {
  return svg(
    "svg",
    { class: "lens", viewBox: "0 0 20 20", "aria-hidden": "true" },
    svg("circle", { cx: 8.5, cy: 8.5, r: 5.75 }),
    svg("path", { d: "M13 13l4.5 4.5" }),
  );
}

export const MODES = {
  dense: ["Meaning", "by the similarity of the vectors"],
  bm25: ["Words", "by the words they share (BM25)"],
  hybrid: ["Both", "both rankings, combined"],
};

export const modeOptions = (modes) => modes.map((mode) => [mode, ...(MODES[mode] ?? [mode, mode])]);

/** `{q, instruction, ...}` of an address, with the first index and mode where it names none. */
export function withDefaults(params, served) {
  const index = served.indexes.find((one) => one.name === params.index) ?? served.indexes[0];
  return { mode: index?.modes[0] ?? "dense", ...params, index: index?.name };
}
