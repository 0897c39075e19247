// Every revision of mesh_config with its diff.

import { html, useState } from "./vendor-preact-htm.js";
import { Acts, mayAct } from "./session.js";
import { fetchJson } from "./store.js";
import { moment } from "./words.js";
import { useEvery } from "./models.js";

const kind = (line) => (line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : line.startsWith("@@") ? "place" : "");

export function History() {
  const [said, setSaid] = useState(null);
  useEvery(async (ended) => {
    try { const found = await fetchJson("api/history"); if (!ended()) setSaid({ list: found }); }
    catch (fault) { if (!ended()) setSaid({ fault: fault.message, list: [] }); }
  }, 15000);
  return html`<section class="panel"><h2>Configuration</h2>
    ${said === null ? html`<p class="quiet">Reading the revisions …</p>` : said.fault ? html`<p class="trouble">✕ ${said.fault}</p>`
      : said.list.length === 0 ? html`<div class="empty"><p>Nothing has been applied yet: the defaults are in force.</p>
        <p><code>bridgectl apply -f mesh_config/</code></p></div>`
      : said.list.map((one, at) => html`<details class="revision" key=${one.number} open=${at === 0}>
        <summary><strong>${one.number}</strong> ${one.restores ? `(as ${one.restores} was) ` : ""}${one.changed.join(", ")}
          <small>${moment(one.applied)}, ${one.author.split("/").slice(-2).join(" ")}</small></summary>
        <pre class="diff" tabindex="0">${one.diff.split("\n").map((line) => html`<span class=${kind(line)}>${line}${"\n"}</span>`)}</pre>
        ${at === 0 ? null : mayAct() ? html`<${Acts} choices=${[{ label: `Bring ${one.number} back`,
            act: { act: "rollback", revision: one.number }, question: `Make everything as it was after ${one.number}?` }]} />`
          : html`<p class="hint"><code>bridgectl rollback ${one.number}</code> brings this revision back</p>`}</details>`)}</section>`;
}
