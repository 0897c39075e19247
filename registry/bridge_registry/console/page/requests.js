// The last requests of the mesh, and why one of them went where it went.

import { html, useState } from "./vendor-preact-htm.js";
import { fetchJson } from "./store.js";
import { clock, millis } from "./words.js";
import { useEvery } from "./models.js";

const outcome = (one) => (one.outcome === "ok" && one.status < 400 ? ["●", "good"] : one.outcome === "cancelled"
  ? ["◐", "idle"] : ["✕", "bad"]);

function Hop({ hop }) {
  const failed = new Map(hop.failed.map((one) => [one.instance, `${one.failure}: ${one.detail}`]));
  const end = Math.max(hop.ended_ms, 0.001);
  const bar = (from, to, kind, words) => (from >= 0 && to > from ? html`<rect class=${kind} x=${(from / end) * 100}
    width=${Math.max(0.4, ((to - from) / end) * 100)} y="0" height="10"><title>${words}</title></rect>` : null);
  return html`<article class="hop"><h3>${hop.node} <small>${hop.via ? `forwarded by ${hop.via}` : `called by ${hop.principal}`}</small></h3>
    <p>${hop.path} ${hop.model || hop.asked}${hop.route ? `, route ${hop.route}, backend ${hop.backend}` : ""}${
      hop.strategy ? `, by ${hop.strategy}` : ""}${hop.panic ? "; too few are healthy, so health was not regarded" : ""}</p>
    <svg class="times" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label=${
      `sent at ${millis(hop.sent_ms)}, first byte at ${millis(hop.first_byte_ms)}, over at ${millis(hop.ended_ms)}`}>
      ${bar(0, hop.sent_ms >= 0 ? hop.sent_ms : hop.ended_ms, "waited", "before it was sent")}
      ${bar(hop.sent_ms, hop.first_byte_ms >= 0 ? hop.first_byte_ms : hop.ended_ms, "thought", "until the first byte")}
      ${bar(hop.first_byte_ms, hop.ended_ms, "spoke", "until the end")}</svg>
    <p class="meta"><span>waited ${millis(hop.waited_ms)}</span><span>first byte ${millis(hop.first_byte_ms)}</span>
      <span>over ${millis(hop.ended_ms)}</span><span>${hop.outcome} (${hop.status})</span></p>
    <div class="wide"><table><thead><tr><th>#</th><th>Instance</th><th>Work/slots</th><th>Weight</th><th>In memory</th><th>Why not</th></tr></thead>
      <tbody>${hop.candidates.map((one, at) => html`<tr class=${one.instance === hop.instance ? "chosen" : ""}>
        <td>${one.instance === hop.instance ? "→" : at + 1}</td><td>${one.instance}</td><td>${one.work}/${one.slots}</td>
        <td>${one.capacity}</td><td>${one.resident ? "yes" : "no"}</td><td>${failed.get(one.instance) || ""}</td></tr>`)}
        ${hop.passed_over.map((one) => html`<tr class="passed"><td></td><td>${one.instance}</td><td></td><td></td><td></td>
          <td>${one.reason}</td></tr>`)}</tbody></table></div></article>`;
}

function Explain({ id }) {
  const [said, setSaid] = useState(null);
  useEvery(async (ended) => {
    try { const found = await fetchJson(`api/explain?id=${encodeURIComponent(id)}`); if (!ended()) setSaid(found); }
    catch (fault) { if (!ended()) setSaid({ fault: fault.message, hops: [] }); }
  }, 3600000, [id]);
  return html`<section class="panel"><p><a href="#requests">← all requests</a></p><h2>Why ${id} went where it went</h2>
    ${said === null ? html`<p class="quiet">Asking every node …</p>` : said.fault ? html`<p class="trouble">✕ ${said.fault}</p>`
      : said.hops.length === 0 ? html`<div class="empty"><p>No node remembers it: nodes remember their last requests only.</p></div>`
      : said.hops.map((hop) => html`<${Hop} hop=${hop} />`)}</section>`;
}

// Who forwards to whom, in these requests: an engine's id begins with its node.
function Pairs({ requests }) {
  const pairs = new Map();
  for (const one of requests) {
    if (!one.instance) continue;
    const key = JSON.stringify([one.entry, one.instance.split("/")[0]]);
    pairs.set(key, (pairs.get(key) || 0) + 1);
  }
  const list = [...pairs].sort((a, b) => b[1] - a[1]).slice(0, 8), most = list.length ? list[0][1] : 1;
  return list.length ? html`<section class="panel"><h2>Who asks whom <small>of ${requests.length === 1 ? "this request" : `these ${requests.length} requests`}</small></h2>${list.map(([key, count]) => {
    const [from, to] = JSON.parse(key), words = from === to ? `${from} itself` : `${from} → ${to}`;
    return html`<div class="share" key=${key}><span>${words}</span><progress max=${most} value=${count} aria-label=${`${words}: ${count}`}></progress>
      <span class="number">${count}</span></div>`;
  })}</section>` : null;
}

export function Requests({ argument }) {
  if (argument) return html`<${Explain} id=${argument} />`;
  return html`<${Live} />`;
}

function Live() {
  const [said, setSaid] = useState(null);
  const [still, setStill] = useState(false);
  useEvery(async (ended) => {
    if (still) return;
    try { const found = await fetchJson("api/requests"); if (!ended()) setSaid(found); }
    catch (fault) { if (!ended()) setSaid({ fault: fault.message, requests: [] }); }
  }, 2000, [still]);
  return html`${said && !said.fault ? html`<${Pairs} requests=${said.requests} />` : null}
    <section class="panel"><div class="bar"><h2>Last requests</h2><div class="choice">
      <button aria-pressed=${still} onClick=${() => setStill(!still)}>${still ? "▶ go on" : "❚❚ hold still"}</button></div></div>
    ${said === null ? html`<p class="quiet">Asking the nodes …</p>` : said.fault ? html`<p class="trouble">✕ ${said.fault}</p>`
      : said.requests.length === 0 ? html`<div class="empty"><p>No node remembers a request.</p>
        <p><a href="#playground">Ask a model something</a>, and it will be here.</p></div>`
      : html`<div class="wide" tabindex="0" role="region" aria-label="Last requests, a table"><table><thead><tr><th><span class="sr">Well or not</span></th><th>Ended</th><th>Model</th><th>Called at</th>
        <th>Answered by</th><th>Who</th><th class="number">First byte</th><th class="number">In all</th><th class="number">Tokens</th><th>How</th></tr></thead>
        <tbody>${said.requests.map((one) => {
          const [mark, tone] = outcome(one);
          return html`<tr key=${one.entry + one.id + one.at}><td><span class=${`mark ${tone}`} aria-hidden="true">${mark}</span></td>
            <td>${clock(one.at)}</td><td><a href=${`#requests/${encodeURIComponent(one.id)}`}>${one.route || one.model || one.path}</a></td>
            <td>${one.entry}</td><td>${one.instance || "–"}${one.attempts > 1 ? html` <span class="tag">${one.attempts} tries</span>` : null}</td>
            <td>${one.principal}</td><td class="number">${millis(one.ttft_ms)}</td><td class="number">${millis(one.total_ms)}</td>
            <td class="number">${one.tokens || ""}</td><td>${one.outcome} ${one.status}</td></tr>`;
        })}</tbody></table></div>`}</section>`;
}
