// One room per layer that has data, beside the tower: at most three visuals, then the rows.
import { Ago, Cap, Fig, Spark, usLocal } from "./figure.js";
import { Efficiency } from "./efficiency.js";
import { ask, send } from "./live.js";
import { useOrder } from "./order.js";
import { RequestView } from "./request.js";
import { Rows } from "./rows.js";
import { Result, Twin } from "./twin.js";
import { html, useState } from "./vendor/preact-htm.js";

export const ROOMS = [["places", "Places"], ["power", "Power"], ["efficiency", "Efficiency"], ["tenants", "Tenants"], ["decisions", "Decisions"], ["ledger", "Ledger"], ["twin", "Twin"]];

const Facts = ({ items }) => html`<dl class="facts">${items.map(([label, f]) => html`<div><dt>${label}</dt><dd><${Fig} f=${f} name=${label} /></dd></div>`)}</dl>`;

function Slots({ place }) {
  const { busy, slots } = place;
  if (slots.value === null || slots.value > 24) return html`<${Fig} f=${busy} name="busy" />${slots.value !== null && html` of ${slots.text}`}`;
  return html`<span class=${`slots tone-${place.tone}`} role="img" aria-label=${`${busy.text} of ${slots.text} slots busy`}>${Array.from({ length: slots.value }, (_, i) => html`<i class=${i < busy.value ? "on" : ""}></i>`)}</span>`;
}

function Wait({ place, most }) {
  const low = place.ttft_p50.value, high = place.ttft_p95.value;
  if (low === null || !most) return null;
  return html`<div class=${`range tone-${place.tone}`} role="img" aria-label=${`first token: half within ${place.ttft_p50.text}, 95 % within ${place.ttft_p95.text}`}><i style=${{ left: `${(low / most) * 100}%`, width: `${Math.max(1.5, ((high - low) / most) * 100)}%` }}></i></div>`;
}

function Places({ f }) {
  const most = Math.max(0, ...f.places.map((p) => p.ttft_p95.value || 0));
  if (!f.places.length) return html`<${Empty} f=${f} what="No place is known yet." />`;
  return html`${f.places.map((p) => html`<article class="place" key=${p.pool}>
    <header><i class=${`swatch tone-${p.tone}`} aria-hidden="true"></i><b>${p.pool}</b><small>${p.engine}</small>
      ${p.healthy === false && html`<span class="badge act">down</span>`}${p.healthy === null && html`<span class="badge">health unknown</span>`}
      ${p.stand_in && html`<span class="badge watch" title="An engine of this machine plays the provider; put a provider key into the environment to use the real one">stand-in for a provider</span>`}
      <span class="quiet"><${Slots} place=${p} /></span></header>
    <${Facts} items=${[["tokens out", p.tokens_out], ["tokens in", p.tokens_in], ["first token p50", p.ttft_p50], ["first token p95", p.ttft_p95], ["power", p.power], ["energy", p.energy_per_token], ["attempts today", p.requests], ["charge today", p.charge], ["cost today", p.cost]]} />
    <${Wait} place=${p} most=${most} />
  </article>`)}<p class="note">Tokens of the last 10 s. The bar runs from the median to the 95th percentile of the time to first token, all places on one scale.</p>`;
}

function Power({ f, trends }) {
  const floor = f.floors.find((x) => x.id === "power");
  return html`<${Facts} items=${[["host", f.power.host], ["idle", f.power.idle], ["the factory itself", f.power.service], ["other programs", f.power.foreign], ...(f.power.overhead.value ? [["conversion and cooling", f.power.overhead]] : []), ["unattributed", f.power.unattributed], ["useful share", f.power.useful], ["per token", f.power.per_token], ["last hour", f.power.hour]]} />
    <h3>Host power, as it was seen</h3><${Spark} points=${trends.host_w} label="host power" />
    ${floor.parts.length > 0 && html`<h3>Where it goes now</h3><div class="strip" role="img" aria-label=${floor.parts.map((p) => `${p.label} ${p.figure.text}`).join(", ")}>${floor.parts.map((p) => html`<span class=${`part tone-${p.tone} ${p.figure.provenance}`} style=${{ flexGrow: p.share, flexBasis: 0 }}></span>`)}</div>
    <table><thead><tr><th scope="col">Part</th><th scope="col" class="n">Power</th></tr></thead><tbody>${floor.parts.map((p) => html`<tr><td><i class=${`swatch tone-${p.tone}`}></i>${p.label}</td><td class="n"><${Fig} f=${p.figure} name=${p.label} /></td></tr>`)}</tbody></table>`}
    <p class="note">${f.power_source ? html`From: ${f.power_source}.${f.power.host.provenance === "measured" ? "" : html` No meter of this machine says so: <code>wattmill doctor</code> tells which it has.`}` : "No meter is read while the factory is down."}</p>`;
}

