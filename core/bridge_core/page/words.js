// Numbers and moments as people read them, and a state's look: always a shape and a word beside the colour.

export const STATES = {
  serving: { mark: "●", tone: "good" },
  ready: { mark: "●", tone: "good" },
  drained: { mark: "◐", tone: "idle" },
  draining: { mark: "◐", tone: "idle" },
  starting: { mark: "◌", tone: "idle" },
  revoked: { mark: "⊘", tone: "idle" },
  away: { mark: "✕", tone: "bad" },
  "no engine": { mark: "▲", tone: "bad" },
};

export const LEVELS = {
  info: { mark: "●", tone: "idle", word: "info" },
  warn: { mark: "▲", tone: "warn", word: "look" },
  bad: { mark: "✕", tone: "bad", word: "bad" },
};

export const look = (state) => STATES[state] || { mark: "▲", tone: "warn" };

export function rate(value) {
  if (!value) return "0";
  return value < 10 ? value.toFixed(value < 1 ? 2 : 1) : Math.round(value).toLocaleString("en");
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function millis(ms) {
  if (ms === undefined || ms < 0) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

export const seconds = (s) => (s ? millis(s * 1000) : "–");
export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");
export const moment = (unix) => new Date(unix * 1000).toLocaleString("en-GB");
export const gib = (bytes, digits = 0) => `${(bytes / 2 ** 30).toFixed(digits)} GiB`;
export const percent = (share) => `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} %`;
export const sum = (list, pick) => list.reduce((total, one) => total + pick(one), 0);
export const ago = (unix) => (unix ? span(Date.now() / 1000 - unix) : "–");
// The fuller of `most` the darker, as a class; and whether some of them failed.
export const shade = (count, most, bad) => `h${count ? Math.ceil((count / most) * 5) : 0}${bad ? " failed" : ""}`;
