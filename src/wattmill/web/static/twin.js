// The twin room: how far the twin can be trusted, and what it was asked. Commands run elsewhere; this reads.
import { Chart } from "./chart.js";
import { Ago, Fig, usLocal } from "./figure.js";
import { ask } from "./live.js";
import { useOrder } from "./order.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

const KINDS = { simulate: "simulation", plan: "plan", check: "check", rehearse: "rehearsal" };
const AGAIN_MS = 15000; // somebody may run a command while the room is open

const Facts = ({ facts }) => html`<dl class="facts">${facts.map((x) => html`<div><dt>${x.label}</dt><dd><${Fig} f=${x.figure} name=${x.label} /></dd></div>`)}</dl>`;

export function Sheet({ s, base }) {
  return html`<${Facts} facts=${s.facts} />
    ${s.charts.map((c) => html`<${Chart} key=${c.id} c=${c} rows=${`${base}/${c.id}`} />`)}
    ${s.tables.map((t) => html`<${SheetTable} key=${t.id} t=${t} rows=${`${base}/${t.id}`} />`)}
    ${s.notes.length > 0 && html`<h3>What it stands on</h3><ul class="notes">${s.notes.map((n) => html`<li>${n}</li>`)}</ul>`}`;
}

const valueAt = (n) => (row) => (typeof row[n] === "string" ? row[n] : row[n].value);

export function SheetTable({ t, rows }) {
  const [head, ordered] = useOrder(t.columns.map((c, n) => [c.name, valueAt(n), c.number]), t.rows);
  return html`<div class="row between"><h3>${t.title}</h3>${rows && html`<a class="quiet" href=${`#rows=${encodeURIComponent(rows)}`} aria-label=${`rows of: ${t.title}`}>rows</a>`}</div>
  <div class="wide sheet-table" tabindex="0" role="region" aria-label=${t.title}><table>${head}
  <tbody>${ordered.map((r) => html`<tr>${r.map((cell, n) => (typeof cell === "string" ? html`<td class=${t.columns[n].number ? "n" : cell.length > 30 ? "long" : ""}>${cell}</td>` : html`<td class="n"><${Fig} plain f=${cell} /></td>`))}</tr>`)}</tbody></table></div>
  ${t.note && html`<p class="note">${t.note}</p>`}`;
}

export function Result({ id, f }) {
  const [s, setS] = useState(null), [bad, setBad] = useState(null);
  useEffect(() => { ask(`/api/twin/results/${encodeURIComponent(id)}`).then(setS, setBad); }, []);
  if (bad) return html`<p class="status-failed" role="alert">${bad.message}</p><p class="note">${bad.help}</p>`;
  if (!s) return html`<p class="quiet" role="status">Reading the result …</p>`;
  return html`<header class="sheet-head"><p><span class="badge">${KINDS[s.kind]}</span> <span class="quiet"><${Ago} us=${s.at_us} now=${f.at_us} />, ${usLocal(s.at_us).toLocaleString()}</span></p><h2>${s.title}</h2><p>${s.says}</p></header>
    <${Sheet} s=${s} base=${`/api/twin/results/${s.id}`} />
    <p class="note"><a href="#room=twin">All results</a></p>`;
}

function Calibration({ one, f }) {
  const [s, setS] = useState(null);
  useEffect(() => { if (one.check) ask(`/api/twin/results/${one.check}`).then(setS, () => setS(null)); }, [one.check]);
  return html`<article class="place"><header><b>${one.model}</b><small>${one.engine}</small>${one.stale && html`<span class="badge watch">fitted again since its check</span>`}${one.checked_us === null && html`<span class="badge watch">never checked</span>`}
      <span class="quiet">fitted <${Ago} us=${one.fitted_us} now=${f.at_us} />${one.checked_us !== null && html`, checked <${Ago} us=${one.checked_us} now=${f.at_us} />`}</span></header>
    <${Facts} facts=${one.facts} />
    ${one.held && html`<p class="why">${one.held}. <a href=${`#result=${one.check}`}>The check</a></p>`}
    ${s && html`<div class="small-multiples">${s.charts.map((c) => html`<${Chart} key=${c.id} c=${c} rows=${`/api/twin/results/${s.id}/${c.id}`} />`)}</div>`}</article>`;
}

const Commands = ({ all, kinds }) => html`<ul class="commands">${all.filter(([kind]) => kinds.includes(kind)).map(([, words, command]) => html`<li><span class="quiet">${words}</span> <code>${command}</code></li>`)}</ul>`;

export function Twin({ f }) {
  const [room, setRoom] = useState(null), [bad, setBad] = useState(null);
  useEffect(() => {
    const read = () => ask("/api/twin").then((r) => { setRoom(r); setBad(null); }, setBad);
    read();
    const again = setInterval(read, AGAIN_MS);
    return () => clearInterval(again);
  }, []);
  if (bad && !room) return html`<p class="status-failed" role="alert">${bad.message}</p><p class="note">${bad.help || ""}</p>`;
  if (!room) return html`<p class="quiet" role="status">Reading what the twin left …</p>`;
  const have = new Set(room.results.map((r) => r.kind));
  const missing = ["simulate", "plan"].filter((kind) => !have.has(kind));
  return html`<h2>How far off the twin is</h2><p class="note">Predicted against measured, where somebody checked.</p>
    ${room.calibrations.length ? room.calibrations.map((one) => html`<${Calibration} key=${one.model} one=${one} f=${f} />`) : html`<p class="quiet">It was fitted to no place yet, so its error here is unknown.</p><${Commands} all=${room.commands} kinds=${["check"]} />`}
    <h3>What it was asked</h3>
    ${room.results.length > 0 && html`<div class="wide" tabindex="0" role="region" aria-label="Results of the twin"><table><thead><tr><th scope="col">When</th><th scope="col">What</th><th scope="col">Answer</th></tr></thead>
    <tbody>${room.results.map((r) => html`<tr key=${r.id} class="go" onClick=${(e) => { if (!e.target.closest("a")) location.hash = `#result=${r.id}`; }}><td class="when"><${Ago} us=${r.at_us} now=${f.at_us} /></td><td><span class="badge">${KINDS[r.kind]}</span> <a href=${`#result=${r.id}`}>${r.title}</a></td><td class="quiet">${r.says}</td></tr>`)}</tbody></table></div>`}
    ${missing.length > 0 && html`${room.results.length === 0 && html`<p class="quiet">Nothing yet.</p>`}<${Commands} all=${room.commands} kinds=${missing} />`}
    <p class="note">Everything here is modelled unless it says otherwise. Results stay in the factory's folder, the newest 60 of each kind.</p>`;
}
