// One request: what `wattmill explain` tells, drawn.
import { Ago, Fig } from "./figure.js";
import { ask } from "./live.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

const Facts = ({ items }) => html`<dl class="facts">${items.map(([label, f]) => html`<div><dt>${label}</dt><dd><${Fig} f=${f} name=${label} /></dd></div>`)}</dl>`;

function TimeLine({ a }) {
  if (!a.spans.length) return null;
  return html`<div class="timeline" role="img" aria-label=${a.spans.map((s) => `${s.label} ${s.figure.text}`).join(", ")}>${a.spans.map((s) => html`<span class=${`part tone-${s.tone}`} style=${{ flexGrow: s.share, flexBasis: 0 }} title=${`${s.label}: ${s.figure.text}`}>${s.share > 0.12 && html`<span>${s.label}</span>`}</span>`)}</div>
    <p class="axis">${a.spans.map((s) => html`<span><i class=${`swatch tone-${s.tone}`} aria-hidden="true"></i>${s.label} ${s.figure.text}</span>`)}</p>`;
}

const Attempt = ({ a, n, many }) => html`<li>
  <p><b>${many ? `Attempt ${n + 1}: ` : ""}${a.pool}</b> <span class=${`status-${a.status}`}>${a.status.replace("_", " ")}</span>${a.finish_reason && html` <span class="badge">${a.finish_reason}</span>`}${!a.booked && html` <span class="badge watch">not booked yet</span>`}${a.cause && html` <span class="quiet">${a.cause}</span>`}</p>
  <${TimeLine} a=${a} />
  <${Facts} items=${[...a.tokens.map((t) => [t.label, t.figure]), ["first token", a.ttft], ["in all", a.duration], ["energy, told", a.told], ["energy, settled", a.energy], ["reserved", a.reserved], ["charge", a.charge], ["cost", a.cost], ...(a.overrun.value ? [["overrun", a.overrun]] : [])]} />
  ${a.price && html`<p class="note">${a.price}</p>`}
</li>`;

export function RequestView({ id, f }) {
  const [story, setStory] = useState(null), [bad, setBad] = useState(null);
  const fresh = () => ask(`/api/requests/${encodeURIComponent(id)}`).then((s) => { setStory(s.view); setBad(null); }, setBad);
  const open = !story || story.attempts.some((a) => !a.booked || (a.energy.value === null && a.status === "finished"));
  useEffect(() => { fresh(); }, []);
  useEffect(() => { if (story && open && f.at_us - story.at_us < 120e6) fresh(); }, [f.at_us]);
  if (bad && !story) return html`<h2>${id}</h2><p class="status-failed" role="alert">${bad.message}</p><p class="note">${bad.help}</p>`;
  if (!story) return html`<p class="quiet" role="status">Reading its story …</p>`;
  return html`<div><h2><span class="id">${story.id}</span></h2>
    <p class="quiet"><${Ago} us=${story.at_us} now=${f.at_us} />, ${story.spender}${story.label && html`, own id <span class="id">${story.label}</span>`}</p><p>${story.model} <span class="quiet">${story.asked}</span></p></div>
    ${story.refusal && html`<p class="note status-refused"><b>${story.refusal}</b> ${story.message}</p>`}
    ${story.attempts.length > 0 && html`<h3>What happened</h3><ol class="steps">${story.attempts.map((a, n) => html`<${Attempt} a=${a} n=${n} many=${story.attempts.length > 1} />`)}</ol>`}
    ${story.candidates.length > 0 && html`<h3>Why there</h3><p class="why">${story.reason}</p><div class="wide" tabindex="0" role="region" aria-label="Candidates"><table><thead><tr><th scope="col">Place</th><th scope="col">Verdict</th><th scope="col" class="n">Expected charge</th><th scope="col" class="n">First token</th><th scope="col" class="n">In all</th></tr></thead>
    <tbody>${story.candidates.map((c) => html`<tr><td>${c.pool}</td><td class=${c.excluded ? "quiet" : ""}>${c.verdict}</td><td class="n"><${Fig} f=${c.charge} /></td><td class="n"><${Fig} f=${c.ttft} /></td><td class="n"><${Fig} f=${c.total} /></td></tr>`)}</tbody></table></div>`}
    <h3>In all</h3><${Facts} items=${[["charge", story.charge], ["cost", story.cost], ["margin", story.margin], ["energy, told", story.told], ["energy, settled", story.energy]]} />
    ${story.budget.length > 0 && html`<h3>Whose budget</h3><ul class="path">${story.budget.map((b) => html`<li>${b}</li>`)}</ul>`}
    ${story.note && html`<p class="note">${story.note}</p>`}
    <p class="note"><code>wattmill explain ${story.id}</code></p>`;
}
