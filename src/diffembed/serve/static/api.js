// Calls to the server that sent this page. Failures become one sentence a reader can act on.

const KEY = "diffembed-key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const keepKey = (key) => sessionStorage.setItem(KEY, key);

export async function call(path, body, signal) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", 0);
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(sentence(answer, response), response.status);
  return answer;
}

function sentence(answer, response) {
  const said = answer?.error?.message ?? answer?.detail;
  if (response.status === 401) return "This server asks for an API key.";
  if (response.status === 429) return "The server is busy. Try again in a moment.";
  if (typeof said !== "string") return `The server answered ${response.status} ${response.statusText}.`;
  const text = said.charAt(0).toUpperCase() + said.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
