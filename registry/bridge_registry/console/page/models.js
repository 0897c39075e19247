// Models: where they are, how they are used, and the last hour minute by minute.

import { html, useEffect, useState } from "./vendor-preact-htm.js";
import { all, fetchJson } from "./store.js";
import { percent, rate, seconds, shade } from "./words.js";

const MINUTES = 60;

export function useEvery(work, ms, deps = []) {
  useEffect(() => {
    let ended = false;
    const again = () => { if (!ended && !document.hidden) work(() => ended); };
    again();
    const timer = setInterval(again, ms);
    return () => { ended = true; clearInterval(timer); };
  }, deps);
}

function Heat({ hour, which, names }) {
  const newest = Math.floor(Date.now() / 60000);
  const cells = new Map(hour.map((row) => [row[0], row[which]]));
  const at = (name, minute) => (cells.get(minute) || {})[name] || [0, 0];
  let most = 1;
  for (const name of names) for (let ago = 0; ago < MINUTES; ago++) most = Math.max(most, at(name, newest - ago)[0]);
  return html`<table class="heat"><caption>Requests a minute, the last hour; ▲ marks minutes with failures</caption>
    <tbody>${names.map((name) => {
      const row = Array.from({ length: MINUTES }, (_, n) => at(name, newest - MINUTES + 1 + n));
      const total = row.reduce((sum, one) => sum + one[0], 0), failed = row.reduce((sum, one) => sum + one[1], 0);
      return html`<tr key=${name}><th scope="row">${name}</th><td><div class="strip" role="img"
        aria-label=${`${name}: ${total} requests, ${failed} failed in the last hour`}>${row.map(([count, bad], n) => html`<i
          class=${shade(count, most, bad)}
          title=${`${MINUTES - 1 - n} min ago: ${count} requests, ${bad} failed`}>${bad ? "▲" : ""}</i>`)}</div></td>
        <td class="number">${total}</td></tr>`;
    })}</tbody></table>`;
}

export function Models() {
  const [hour, setHour] = useState(null);
  const [which, setWhich] = useState(1);
  useEvery(async (ended) => {
    try { const said = await fetchJson("api/hour"); if (!ended()) setHour(said); } catch { /* the banner says it */ }
  }, 10000);
  const models = all("model"), routes = all("route");
  const seen = new Set((hour || []).flatMap((row) => Object.keys(row[which])));
  return html`<section class="panel"><h2>Models</h2>
    ${models.length === 0 ? html`<div class="empty"><p>No engine has a model yet.</p>
      <p><code>ollama pull NAME</code> at any node gives it one.</p></div>` : html`
    <div class="wide" tabindex="0" role="region" aria-label="Models, a table"><table><thead><tr><th>Model</th><th class="number">Engines</th>
      <th class="number">In memory</th><th class="number">Requests/s</th><th class="number">Failed/s</th>
      <th class="number">Tokens/s</th><th class="number">First byte p50</th><th class="number">p95</th></tr></thead>
      <tbody>${models.map((one) => html`<tr key=${one.name}><td>${one.name}</td><td class="number">${one.instances}</td>
        <td class="number">${one.loaded}</td><td class="number">${rate(one.requests_per_s)}</td>
        <td class=${`number ${one.errors_per_s ? "errors" : ""}`}>${one.errors_per_s ? `▲ ${rate(one.errors_per_s)}` : "0"}</td>
        <td class="number">${rate(one.tokens_per_s)}</td><td class="number">${seconds(one.ttft_p50)}</td>
        <td class="number">${seconds(one.ttft_p95)}</td></tr>`)}</tbody></table></div>`}</section>
    <section class="panel"><div class="bar"><h2>The last hour</h2><div class="choice" role="group" aria-label="By what">${
      [[1, "By model"], [2, "By node"]].map(([value, words]) => html`<button aria-pressed=${which === value}
        onClick=${() => setWhich(value)}>${words}</button>`)}</div></div>
      ${hour === null ? html`<p class="quiet">Reading the last hour …</p>` : seen.size ? html`<div class="wide" tabindex="0" role="region" aria-label="Requests by minute"><${Heat} hour=${hour}
        which=${which} names=${[...seen].sort().slice(0, 200)} /></div>`
        : html`<div class="empty"><p>No requests in the last hour.</p></div>`}</section>
    ${routes.length ? html`<section class="panel"><h2>Routes</h2>${routes.map((route) => html`<div class="route" key=${route.name}>
      <h3>${route.name} <small>${route.strategy}</small></h3>${route.backends.map((one) => html`<div class="share">
        <span>${one.name}${one.name !== one.model ? html` <small>${one.model}</small>` : null}</span>
        <progress max="1" value=${one.share} aria-label=${`${one.name}: ${percent(one.share)}`}></progress>
        <span class="number">${percent(one.share)}</span></div>`)}</div>`)}</section>` : null}`;
}
