// Who is signed in, and what only somebody who is may do. A session has two halves: a cookie that no script sees,
// and a token that this tab alone keeps and sends along. An act is what `bridgectl` would do, as the same admin.

import { html, useEffect, useRef, useState } from "./vendor-preact-htm.js";
import { changed } from "./store.js";

const KEPT = "bridge-console";
const CHANGES = new Set(["operator", "admin"]);

export const session = { name: "", role: "", until: 0 };
const token = () => sessionStorage.getItem(KEPT) || "";
export const signedIn = () => Boolean(session.name) && Date.now() < session.until;
export const mayAct = () => signedIn() && CHANGES.has(session.role);

let ending = 0;

function take(said) {
  Object.assign(session, { name: said.name, role: said.role, until: Date.now() + said.left_s * 1000 });
  clearTimeout(ending);
  ending = setTimeout(forget, said.left_s * 1000);
  changed();
}

function forget() {
  sessionStorage.removeItem(KEPT);
  Object.assign(session, { name: "", role: "", until: 0 });
  changed();
}

export async function call(path, body) {
  const headers = { "x-bridge-console": token() };
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(`api/${path}`, { method: body ? "POST" : "GET", headers, cache: "no-store", body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "sign-in") forget();
  if (!answer.ok) throw new Error(said.error || `the registry answered ${answer.status}`);
  return said;
}

export async function resume() {
  if (!token()) return;
  try { take(await call("session")); } catch { /* over, or away: then it is asked for at the next act */ }
}

async function signIn(code) {
  const said = await call("sign-in", { code });
  sessionStorage.setItem(KEPT, said.token);
  take(said);
}

async function signOut() {
  try { await call("sign-out", {}); } finally { forget(); }
}

// Buttons of which each asks once more before it does something; nothing for who may not. What became of it stays
// here, and so does the focus: the button itself may be gone with the state that it changed.
export function Acts({ choices }) {
  const [asked, setAsked] = useState(null);
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState(null);
  const here = useRef(null), yes = useRef(null);
  useEffect(() => { if (asked) yes.current?.focus(); }, [asked]);
  if (!mayAct()) return null;
  const back = () => { setAsked(null); here.current?.focus(); };
  const carryOut = async () => {
    setBusy(true);
    try { const answer = await call("act", asked.act); take(answer); setSaid({ done: answer.done }); }
    catch (fault) { setSaid({ fault: fault.message }); }
    setBusy(false);
    back();
  };
  return html`<p class="actions acts" tabindex="-1" ref=${here} onKeyDown=${(event) => { if (event.key === "Escape" && asked) back(); }}>
    ${asked ? html`<span role="group" aria-label=${asked.question}>${asked.question}
        <button ref=${yes} class="main" disabled=${busy} onClick=${carryOut}>Yes</button>
        <button disabled=${busy} onClick=${back}>No</button></span>`
      : choices.map((one) => html`<button key=${one.label} onClick=${() => { setSaid(null); setAsked(one); }}>${one.label}</button>`)}
    <span role="status">${said && (said.fault ? html`<span class="trouble">✕ ${said.fault}</span>` : html`<span class="done">● ${said.done}</span>`)}</span></p>`;
}

// The code of the address is taken out of it at once: it is not to be in the browser's history.
export function SignIn({ argument }) {
  const [code, setCode] = useState(argument);
  const [said, setSaid] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    if (!argument) return;
    setCode(argument);
    history.replaceState(null, "", "#sign-in");
  }, [argument]);
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    setSaid("");
    try { await signIn(code.trim().split("#sign-in/").pop()); } catch (fault) { setSaid(fault.message); }
    setCode("");
    setBusy(false);
  };
  if (signedIn()) {
    return html`<section class="panel"><h2>Signed in</h2><dl><div><dt>As</dt><dd>${session.name}</dd></div>
      <div><dt>Role</dt><dd>${session.role}</dd></div>
      <div><dt>Ends, if nothing is done</dt><dd>${new Date(session.until).toLocaleTimeString("en-GB")}</dd></div></dl>
      <p>${mayAct() ? "Nodes, rollouts and revisions have buttons now. Each act is on the audit record under this name."
        : "The role viewer looks; it changes nothing."}</p>
      <p class="actions"><button onClick=${() => signOut().catch(() => {})}>Sign out</button></p></section>`;
  }
  return html`<section class="panel play"><h2>Sign in</h2>
    <p>Where an admin's certificate is, <code>bridgectl console</code> prints an address that signs a browser in: once, within a minute.</p>
    <form onSubmit=${send}><label>Code, or the whole address <input value=${code} autocomplete="off" spellcheck="false"
      onInput=${(event) => setCode(event.target.value)} /></label>
    <p class="actions"><button class="main" type="submit" disabled=${busy || !code.trim()}>Sign in</button></p></form>
    <div role="status">${said ? html`<p class="trouble">✕ ${said}</p>` : null}</div></section>`;
}
