// One node as its own agent knows it: asked every two seconds, while somebody looks.

import { html, render, useEffect, useState } from "./vendor-preact-htm.js";
import { ago, clock, gib, look, millis, moment, span } from "./words.js";

const EVERY_MS = 2000;
const LEVEL = { ok: { mark: "●", tone: "good" }, degraded: { mark: "▲", tone: "warn" }, failing: { mark: "✕", tone: "bad" } };
const used = (one) => one.memory_bytes - one.free_bytes - (one.reserved_bytes || 0);

async function fetchJson(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the agent answered ${answer.status}`);
  return answer.json();
}

function Instance({ one }) {
  // What is as usual is left out of what the agent says.
  const { reasons = [], out = false } = one.health || {};
  const level = ["failing", "degraded"].find((bad) => reasons.some((why) => why.level === bad)) || "ok";
  const { mark, tone } = LEVEL[level];
  return html`<article class=${`node ${tone}`} aria-label=${`${one.id}, ${one.state}, ${level}`}>
    <h3><span class=${`mark ${tone}`} aria-hidden="true">${mark}</span> ${one.id}<span class="state">${one.state}</span></h3>
    <div class="meta"><span>${level}${out ? ", taken out" : ""}</span><span>${one.slots} slots</span>
      ${one.pid ? html`<span>process ${one.pid}</span>` : null}</div>
    ${one.detail && one.state !== "ready" ? html`<p class="trouble">▲ ${one.detail}</p>` : null}
    ${reasons.map((why) => html`<p class=${`health ${level}`}>${mark} ${why.text || why.code}${
      why.since ? ` (for ${ago(why.since)})` : ""}</p>`)}
    <ul class="plain">${one.models.map((name) => html`<li>${name}${
      one.loaded.includes(name) ? html` <span class="tag">in memory</span>` : null}</li>`)}</ul>
    ${one.loading.map((load) => html`<p class="quiet">loading ${load.name} for ${ago(load.since_unix)}</p>`)}
  </article>`;
}

function Requests({ list }) {
  return html`<section class="panel"><h2>The last requests that came in here</h2>${list.length === 0
    ? html`<div class="empty"><p>None since the agent began.</p></div>`
    : html`<div class="wide" tabindex="0" role="region" aria-label="Requests, a table"><table><thead><tr><th>When</th><th>Who</th>
      <th>What</th><th>Model</th><th>Where</th><th>Answer</th><th class="number">First byte</th><th class="number">Whole</th></tr></thead>
      <tbody>${list.map((one) => html`<tr key=${one.id + one.at}><td>${clock(one.at)}</td><td>${one.principal || "–"}</td><td>${one.path}</td>
        <td>${one.model || "–"}</td><td>${one.instance || "–"}</td>
        <td class=${one.outcome === "ok" ? "" : "errors"}>${one.outcome === "ok" ? "" : "▲ "}${one.status} ${one.outcome}</td>
        <td class="number">${millis(one.ttft_ms)}</td><td class="number">${millis(one.total_ms)}</td></tr>
        <tr class="passed"><td colspan="8"><a href=${`../explain?id=${encodeURIComponent(one.id)}`}>why there: ${one.id}</a></td></tr>`)}
      </tbody></table></div>`}</section>`;
}

function Node({ status, list }) {
  const { mark, tone } = look(status.state);
  const rows = [
    ["State", `${mark} ${status.state}`], ["Up", ago(status.started_unix)], ["Version", status.version], ["Process", status.pid],
    ["Snapshot", `${status.snapshot.epoch}.${status.snapshot.revision}: ${status.snapshot.nodes} nodes, ${status.snapshot.instances} instances`],
    ["Certificate", status.certificate.refused || `ends in ${span(status.certificate.expires_unix - Date.now() / 1000)}`],
    ...Object.entries(status.listeners).map(([name, address]) => [name, address]),
  ];
  return html`<section class="panel" aria-label="The node"><h2><span class=${`mark ${tone}`} aria-hidden="true">${mark}</span> ${status.name}</h2>
      <dl>${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
      <ul class="plain">${status.links.map((one) => html`<li><span class=${`mark ${one.up ? "good" : "bad"}`} aria-hidden="true">${
        one.up ? "●" : "✕"}</span> ${one.name}: ${one.up ? "in order" : `not since ${moment(one.since_unix)}: ${one.reason}`}</li>`)}
      ${status.concerns.map((one) => html`<li><span class="mark warn" aria-hidden="true">▲</span> ${one}</li>`)}</ul></section>
    <section aria-label="Engines"><div class="bar"><h2>Engines</h2></div>${status.instances.length
      ? html`<div class="nodes">${status.instances.map((one) => html`<${Instance} key=${one.id} one=${one} />`)}</div>`
      : html`<div class="empty"><p>This node has no engine.</p></div>`}</section>
    ${status.gpus.length ? html`<section class="panel"><h2>GPUs</h2>${status.gpus.map((one) => html`<div class="share" key=${one.uuid}>
      <span>GPU ${one.index} ${one.name} <small>${one.uuid}</small></span>
      <progress max=${one.memory_bytes} value=${used(one)} aria-label=${`GPU ${one.index}: ${gib(used(one), 1)} used`}></progress>
      <span class="number">${gib(used(one), 1)} of ${gib(one.memory_bytes, 1)}${one.temperature_c == null ? "" : `, ${one.temperature_c} °C`}</span>
      ${one.fault ? html`<p class="trouble">✕ ${one.fault}</p>` : null}</div>`)}</section>` : null}
    <${Requests} list=${list} />`;
}

function Page() {
  const [said, setSaid] = useState({ status: null, list: [], fault: "" });
  useEffect(() => {
    let ended = false, timer = 0;
    const ask = async () => {
      if (!document.hidden) {
        try {
          const [status, list] = await Promise.all([fetchJson("../status"), fetchJson("recent?most=50")]);
          if (!ended) setSaid({ status, list, fault: "" });
        } catch (fault) { if (!ended) setSaid((before) => ({ ...before, fault: fault.message })); }
      }
      if (!ended) timer = setTimeout(ask, EVERY_MS);
    };
    ask();
    return () => { ended = true; clearTimeout(timer); };
  }, []);
  const { status, list, fault } = said;
  useEffect(() => { document.title = status ? `${status.name} · Bridge node` : "Bridge node"; });
  return html`<header><div class="brand"><img src="icon.svg" alt="" width="24" height="24" />
      <h1>${status ? `${status.name} in ${status.trust_domain}` : "Bridge node"}</h1></div>
      <div class=${`link ${fault ? "away" : "live"}`} role="status"><span aria-hidden="true">${fault ? "✕" : "●"}</span> ${fault ? "away" : "live"}</div></header>
    ${fault ? html`<div class="banner bad" role="status">✕ The agent does not answer (${fault}). This is what it said last.</div>` : null}
    <main tabindex="-1" aria-label="Node">${status ? html`<${Node} status=${status} list=${list} />`
      : html`<div class="empty"><p>Asking the agent …</p></div>`}</main>
    <footer>read-only · <code>bridge-agent status</code> shows the same · the registry's console shows the whole mesh</footer>`;
}

const root = document.getElementById("app");
root.textContent = "";
render(html`<${Page} />`, root);
