// Talks to any model through any node of this machine, and shows where test requests go. The browser calls the
// agent itself, as any client on this machine may: the console lends no rights.

import { html, useRef, useState } from "./vendor-preact-htm.js";
import { all } from "./store.js";
import { millis } from "./words.js";

const MOST = 20;

async function ask(base, body, signal, onText) {
  const began = performance.now();
  const answer = await fetch(`${base}/api/chat`, { method: "POST", body: JSON.stringify(body), signal });
  const about = { status: answer.status, id: answer.headers.get("x-request-id") || "", node: answer.headers.get("x-bridge-node") || "" };
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", first = -1;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      const said = JSON.parse(line);
      if (said.error) throw new Error(said.error);
      if (first < 0) first = performance.now() - began;
      if (said.message) onText(said.message.content || "");
    }
  }
  if (rest.trim()) { const said = JSON.parse(rest); if (said.error) throw new Error(said.error); }
  return { ...about, first, total: performance.now() - began };
}

export function Playground() {
  const [base, setBase] = useState("http://127.0.0.1:11434");
  const [model, setModel] = useState("");
  const [prompt, setPrompt] = useState("What is the capital of France?");
  const [text, setText] = useState("");
  const [about, setAbout] = useState(null);
  const [spread, setSpread] = useState(null);
  const [busy, setBusy] = useState(false);
  const running = useRef(null);
  const models = [...all("route").map((one) => one.name), ...all("model").map((one) => one.name)];
  const chosen = model || models[0] || "";
  const run = async (work) => {
    running.current = new AbortController();
    setBusy(true);
    try { await work(running.current.signal); }
    catch (fault) { setAbout({ fault: fault.name === "AbortError" ? "stopped" : `${fault.message}. Does an agent listen at ${base}, on the machine of this browser?` }); }
    finally { setBusy(false); }
  };
  const send = (event) => {
    event.preventDefault();
    setText(""); setAbout(null); setSpread(null);
    let whole = "";
    run(async (signal) => setAbout(await ask(base, { model: chosen, messages: [{ role: "user", content: prompt }] }, signal,
      (more) => { whole += more; setText(whole); })));
  };
  const test = () => {
    setText(""); setAbout(null);
    const found = new Map();
    run(async (signal) => {
      for (let n = 0; n < MOST; n++) {
        const one = await ask(base, { model: chosen, messages: [{ role: "user", content: `test ${n}` }], options: { num_predict: 1 } }, signal, () => {});
        const before = found.get(one.node || "not said") || { count: 0, total: 0 };
        found.set(one.node || "not said", { count: before.count + 1, total: before.total + one.total });
        setSpread(new Map(found));
      }
    });
  };
  return html`<section class="panel play"><h2>Playground</h2><form onSubmit=${send}>
    <div class="fields"><label>Through the agent at <input value=${base} spellcheck="false" onInput=${(event) => setBase(event.target.value.replace(/\/+$/, ""))} /></label>
    <label>Model or route <select value=${chosen} onChange=${(event) => setModel(event.target.value)}>${models.map((name) => html`<option value=${name}>${name}</option>`)}</select></label></div>
    <label>Say <textarea rows="3" value=${prompt} onInput=${(event) => setPrompt(event.target.value)}></textarea></label>
    <p class="actions"><button class="main" type="submit" disabled=${busy || !chosen}>Send</button>
      <button type="button" disabled=${busy || !chosen} onClick=${test}>Send ${MOST} test requests</button>
      <button type="button" disabled=${!busy} onClick=${() => running.current.abort()}>Stop</button></p></form>
    <div class="answer" aria-live="polite">${text}</div>
    ${about && (about.fault ? html`<p class="trouble">✕ ${about.fault}</p>` : html`<p class="meta"><span>answered by ${about.node || "a node that did not say"}</span>
      <span>first token ${millis(about.first)}</span><span>in all ${millis(about.total)}</span>${about.id
        ? html`<a href=${`#requests/${encodeURIComponent(about.id)}`}>why it went there</a>` : null}</p>`)}
    ${spread && html`<h3>Where they went</h3>${[...spread].sort().map(([node, { count, total }]) => html`<div class="share"><span>${node}</span>
      <progress max=${MOST} value=${count} aria-label=${`${node}: ${count}`}></progress><span class="number">${count}, ${millis(total / count)} each</span></div>`)}`}
  </section>`;
}
