// The address is the state: #/view?question=...&index=... Every view can be linked to, and Back works.

const VIEWS = ["search", "compare", "document", "map"];

export function read() {
  const [, path, query] = /^#?\/?([^?]*)\??(.*)$/s.exec(location.hash);
  return { view: VIEWS.includes(path) ? path : "search", params: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(view, params) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

export function go(view, params) {
  const target = link(view, params);
  if (target === (location.hash || "#/search")) window.dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = target;
}