function Tenants({ f }) {
  if (!f.spenders.length) return html`<${Empty} f=${f} what="Nobody may spend yet." help="wattmill keys create ORG/TEAM NAME" />`;
  return html`<div class="wide" tabindex="0" role="region" aria-label="Spend by tenant"><table><thead><tr><th scope="col">Who</th><th scope="col" class="n">Today</th><th scope="col" class="n">Used</th><th scope="col" class="n">Cap</th><th scope="col"><span class="unseen">of cap</span></th><th scope="col" class="n">Share</th></tr></thead>
    <tbody>${f.spenders.map((s) => html`<tr key=${s.id}><td class=${`depth-${s.depth}`}>${s.tone && html`<i class=${`swatch tone-${s.tone}`} aria-hidden="true"></i>`}${s.name}</td><td class="n"><${Fig} plain f=${s.today} name=${`${s.name}, today`} /></td><td class="n"><${Fig} plain f=${s.used} name=${`${s.name}, used`} /></td><td class="n"><${Fig} plain f=${s.cap} /></td><td><${Cap} f=${s.cap_used} none /></td><td class="n"><${Fig} plain f=${s.cap_used} name=${`${s.name}, share of cap`} /></td></tr>`)}</tbody></table></div>
    ${f.limits.length > 0 && html`<${Limits} limits=${f.limits} />`}
    ${f.runs.length > 0 && html`<${Runs} runs=${f.runs} now=${f.at_us} />`}
    <p class="note">A cap is hard: what could pass it is refused before it leaves. <code>wattmill budget set ORG/TEAM 5</code> changes one.</p>`;
}

const Limits = ({ limits }) => html`<h3>Limits of other units and periods</h3><div class="wide" tabindex="0" role="region" aria-label="Limits beside caps"><table><thead><tr><th scope="col">Limit of</th><th scope="col">At most</th><th scope="col" class="n">Used</th><th scope="col" class="n">Left</th><th scope="col"><span class="unseen">of the limit</span></th><th scope="col" class="n">Share</th></tr></thead>
    <tbody>${limits.map((l) => html`<tr key=${`${l.node} ${l.at_most}`}><td>${l.name}</td><td class="when" title=${l.resets_us === null ? "never begins anew" : `begins anew ${usLocal(l.resets_us).toLocaleString()}`}>${l.at_most}</td><td class="n" title=${`${l.reserved} reserved by requests in flight`}>${l.used}</td><td class="n">${l.left}</td><td><${Cap} f=${l.share} none /></td><td class="n"><${Fig} plain f=${l.share} name=${`${l.name}, share of ${l.at_most}`} /></td></tr>`)}</tbody></table></div>
    <p class="note"><code>wattmill budget set ORG/TEAM 60 requests/minute</code> sets one.</p>`;

const Runs = ({ runs, now }) => html`<h3>Open runs</h3><div class="wide" tabindex="0" role="region" aria-label="Open runs"><table><thead><tr><th scope="col">Run</th><th scope="col">State</th><th scope="col">Opened</th><th scope="col" class="n">Spent</th><th scope="col" class="n">Cap</th><th scope="col"><span class="unseen">of cap</span></th><th scope="col" class="n">Share</th></tr></thead>
    <tbody>${runs.map((r) => html`<tr key=${r.node}><td title=${r.name}>${r.node} <small>${r.label || r.name.split("/").pop()}</small></td><td class=${r.state === "open" ? "" : "status-failed"} title=${r.reason || ""}>${r.state}</td><td><${Ago} us=${r.opened_us} now=${now} /></td><td class="n"><${Fig} plain f=${r.spent} name=${`run ${r.node}, spent`} /></td><td class="n"><${Fig} plain f=${r.cap} /></td><td><${Cap} f=${r.cap_used} none /></td><td class="n"><${Fig} plain f=${r.cap_used} name=${`run ${r.node}, share of cap`} /></td></tr>`)}</tbody></table></div>
    <p class="note"><code>wattmill runs top-up RUN 1 USD</code> gives one more, <code>wattmill runs stop RUN</code> ends one.</p>`;

