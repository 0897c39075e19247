// What is wrong and what was: each with where, since when, what shows more, and what that says when all is well.

import { html, useState } from "./vendor-preact-htm.js";
import { all } from "./store.js";
import { ago, moment, span } from "./words.js";

const LOOK = { critical: { mark: "✕", tone: "bad" }, warning: { mark: "▲", tone: "warn" } };

// Who is told: lasting, and not silenced.
export const pressing = () => all("alert").filter((one) => !one.ended_unix && !one.silenced);

function Alert({ one }) {
  const over = one.ended_unix > 0;
  const { mark, tone } = over ? { mark: "●", tone: "idle" } : LOOK[one.severity] || LOOK.warning;
  const state = over ? `over since ${moment(one.ended_unix)}` : `for ${ago(one.since_unix)}`;
  return html`<article class=${`alert ${one.silenced || over ? "idle" : tone}`} aria-label=${`${one.severity}: ${one.summary}`}>
    <h3><span class=${`mark ${tone}`} aria-hidden="true">${mark}</span> ${one.summary}</h3>
    <p class="meta"><span>${one.severity}</span><span>${one.kind}</span><span>${state}</span>
      ${over ? html`<span>lasted ${span(one.ended_unix - one.since_unix)}</span>` : html`<span>since ${moment(one.since_unix)}</span>`}
      ${one.node && !over ? html`<a href=${`#mesh/${encodeURIComponent(one.node)}`}>node ${one.node}</a>` : null}</p>
    ${one.silenced ? html`<p class="meta">nobody is told: ${one.silenced}</p>` : null}
    ${over ? null : html`<p class="hint">More: <code>${one.command}</code> When all is well it says <q>${one.well}</q>.
      ${one.runbook ? html` What to do: ${one.runbook}` : null}</p>`}
  </article>`;
}

export function Alerts() {
  const [only, setOnly] = useState("now");
  const alerts = all("alert");
  const lasting = alerts.filter((one) => !one.ended_unix)
    .sort((a, b) => (a.severity !== "critical") - (b.severity !== "critical") || b.since_unix - a.since_unix);
  const over = alerts.filter((one) => one.ended_unix).sort((a, b) => b.ended_unix - a.ended_unix);
  const shown = only === "now" ? lasting : over;
  return html`<section class="panel"><div class="bar"><h2>Alerts</h2><div class="choice" role="group" aria-label="Which">${
    [["now", `Lasting (${lasting.length})`], ["over", `Over (${over.length})`]].map(([value, words]) => html`<button
      aria-pressed=${only === value} onClick=${() => setOnly(value)}>${words}</button>`)}</div></div>
    ${shown.length ? shown.map((one) => html`<${Alert} key=${one.name} one=${one} />`)
      : html`<div class="empty"><p>${only === "now" ? "Nothing is wrong." : "Nothing was, as far as this is remembered."}</p>
        <p>Thresholds of your own are documents of the kind AlertRule: <code>bridgectl alerting status</code></p></div>`}</section>`;
}
