// The mesh at a glance: a few figures, what needs a look, and every node with its engines.

import { Component, html, useState } from "./vendor-preact-htm.js";
import { all, registry } from "./store.js";
import { Acts, mayAct } from "./session.js";
import { ago, gib, look, rate, span, sum } from "./words.js";

const ROOMY = 60; // nodes that are shown as cards; more are cells
const WELL = new Set(["serving", "drained", "revoked"]);

function Figure({ label, value, note, tone }) {
  return html`<div class=${`figure ${tone || ""}`}><div class="value">${value}</div>
    <div class="label">${label}</div>${note ? html`<div class="note">${note}</div>` : null}</div>`;
}

// How far loads are is what earlier ones make likely: the page reckons it with its own clock.
function progress({ name, since_unix = 0, expected_s = 0 }) {
  const share = expected_s ? Math.min(99, Math.max(0, Math.floor(((Date.now() / 1000 - since_unix) / expected_s) * 100))) : null;
  return `loading${share === null ? "" : ` (${share} %)`} ${name}`;
}

function inMemory(engine) {
  return [...engine.loading.map(progress), ...engine.loaded].join(", ") || "idle";
}

function Slots({ engine }) {
  const shown = Math.min(engine.slots, 16);
  const busy = engine.slots ? Math.min(shown, Math.ceil((engine.in_flight / engine.slots) * shown)) : 0;
  const words = `${engine.in_flight} of ${engine.slots} slots busy${engine.queued ? `, ${engine.queued} wait` : ""}`;
  return html`<span class="slots" role="img" aria-label=${words} title=${words}>${
    Array.from({ length: shown }, (_, at) => html`<i class=${at < busy ? "busy" : ""}></i>`)}${
    engine.queued ? html`<b>+${engine.queued}</b>` : null}</span>`;
}

const gpuWords = (one) => `${one.used_percent} % of ${gib(one.memory_bytes)}${one.celsius ? `, ${one.celsius} °C` : ""}`;

function Gpus({ gpus }) {
  return html`${gpus.map((one, at) => html`<div class="engine gpu"><span class="id">GPU ${at}</span>
    <progress max="100" value=${one.used_percent} aria-label=${`GPU ${at}: ${gpuWords(one)}`} title=${one.uuid}></progress>
    <span class="loaded">${gpuWords(one)}</span></div>`)}`;
}

// What there is to say against an engine; nothing of one that is well.
function Health({ engine }) {
  if (engine.health === "ok") return null;
  return html`<p class=${`health ${engine.health}`}>${engine.health === "failing" ? "✕" : "▲"} ${engine.id} is ${engine.health}${
    engine.out ? " and takes no requests" : ""}: ${engine.why.join("; ")}</p>`;
}

