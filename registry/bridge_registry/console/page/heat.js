// The last day by hour: which model was called at which node, as much as this registry heard of.

import { html, useState } from "./vendor-preact-htm.js";
import { fetchJson, order } from "./store.js";
import { useEvery } from "./models.js";
import { shade } from "./words.js";

const HOURS = 24;
const ROWS = 200;
const SIDES = { model: 0, node: 1 };

function Grid({ day, side, only }) {
  const newest = Math.floor(Date.now() / 3600000);
  const rows = new Map();
  let most = 1;
  for (const [hour, cells] of day) {
    const at = HOURS - 1 - (newest - hour);
    if (at < 0 || at >= HOURS) continue;
    for (const cell of cells) {
      if (only && cell[1 - side] !== only) continue;
      if (!rows.has(cell[side])) rows.set(cell[side], Array.from({ length: HOURS }, () => [0, 0]));
      const sums = rows.get(cell[side])[at];
      sums[0] += cell[2];
      sums[1] += cell[3];
      most = Math.max(most, sums[0]);
    }
  }
  const names = [...rows.keys()].sort(order.compare).slice(0, ROWS);
  const when = (at) => `${new Date((newest - HOURS + 1 + at) * 3600000).getHours()} h`;
  return html`<div class="wide" tabindex="0" role="region" aria-label="Requests by hour, a table"><table class="day"><caption>Requests an hour${
    only ? ` of ${only}` : ""}; the fuller the colour the more; ▲ marks hours with failures</caption><thead><tr><th scope="col">${side ? "Node" : "Model"}</th>${
    Array.from({ length: HOURS }, (_, at) => html`<th scope="col">${at % 3 ? html`<span class="sr">${when(at)}</span>` : when(at)}</th>`)}
    <th scope="col" class="number">In all</th></tr></thead><tbody>${names.map((name) => html`<tr key=${name}><th scope="row">${name}</th>${
    rows.get(name).map(([count, bad], at) => html`<td class=${shade(count, most, bad)}
      title=${`${when(at)}: ${count} requests, ${bad} failed`}>${bad ? "▲" : ""}<span class="sr">${count}</span></td>`)}
    <td class="number">${rows.get(name).reduce((sum, one) => sum + one[0], 0).toLocaleString("en")}</td></tr>`)}</tbody></table></div>`;
}

export function Heatmap() {
  const [said, setSaid] = useState(null);
  const [by, setBy] = useState("model");
  const [only, setOnly] = useState("");
  useEvery(async (ended) => {
    try { const found = await fetchJson("api/day"); if (!ended()) setSaid({ day: found }); }
    catch (fault) { if (!ended()) setSaid({ fault: fault.message }); }
  }, 30000);
  const side = SIDES[by], other = side ? "model" : "node";
  const names = said?.day ? [...new Set(said.day.flatMap((one) => one[1].map((cell) => cell[1 - side])))].sort(order.compare) : [];
  return html`<section class="panel"><div class="bar"><h2>The last day</h2><div class="choice" role="group" aria-label="By what">${
    Object.keys(SIDES).map((one) => html`<button aria-pressed=${by === one} onClick=${() => { setBy(one); setOnly(""); }}>By ${one}</button>`)}</div>
    <label class="search">Of <select value=${only} onChange=${(event) => setOnly(event.target.value)}><option value="">every ${other}</option>${
      names.slice(0, ROWS).map((name) => html`<option value=${name}>${name}</option>`)}</select></label></div>
    ${said === null ? html`<p class="quiet">Reading the last day …</p>` : said.fault ? html`<p class="trouble">✕ ${said.fault}</p>`
      : names.length ? html`<${Grid} day=${said.day} side=${side} only=${only} />`
      : html`<div class="empty"><p>No request since this registry began to count.</p></div>`}</section>`;
}
