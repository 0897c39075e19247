// Who calls and what they used: for who is signed in, since it says who did how much.

import { html, useState } from "./vendor-preact-htm.js";
import { call, session, signedIn } from "./session.js";
import { useEvery } from "./models.js";
import { ago, moment } from "./words.js";

const count = (value) => value.toLocaleString("en");
const who = (name) => name.replace(/^spiffe:\/\/[^/]+\//, "");

function Clients({ list }) {
  if (!list.length) {
    return html`<div class="empty"><p>No client is registered: programs on nodes need no key.</p>
      <p><code>bridgectl client create NAME</code> makes a key for one elsewhere.</p></div>`;
  }
  return html`<div class="wide" tabindex="0" role="region" aria-label="Clients, a table"><table><thead><tr><th>Client</th><th>Groups</th>
    <th>State</th><th class="number">Keys</th><th>Last called</th></tr></thead><tbody>${list.map((one) => html`<tr key=${one.name}>
      <td>${one.name}</td><td>${one.groups.join(", ") || "–"}</td><td>${one.blocked ? html`<span class="trouble">⊘ blocked</span>`
        : one.expires && one.expires * 1000 < Date.now() ? html`<span class="trouble">✕ ended ${moment(one.expires)}</span>`
        : one.expires ? `● until ${moment(one.expires)}` : "● may call"}</td><td class="number">${one.keys}</td>
      <td>${one.used ? `${ago(one.used)} ago` : "not yet"}</td></tr>`)}</tbody></table></div>`;
}

function Usage({ list, days }) {
  if (!list.length) return html`<div class="empty"><p>No use is on record of the last ${days} days.</p></div>`;
  return html`<div class="wide" tabindex="0" role="region" aria-label="Usage, a table"><table><thead><tr><th>Who</th><th>Model</th>
    <th class="number">Requests</th><th class="number">Refused</th><th class="number">Tokens in</th><th class="number">Tokens out</th></tr></thead>
    <tbody>${list.map((one) => html`<tr key=${`${one.who} ${one.model}`}><td>${who(one.who)}</td><td>${one.model}</td><td class="number">${count(one.requests)}</td>
      <td class="number">${one.refused ? html`<span class="trouble">▲ ${count(one.refused)}</span>` : "0"}</td>
      <td class="number">${count(one.prompt)}</td><td class="number">${count(one.output)}</td></tr>`)}</tbody></table></div>`;
}

function Quotas({ list }) {
  return html`<section class="panel"><h2>Quotas now</h2>${list.map((one) => html`<div class="share" key=${`${one.quota} ${one.of} ${one.what}`}>
    <span>${one.quota} <small>${one.of ? who(one.of) : "all"}${one.shadow ? ", refuses nothing" : ""}</small></span>
    <progress max=${one.limit || 1} value=${Math.min(one.used, one.limit)} aria-label=${`${one.quota}: ${one.used} of ${one.limit} ${one.what}`}></progress>
    <span class="number">${one.used >= one.limit ? "▲ " : ""}${count(one.used)} of ${count(one.limit)} ${one.what}</span></div>`)}</section>`;
}

export function ClientsView() {
  const [said, setSaid] = useState(null);
  useEvery(async (ended) => {
    if (!signedIn()) return;
    try { const found = await call("clients"); if (!ended()) setSaid(found); }
    catch (fault) { if (!ended()) setSaid({ fault: fault.message }); }
  }, 10000, [session.name]);
  if (!signedIn()) {
    return html`<section class="panel"><h2>Clients</h2><div class="empty"><p>Who called, and how much, is shown to admins.</p>
      <p><a href="#sign-in">Sign in</a>, or ask <code>bridgectl client list</code> and <code>bridgectl usage</code>.</p></div></section>`;
  }
  if (said === null) return html`<section class="panel"><h2>Clients</h2><p class="quiet">Reading who called …</p></section>`;
  if (said.fault) return html`<section class="panel"><h2>Clients</h2><p class="trouble">✕ ${said.fault}</p></section>`;
  return html`<section class="panel"><h2>Clients</h2><${Clients} list=${said.clients} /></section>
    <section class="panel"><h2>Used in ${said.days} days</h2><${Usage} list=${said.usage} days=${said.days} /></section>
    ${said.quotas.length ? html`<${Quotas} list=${said.quotas} />` : null}`;
}
