// What the page knows: pieces of the picture by their key, what happened, and whether anybody is there.
// One object; views are drawn anew when it says so, at most once a frame.

const SILENT_MS = 15000; // three pings
const EVENTS_KEPT = 500;

export const store = { parts: new Map(), events: [], link: "opening", heardAt: 0, version: 0 };

const listeners = new Set();
let due = false;

export function watch(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function changed() {
  store.version++;
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const listener of listeners) listener(store.version);
  });
}

function take(kind, data) {
  if (kind === "whole") {
    store.parts = new Map(Object.entries(data.parts));
    store.events = [];
  } else {
    for (const [key, part] of Object.entries(data.parts)) store.parts.set(key, part);
    for (const key of data.removed) store.parts.delete(key);
  }
  const known = new Set(store.events.map((one) => one.id));
  store.events = store.events.concat(data.events.filter((one) => !known.has(one.id))).slice(-EVENTS_KEPT);
}

let source = null;

function listen() {
  const next = new EventSource("api/stream");
  const heard = () => {
    store.heardAt = Date.now();
    if (store.link !== "live") { store.link = "live"; changed(); }
  };
  for (const kind of ["whole", "change"]) {
    next.addEventListener(kind, (message) => {
      heard();
      take(kind, JSON.parse(message.data));
      changed();
    });
  }
  next.addEventListener("ping", heard);
  next.onerror = () => { store.link = "away"; changed(); };
  source = next;
}

export function open() {
  listen();
  setInterval(() => {
    if (store.link === "live" && Date.now() - store.heardAt > SILENT_MS) { store.link = "away"; changed(); }
    // A browser gives up where the answer is an error: it is asked anew then.
    if (source.readyState === EventSource.CLOSED) listen();
  }, 3000);
}

export const order = new Intl.Collator("en", { numeric: true });

export function all(kind) {
  const prefix = kind + "/";
  const found = [];
  for (const [key, part] of store.parts) if (key.startsWith(prefix)) found.push(part);
  return found.sort((a, b) => order.compare(a.name, b.name));
}

export const registry = () => store.parts.get("registry") || null;

export async function fetchJson(path) {
  const answer = await fetch(path, { cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || `the registry answered ${answer.status}`);
  return body;
}
