// What is wrong and what was: each with where, since when, what shows more, and what that says when all is well.

import { html, useState } from "./vendor-preact-htm.js";
import { Acts, mayAct } from "./session.js";
import { all } from "./store.js";
import { ago, moment, span } from "./words.js";

const LOOK = { critical: { mark: "✕", tone: "bad" }, warning: { mark: "▲", tone: "warn" } };

// Who is told: lasting, and not silenced.
export const pressing = () => all("alert").filter((one) => !one.ended_unix && !one.silenced);

// Labels as matchers, with quotes, so that a name means itself.
const matchers = (one) => [["alertname", one.kind], ["node", one.node], ["instance", one.instance], ["of", one.of]]
  .filter(([, value]) => value).map(([name, value]) => `${name}="${value.replace(/[\\"]/g, "\\$&")}"`);

// What became of an act stays to be read: the buttons go when the alert is silent, the line beside them does not.
function Hush({ one }) {
  const [reason, setReason] = useState("");
  const [hours, setHours] = useState("2");
  if (!mayAct() || one.ended_unix) return null;
  const why = reason.trim();
  return html`<div class="hush">${one.silenced ? null : html`<details><summary>Silence</summary>
      <label>Why <input value=${reason} maxlength="256" onInput=${(event) => setReason(event.target.value)} /></label>
      <label>For <select value=${hours} onChange=${(event) => setHours(event.target.value)}>${
        [["1", "1 h"], ["2", "2 h"], ["8", "8 h"], ["24", "1 d"], ["168", "7 d"]].map(([value, words]) => html`<option
          key=${value} value=${value}>${words}</option>`)}</select></label></details>`}
    <${Acts} choices=${why && !one.silenced ? [{ label: "Tell nobody", question: `Tell nobody of ${one.name}?`,
      act: { act: "silence", matchers: matchers(one), seconds: hours * 3600, reason: why } }] : []} /></div>`;
}

function Silences() {
  const list = all("silence").sort((a, b) => a.ends_unix - b.ends_unix);
  return html`${list.length ? html`<h3 class="sub">Silenced by hand</h3>` : null}${list.map((one) => html`<article key=${one.name}
      class="alert idle" aria-label=${`silence ${one.name}`}><h3><span class="mark idle" aria-hidden="true">◐</span> ${one.reason}</h3>
    <p class="meta"><span>${one.name}</span><span>${one.matchers.join(" ")}</span><span>by ${one.by}</span><span>until ${moment(one.ends_unix)}</span></p>
    ${mayAct() ? null : html`<p class="hint"><code>bridgectl alerts unsilence ${one.name}</code> ends it</p>`}</article>`)}
    <${Acts} choices=${list.map((one) => ({ label: `End ${one.name}`, act: { act: "unsilence", id: one.name },
      question: `Tell people again of what ${one.name} silences?` }))} />`;
}

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
    <${Hush} one=${one} />
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
        <p>Thresholds of your own are documents of the kind AlertRule: <code>bridgectl alerting status</code></p></div>`}
    ${only === "now" ? html`<${Silences} />` : null}</section>`;
}