const Tiers = ({ tiers }) => html`<h3>Tiers, last hour</h3><div class="wide" tabindex="0" role="region" aria-label="Tiers and their promises"><table><thead><tr><th scope="col">Tier</th><th scope="col">Promise</th><th scope="col" class="n">Kept</th><th scope="col" class="n">Asked</th><th scope="col" class="n">Refused</th><th scope="col" class="n">Waiting now</th><th scope="col" class="n">Charge</th><th scope="col" class="n">Margin</th></tr></thead>
    <tbody>${tiers.map((t) => html`<tr key=${t.name}><td><b>${t.name}</b> <small>${t.price}</small></td><td title=${t.source}>${t.promise}</td><td class="n"><${Fig} plain f=${t.kept} name=${`${t.name}, promise kept`} /></td><td class="n"><${Fig} plain f=${t.offered} /></td><td class="n"><${Fig} plain f=${t.refused} /></td><td class="n"><${Fig} plain f=${t.waiting} /></td><td class="n"><${Fig} plain f=${t.charge} /></td><td class="n"><${Fig} plain f=${t.margin} /></td></tr>`)}</tbody></table></div>
    <p class="note">Kept is the share of what was asked: first token in time and fast enough, refusals for want of room not kept.</p>`;

const Counts = ({ items }) => {
  const most = Math.max(1, ...items.map((c) => c.figure.value || 0));
  return html`<div class="counts">${items.map((c) => html`<span>${c.label}</span><div class="cap" aria-hidden="true"><i style=${{ width: `${((c.figure.value || 0) / most) * 100}%` }}></i></div><${Fig} plain f=${c.figure} name=${c.label} />`)}</div>`;
};

