// What happened, newest first.

import { html, useState } from "./vendor-preact-htm.js";
import { store } from "./store.js";
import { LEVELS, moment } from "./words.js";

export function Events() {
  const [only, setOnly] = useState("all");
  const shown = store.events.filter((one) => only === "all" || (only === "warn" ? one.level !== "info" : one.level === "bad"));
  return html`<section class="panel"><div class="bar"><h2>What happened</h2><div class="choice" role="group" aria-label="Which">${
    [["all", "All"], ["warn", "To look at"], ["bad", "Bad"]].map(([value, words]) => html`<button aria-pressed=${only === value}
      onClick=${() => setOnly(value)}>${words}</button>`)}</div></div>
    ${shown.length === 0 ? html`<div class="empty"><p>Nothing${only === "all" ? " has happened since this registry began" : " of that kind"}.</p></div>`
      : html`<ol class="timeline">${[...shown].reverse().map((one) => {
        const { mark, tone, word } = LEVELS[one.level] || LEVELS.warn;
        return html`<li key=${one.id} class=${tone}><span class=${`mark ${tone}`} aria-hidden="true">${mark}</span>
          <time>${moment(one.at_unix)}</time><span class="what"><span class="sr">${word}: </span>${one.text}</span></li>`;
      })}</ol>`}</section>`;
}
