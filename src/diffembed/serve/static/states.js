// What a view shows when it has no results: waiting, nothing, an error.

import { announce, h } from "./dom.js";

export function waiting(count = 4) {
  const bars = (index) => ["wide", "wide", ["half", "third", "most"][index % 3]].map((name) => h("i", { class: name }));
  return h(
    "div",
    { class: "waiting", "aria-hidden": "true" },
    Array.from({ length: count }, (_, index) => h("div", { class: "ghost" }, bars(index))),
  );
}

export function nothing(title, text) {
  return h("div", { class: "nothing" }, h("h2", {}, title), h("p", {}, text));
}

export function failure(error, retry) {
  announce("");
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("h2", {}, "That did not work"),
    h("p", {}, error.message),
    // The same bad request would fail again.
    retry && !(error.status >= 400 && error.status < 429) && h("button", { type: "button", class: "button", onclick: retry }, "Try again"),
  );
}