function Decisions({ f }) {
  const told = f.recent.filter((r) => r.reason).slice(0, 6);
  return html`${f.tiers.length > 0 && html`<${Tiers} tiers=${f.tiers} />`}<h3>Attempts today, by how they ended</h3><${Counts} items=${f.statuses} />
    ${f.refusals.length > 0 && html`<h3>Refused today, by reason</h3><${Counts} items=${f.refusals} />`}
    <h3>The last decisions</h3>${told.length ? html`<ol class="steps">${told.map((r) => html`<li key=${r.id + r.attempt}><a href=${`#request=${r.id}`}><b>${r.pool}</b></a> <span class="quiet">for ${r.key}, <${Ago} us=${r.at_us} now=${f.at_us} /></span><p class="why quiet">${r.reason}</p></li>`)}</ol>` : html`<p class="quiet">None yet.</p>`}`;
}

function Ledger({ f }) {
  const [audit, setAudit] = useState(null), [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    try { setAudit(await ask("/api/audit")); } catch (e) { setAudit({ failed: e.message }); }
    setBusy(false);
  };
  const b = f.books;
  return html`<${Facts} items=${[["difference", b.difference], ["in doubt", b.in_doubt], ["unmetered", b.unmetered], ["overrun", b.overrun], ["behind the journal", b.lag], ["requests today", b.requests], ["charge today", f.money.charge_today], ["cost today", f.money.cost_today], ["margin today", f.money.margin_today]]} />
    <h3>Proof on the spot</h3><p class="row"><button class="btn" onClick=${run} disabled=${busy}>${busy ? "Adding up …" : "Run the audit"}</button><a class="btn" href="#rows=%2Fapi%2Frows%2Fbalances">Balances</a><span class="quiet">or <code>wattmill audit</code></span></p>
    <div role="status">${audit && html`<${Audit} a=${audit} />`}</div>
    <h3>Processes</h3>${f.processes.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Processes"><table><thead><tr><th scope="col">Role</th><th scope="col">State</th><th scope="col">Since</th><th scope="col" class="n">Restarts</th><th scope="col" class="n">In flight</th><th scope="col" class="n">Core</th><th scope="col" class="n">Memory</th></tr></thead>
    <tbody>${f.processes.map((p) => html`<tr key=${p.role}><td>${p.role}</td><td class=${p.state === "up" ? "" : "status-failed"}>${p.state}</td><td><${Ago} us=${p.since_us} now=${f.at_us} /></td><td class="n" title=${p.last_exit || ""}>${p.restarts}</td><td class="n"><${Fig} plain f=${p.in_flight} /></td><td class="n"><${Fig} plain f=${p.cpu} /></td><td class="n"><${Fig} plain f=${p.rss} /></td></tr>`)}</tbody></table></div>` : html`<p class="quiet">None runs. <code>wattmill up</code></p>`}
    <p class="row note"><button class="btn" onClick=${() => send("/api/reload", {}).then(() => setAudit({ told: "Asked the supervisor to read the declaration again." }), (e) => setAudit({ failed: e.message }))}>Reload the declaration</button></p>`;
}

function Audit({ a }) {
  if (a.failed) return html`<p class="note status-failed">${a.failed}</p>`;
  if (a.told) return html`<p class="note">${a.told}</p>`;
  const checks = a.checks || [];
  return html`<p><b class=${a.ok ? "" : "status-failed"}>${a.ok ? "Everything holds." : "Something does not hold."}</b> <span class="quiet">${(a.attempts || 0).toLocaleString()} attempts added up from their postings.</span></p>${checks.length > 0 && html`<table><tbody>${checks.map((c) => html`<tr><td>${c.holds ? "holds" : html`<b class="status-failed">broken</b>`}</td><td>${c.name}</td><td class="quiet">${c.detail}${c.rows.map((r) => html`<br /><span class="id">${r}</span>`)}</td></tr>`)}</tbody></table>`}`;
}

export function Empty({ f, what, help }) {
  if (!f.running) return html`<p>${what}</p><p class="note">The factory is not running. <code>wattmill up</code> starts it.</p>`;
  const url = f.gateway_url || "http://127.0.0.1:8686";
  return html`<p>${what}</p><p class="note">${help ? html`<code>${help}</code>` : html`Send one: <code>curl ${url}/v1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d '{"model":"smollm2-135m","messages":[{"role":"user","content":"Hello"}]}'</code>`}</p>`;
}

const VIEWS = { places: Places, power: Power, tenants: Tenants, decisions: Decisions, ledger: Ledger, efficiency: Efficiency, twin: Twin };

export function Room({ at, f, trends }) {
  const View = VIEWS[at.view];
  return html`<nav class="rooms" aria-label="Rooms">${ROOMS.map(([id, name]) => html`<a key=${id} href=${`#room=${id}`} aria-current=${at.view === id || (at.view === "result" && id === "twin") ? "page" : null}>${name}</a>`)}</nav>
    ${View ? html`<${View} f=${f} trends=${trends} />` : at.view === "request" ? html`<${RequestView} key=${at.id} id=${at.id} f=${f} />` : at.view === "result" ? html`<${Result} key=${at.id} id=${at.id} f=${f} />` : html`<${Rows} key=${at.path} path=${at.path} f=${f} />`}`;
}

const ENDS = { finished: "finished", aborted: "client left", failed: "failed", cut: "cut", refused: "refused", in_doubt: "in doubt", "in flight": "in flight" };

const OF_REQUESTS = [["When", (r) => r.at_us], ["Request", (r) => r.id], ["Who", (r) => r.key], ["Place", (r) => r.pool], ["End", (r) => ENDS[r.status] || r.status], ["In", (r) => r.tokens_in.value, true], ["Out", (r) => r.tokens_out.value, true], ["First token", (r) => r.ttft.value, true], ["Energy", (r) => r.energy.value, true], ["Charge", (r) => r.charge.value, true]];

export function RequestTable({ rows, now, label }) {
  const [head, ordered] = useOrder(OF_REQUESTS, rows);
  return html`<div class="wide rows" tabindex="0" role="region" aria-label=${label}><table>${head}
    <tbody>${ordered.map((r) => html`<tr key=${r.id + "/" + r.attempt} class="go" onClick=${(e) => { if (!e.target.closest("a")) location.hash = `#request=${r.id}`; }}><td><${Ago} us=${r.at_us} now=${now} /></td><td><a class="id" href=${`#request=${r.id}`}>${r.id.length > 20 ? "…" + r.id.slice(-9) : r.id}</a>${r.attempt > 0 && html` <span class="badge">attempt ${r.attempt + 1}</span>`}</td><td>${r.key}</td><td><i class=${`swatch tone-${r.tone}`} aria-hidden="true"></i>${r.pool || "–"}</td><td class=${`status-${r.status}`}>${ENDS[r.status] || r.status}${r.error && html` <small>${r.error}</small>`}</td><td class="n"><${Fig} plain f=${r.tokens_in} /></td><td class="n"><${Fig} plain f=${r.tokens_out} /></td><td class="n"><${Fig} plain f=${r.ttft} /></td><td class="n"><${Fig} f=${r.energy} /></td><td class="n"><${Fig} plain f=${r.charge} /></td></tr>`)}</tbody></table></div>`;
}

export const Recent = ({ f }) => html`<section class="sheet recent" aria-labelledby="recent-title"><header><h2 id="recent-title">Recent requests</h2><a class="quiet" href="#rows=%2Fapi%2Frequests">all rows</a></header>
  ${f.recent.length ? html`<${RequestTable} rows=${f.recent} now=${f.at_us} label="Recent requests" />` : html`<${Empty} f=${f} what="No request yet." />`}</section>`;
