// The efficiency room: two chains from what is paid to what is useful, each loss with its bar, its rows, its lever.
import { Fig, Mark } from "./figure.js";
import { ask } from "./live.js";
import { SheetTable } from "./twin.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

const BACK = [["15m", "15 minutes"], ["1h", "hour"], ["1d", "day"]];
const AGAIN_MS = 15000;
const TONES = {
  down: "vermilion", idle: "idle", "over-provisioned": "other", queue: "purple", network: "sky", padding: "yellow", "shallow batch": "orange",
  late: "orange", failed: "vermilion", aborted: "yellow", retried: "purple", rejected: "other",
  conversion: "orange", cooling: "sky", "idle power": "idle", unattributed: "other", service: "sky", foreign: "purple", "wasted joules": "vermilion",
};

// `code` in the server's sentences
const Words = ({ text }) => html`${text.split("`").map((part, n) => (n % 2 ? html`<code>${part}</code>` : part))}`;

const Bar = ({ stage, before }) => {
  if (stage.factor.value === null) return html`<div class="chain-bar unknown" aria-hidden="true"></div>`;
  let at = stage.left;
  return html`<div class="chain-bar" aria-hidden="true"><i class=${`kept ${stage.factor.provenance}`} style=${{ width: `${stage.left * 100}%` }}></i>
    ${stage.losses.filter((l) => l.points.value > 0).map((l) => {
      const from = at;
      at += l.points.value;
      return html`<i class=${`lost tone-${TONES[l.name]} ${l.points.provenance}`} style=${{ left: `${from * 100}%`, width: `max(2px, ${l.points.value * 100}%)` }} title=${`${l.name}: ${l.points.text} of all`}></i>`;
    })}<b style=${{ left: `${before * 100}%` }}></b></div>`;
};

function Chain({ c }) {
  let before = 1;
  return html`<h3>${c.title}</h3><p class="chain-says"><b><${Fig} plain f=${c.factor} name=${c.title} /></b> <span class="quiet"><${Fig} plain f=${c.whole} name="whole" /> → <${Fig} plain f=${c.useful} name="useful" /></span></p>
    <div class="chain" role="table" aria-label=${`${c.title}: ${c.says}`}>${c.stages.map((stage) => {
      const from = before;
      if (stage.factor.value !== null) before = stage.left;
      return html`<div class="chain-stage" role="row" key=${stage.name}><span role="rowheader">${stage.name}</span><span role="cell" class="n"><${Fig} f=${stage.factor} name=${stage.name} /></span><span role="cell"><${Bar} stage=${stage} before=${from} /></span>
        <span role="cell" class="losses">${stage.losses.map((l) => html`<span class=${l.points.value > 0 ? "" : "quiet"} title=${l.note}><i class=${`swatch tone-${TONES[l.name]}`} aria-hidden="true"></i>${l.name} <${Fig} plain f=${l.points} name=${`${l.name}, of all`} /></span>`)}</span></div>`;
    })}</div>`;
}

export function Efficiency() {
  const [back, setBack] = useState("1h"), [page, setPage] = useState(null), [bad, setBad] = useState(null);
  useEffect(() => {
    const read = () => ask(`/api/efficiency?back=${back}`).then((p) => { setPage(p); setBad(null); }, setBad);
    read();
    const again = setInterval(read, AGAIN_MS);
    return () => clearInterval(again);
  }, [back]);
  if (bad && !page) return html`<p class="status-failed" role="alert">${bad.message}</p><p class="note">${bad.help || ""}</p>`;
  if (!page) return html`<p class="quiet" role="status">Adding up the period …</p>`;
  return html`<div class="row between"><h2>Where what is paid for goes</h2><span class="row" role="group" aria-label="Period">${BACK.map(([id, name]) => html`<button class="btn small" aria-pressed=${back === id} onClick=${() => setBack(id)}>${name}</button>`)}</span></div>
    <p class="why">${page.says}</p><p class="note period">${page.period}</p>
    <dl class="facts">${page.facts.map((x) => html`<div><dt>${x.label}</dt><dd><${Fig} f=${x.figure} name=${x.label} /></dd></div>`)}</dl>
    ${page.chains.map((c) => html`<${Chain} key=${c.id} c=${c} />`)}
    ${page.levers.length > 0 && html`<h3>What would help most</h3><ol class="levers">${page.levers.slice(0, 4).map((l) => html`<li key=${l.loss}><span class="n"><${Fig} f=${l.gain} name=${`without ${l.loss}`} /></span><span><i class=${`swatch tone-${TONES[l.loss]}`} aria-hidden="true"></i>without <b>${l.loss}</b>: <${Words} text=${l.what} /></span></li>`)}</ol>`}
    <${SheetTable} t=${page.places} />
    <ul class="notes">${page.notes.map((n) => html`<li>${n}</li>`)}</ul>
    <p class="note"><code>wattmill efficiency</code> prints the same; <code>wattmill efficiency --site FILE</code> brings conversion and cooling.</p>`;
}
