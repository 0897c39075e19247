// The shell: what is always seen, and which view is shown. Views are named by the address's fragment.

import { html, render, useEffect, useState } from "./vendor-preact-htm.js";
import { open, registry, store, watch } from "./store.js";
import { Mesh } from "./mesh.js";
import { Models } from "./models.js";
import { Requests } from "./requests.js";
import { Events } from "./events.js";
import { Alerts, pressing } from "./alerts.js";
import { Rollouts } from "./rollouts.js";
import { History } from "./history.js";
import { Playground } from "./playground.js";
import { ClientsView } from "./clients.js";
import { Heatmap } from "./heat.js";
import { SignIn, resume, session, signedIn } from "./session.js";

const VIEWS = [
  ["mesh", "Mesh", Mesh],
  ["models", "Models", Models],
  ["heat", "Heatmap", Heatmap],
  ["requests", "Requests", Requests],
  ["alerts", "Alerts", Alerts],
  ["events", "Events", Events],
  ["rollouts", "Rollouts", Rollouts],
  ["history", "Configuration", History],
  ["clients", "Clients", ClientsView],
  ["playground", "Playground", Playground],
];
const SIGN_IN = ["sign-in", "Sign in", SignIn];

const chosen = () => {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = VIEWS.find((one) => one[0] === name) || (name === "sign-in" ? SIGN_IN : VIEWS[0]);
  try { return { view, argument: decodeURIComponent(rest.join("/")) }; } catch { return { view, argument: "" }; }
};

function Banner() {
  const known = registry();
  if (store.link === "away") {
    return html`<div class="banner bad" role="status">✕ The registry is away. This is what it said last${
      store.heardAt ? ` at ${new Date(store.heardAt).toLocaleTimeString("en-GB")}` : ""}; nodes serve on without
      it, and this page asks again by itself.</div>`;
  }
  if (known && !known.leads && known.leader) {
    return html`<div class="banner warn" role="status">▲ ${known.name} does not lead: it hears of nobody's load.
      ${known.leader} leads, at ${known.leader_address}.</div>`;
  }
  if (known && !known.leader) {
    return html`<div class="banner bad" role="status">✕ No registry leads: nobody joins, and nothing can be
      changed. Nodes serve on from what they know.</div>`;
  }
  if (known && known.store_fault) {
    return html`<div class="banner bad" role="status">✕ etcd does not answer ${known.store_fault}. Nodes serve on
      from what they know.</div>`;
  }
  return null;
}

function Shell() {
  const [, redraw] = useState(0);
  const [at, go] = useState(chosen());
  useEffect(() => watch(redraw), []);
  useEffect(() => {
    const moved = () => { go(chosen()); document.querySelector("main").focus({ preventScroll: true }); };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const [name, title, View] = at.view;
  const known = registry();
  useEffect(() => { document.title = `${title} · ${known ? known.mesh : "Bridge"}`; });
  const bad = store.events.filter((one) => one.level === "bad").length;
  const alerts = pressing().length;
  const link = { live: "live", opening: "connecting", away: "away" }[store.link];
  return html`
    <header>
      <a class="skip" href=${`#${name}`} onClick=${() => document.querySelector("main").focus()}>Skip to content</a>
      <div class="brand"><img src="icon.svg" alt="" width="24" height="24" />
        <h1>${known ? known.mesh : "Bridge"}</h1></div>
      <nav aria-label="Views">${VIEWS.map(([key, words]) => html`
        <a href=${`#${key}`} aria-current=${key === name ? "page" : undefined}>${words}${
          key === "alerts" && alerts ? html`<span class="count" aria-label=${`${alerts} last`}>${alerts}</span>` : null}${
          key === "events" && bad ? html`<span class="count" aria-label=${`${bad} bad`}>${bad}</span>` : null}</a>`)}
      </nav>
      <div class=${`link ${store.link}`} role="status"><span aria-hidden="true">${
        store.link === "live" ? "●" : store.link === "away" ? "✕" : "◌"}</span> ${link}</div>
      <a class="who" href="#sign-in" aria-current=${name === "sign-in" ? "page" : undefined}>${signedIn()
        ? html`${session.name} <small>${session.role}</small>` : "Sign in"}</a>
    </header>
    <${Banner} />
    <main id=${name} tabindex="-1" aria-label=${title}>${
      store.parts.size || name === "playground" || name === "sign-in"
        ? html`<${View} argument=${at.argument} />`
        : html`<div class="empty"><p>${store.link === "away"
            ? "The registry does not answer yet." : "Waiting for the first picture of the mesh …"}</p></div>`}
    </main>
    <footer>${known ? `${known.name} ${known.version}, snapshot ${known.epoch}.${known.revision}` : ""} · ${signedIn() ? `signed in as ${session.name}` : "read-only"} ·${" "}<code>bridgectl top</code> shows the same</footer>`;
}

open();
resume();
const root = document.getElementById("app");
root.textContent = "";
render(html`<${Shell} />`, root);