class NodeCard extends Component {
  shouldComponentUpdate(next) { return next.node !== this.props.node; }
  render({ node }) {
    const { mark, tone } = look(node.state);
    const silent = Object.keys(node.silent_to);
    return html`<article class=${`node ${tone}`} aria-label=${`${node.name}, ${node.state}`}>
      <h3><span class="mark" aria-hidden="true">${mark}</span><a href=${`#mesh/${encodeURIComponent(node.name)}`}>${node.name}</a>
        <span class="state">${node.state}</span></h3>
      ${node.instances.map((engine) => html`<div class="engine">
        <span class="id">${engine.id.split("/").pop()}</span><${Slots} engine=${engine} />
        <span class="loaded">${engine.state !== "ready" ? engine.state : inMemory(engine)}</span></div>`)}
      <${Gpus} gpus=${node.gpus} />
      ${node.instances.map((engine) => html`<${Health} engine=${engine} />`)}
      ${node.instances.length ? null : html`<div class="engine none">${
        node.state === "away" ? `last heard ${ago(node.since_unix)} ago` : "no engine"}</div>`}
      <div class="meta"><span>${rate(node.requests_per_s)} req/s</span>${
        node.errors_per_s ? html`<span class="errors">${rate(node.errors_per_s)} failed/s</span>` : null}
        <span>${node.version}</span></div>
      ${node.rejected ? html`<p class="trouble">▲ refused the snapshot: ${node.rejected}</p>` : null}
      ${silent.length ? html`<p class="trouble">▲ no answer from ${silent.slice(0, 3).join(", ")}${
        silent.length > 3 ? ` and ${silent.length - 3} more` : ""}</p>` : null}
    </article>`;
  }
}

class Cell extends Component {
  shouldComponentUpdate(next) { return next.node !== this.props.node; }
  render({ node }) {
    const { mark, tone } = look(node.state);
    const slots = sum(node.instances, (one) => one.slots);
    const share = slots ? Math.min(1, sum(node.instances, (one) => one.in_flight) / slots) : 0;
    const step = Math.ceil(share * 4);
    const words = `${node.name}: ${node.state}, ${Math.round(share * 100)} % busy`;
    return html`<a class=${`cell ${tone} load${step}`} href=${`#mesh/${encodeURIComponent(node.name)}`}
      title=${words} aria-label=${words}>${tone === "good" ? "" : mark}</a>`;
  }
}

function Details({ node }) {
  const rows = [
    ["State", node.state], [node.state === "away" ? "Last heard" : "Up", `${ago(node.since_unix)}${node.state === "away" ? " ago" : ""}`],
    ["Version", node.version || "–"], ["Address", node.address || "–"],
    ["Certificate", node.expires_unix ? `ends in ${span(node.expires_unix - Date.now() / 1000)}` : "–"],
    ["In flight", node.in_flight], ["Requests", `${rate(node.requests_per_s)} /s, ${rate(node.errors_per_s)} failed /s`],
    ["Safe to stop", node.safe_to_stop ? "yes" : "no"],
    ["GPUs", node.gpus.map((one) => `${one.uuid}: ${gpuWords(one)}`).join("; ") || "none reported"],
    ["Labels", Object.entries(node.labels).map(([key, value]) => `${key}=${value}`).join(", ") || "none"],
  ];
  return html`<section class="panel"><h2>${node.name}</h2><p><a href="#mesh">← all nodes</a></p>
    <dl>${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${node.state === "revoked" ? null : html`<${Acts} choices=${[node.state === "drained"
      ? { label: "Put back into service", act: { act: "drain", node: node.name, drained: false }, question: `Send requests to ${node.name} again?` }
      : { label: "Drain", act: { act: "drain", node: node.name, drained: true }, question: `Send nothing new to ${node.name}?` }]} />`}
    ${node.instances.map((one) => html`<h3>${one.id} <small>${one.engine}, ${one.state}, weight ${one.weight}</small></h3>
      <${Health} engine=${one} /><p><${Slots} engine=${one} /></p><ul class="plain">${one.models.map((name) => html`<li>${name}${
        one.loaded.includes(name) ? html` <span class="tag">in memory</span>` : null}</li>`)}</ul>${
        one.loading.map((load) => html`<p>${progress(load)}</p>`)}`)}
    ${mayAct() ? null : html`<p class="hint">Take it out: <code>bridgectl drain ${node.name}</code></p>`}</section>`;
}

export function Mesh({ argument }) {
  const [only, setOnly] = useState("");
  const nodes = all("node"), known = registry();
  const chosen = argument && nodes.find((one) => one.name === argument);
  if (chosen) return html`<${Details} node=${chosen} />`;
  const engines = nodes.flatMap((one) => one.instances);
  const slots = sum(engines, (one) => one.slots), busy = sum(engines, (one) => one.in_flight);
  const sick = nodes.filter((one) => !WELL.has(one.state));
  const failing = sum(nodes, (one) => one.errors_per_s);
  const words = only.toLowerCase();
  const shown = nodes.filter((one) => !words || one.name.toLowerCase().includes(words) || one.state.includes(words)
    || one.instances.some((each) => each.models.some((name) => name.toLowerCase().includes(words))));
  const list = [...shown].sort((a, b) => WELL.has(a.state) - WELL.has(b.state));
  return html`
    <section class="figures" aria-label="Figures">
      <${Figure} label="nodes serve" value=${`${nodes.filter((one) => one.state === "serving").length} / ${nodes.length}`}
        note=${sick.length ? `${sick.length} in trouble` : "all well"} tone=${sick.length ? "bad" : "good"} />
      <${Figure} label="requests a second" value=${rate(sum(nodes, (one) => one.requests_per_s))} note="last minute" />
      <${Figure} label="failures a second" value=${rate(failing)} note=${failing ? "see Requests" : "none"} tone=${failing ? "bad" : ""} />
      <${Figure} label="slots busy" value=${`${busy} / ${slots}`} note=${`${sum(engines, (one) => one.queued)} wait`} />
      <${Figure} label="tokens a second" value=${rate(sum(all("model"), (one) => one.tokens_per_s))} note="of streams" />
    </section>
    ${known.concerns.length ? html`<section class="panel concerns"><h2>To look after</h2><ul>${
      known.concerns.map((one) => html`<li><span class="mark warn" aria-hidden="true">▲</span> ${one}</li>`)}</ul></section>` : null}
    <section aria-label="Nodes"><div class="bar"><h2>Nodes</h2>
      <label class="search">Find <input type="search" value=${only} placeholder="name, state or model"
        onInput=${(event) => setOnly(event.target.value)} /></label></div>
      ${nodes.length === 0 ? html`<div class="empty"><p>No node has joined yet.</p>
        <p><code>bridgectl token create</code> makes a token for one.</p></div>`
        : shown.length === 0 ? html`<div class="empty"><p>Nothing fits “${only}”.</p></div>`
        : shown.length > ROOMY ? html`<div class="cells">${list.map((node) => html`<${Cell} key=${node.name} node=${node} />`)}</div>
          <p class="legend"><i class="cell good load0"></i> idle <i class="cell good load2"></i> half busy
            <i class="cell good load4"></i> full <i class="cell idle">◐</i> drained <i class="cell bad">✕</i> away</p>`
        : html`<div class="nodes">${list.map((node) => html`<${NodeCard} key=${node.name} node=${node} />`)}</div>`}
    </section>`;
}
