// Rollouts: where each stands, why, and both sides beside each other.

import { html } from "./vendor-preact-htm.js";
import { Acts, mayAct } from "./session.js";
import { all } from "./store.js";
import { moment, percent, span } from "./words.js";

const PHASES = { progressing: "◐", paused: "❚❚", complete: "●", "rolled-back": "✕", aborted: "✕" };
const VERBS = { progressing: ["pause", "promote", "abort"], paused: ["resume", "promote", "abort"], complete: ["abort"] };
const ASKS = {
  pause: (one) => `Hold ${one.name} at this share?`, resume: (one) => `Let ${one.name} go on?`,
  promote: (one) => `Send everything to ${one.canary} now?`, abort: (one) => `Send everything back to ${one.stable}?`,
};
const BAD = new Set(["rolled-back", "aborted"]);

export function Rollouts() {
  const rollouts = all("rollout");
  if (!rollouts.length) {
    return html`<section class="panel"><h2>Rollouts</h2><div class="empty"><p>No rollout is applied.</p>
      <p>A document of the kind Rollout shifts a route's traffic step by step, and back by itself.</p></div></section>`;
  }
  return html`<section class="panel"><h2>Rollouts</h2>${rollouts.map((one) => html`<article class="rollout" key=${one.name}>
    <h3><span class=${`mark ${BAD.has(one.phase) ? "bad" : "good"}`} aria-hidden="true">${PHASES[one.phase] || "◌"}</span>
      ${one.name} <small>route ${one.route}: ${one.phase}, step ${Math.min(one.step + 1, one.steps)} of ${one.steps}</small></h3>
    <div class="share"><span>${one.stable} → ${one.canary}</span><progress max="1" value=${one.canary_share}
      aria-label=${`${one.canary} has ${percent(one.canary_share)}`}></progress><span class="number">${percent(one.canary_share)}</span></div>
    ${one.reason ? html`<p>${one.reason}</p>` : null}
    <p class="meta"><span>in this step ${span(one.elapsed_s)} of ${span(one.hold_s)}</span>
      <span>${one.canary}: ${one.canary_requests} requests, ${percent(one.canary_error_rate)} failed</span>
      <span>${one.stable}: ${percent(one.stable_error_rate)} failed</span></p>
    <ol class="timeline">${[...one.events].reverse().map(([at, what]) => html`<li><span class="mark idle" aria-hidden="true">●</span>
      <time>${moment(at)}</time><span class="what">${what}</span></li>`)}</ol>
    ${mayAct() ? html`<${Acts} choices=${(VERBS[one.phase] || []).map((verb) => (
      { label: verb, act: { act: "rollout", name: one.name, verb }, question: ASKS[verb](one) }))} />`
      : html`<p class="hint"><code>bridgectl rollout pause|resume|promote|abort ${one.name}</code></p>`}</article>`)}</section>`;
}
