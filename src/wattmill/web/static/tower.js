// Seven layers from power to agents. Bars are shares of what passes through a floor; ribbons join equal things.
import { Fig, Mark } from "./figure.js";
import { html, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.js";

function Part({ p, width }) {
  const room = width * p.share;
  const marked = p.figure.provenance === "modelled" ? " modelled" : p.figure.provenance === "estimated" ? " estimated" : "";
  return html`<span class=${`part tone-${p.tone}${marked}`} style=${{ flexGrow: p.share, flexBasis: 0 }} title=${`${p.label}: ${p.figure.text} (${p.figure.provenance})`}>
    ${room > p.label.length * 7.4 + 20 && html`<span>${p.label}${room > (p.label + p.figure.text).length * 7.6 + 26 && html`<em>${p.figure.text}</em>`}</span>`}
  </span>`;
}

const words = (f) => f.missing ? "" : `: ${f.parts.map((p) => `${p.label} ${p.figure.text}`).join(", ")}`;

function Floor({ f, room, open, width, step }) {
  const here = f.room && f.room === room ? " here" : "";
  const go = f.room && (() => open(f.room));
  return html`<li class=${`floor${here}`}>
    ${f.room
      ? html`<button class="name" data-floor=${f.id} aria-pressed=${f.room === room} onClick=${go} onKeyDown=${step}><b><i>${f.number ?? "$"}</i>${f.name}</b><small>${f.says}<span class="unseen">${words(f)}</span></small></button>`
      : html`<div class="name"><b><i>${f.number ?? "$"}</i>${f.name}</b><small>${f.says}</small></div>`}
    <div class="total"><${Fig} f=${f.total} name=${`${f.name}, ${f.says}`} /></div>
    <div class="bar" data-id=${f.id} onClick=${go} aria-hidden=${f.missing ? null : "true"}>
      ${f.missing ? html`<div class="absent"><span>${f.missing}</span></div>` : f.parts.map((p) => html`<${Part} key=${p.id} p=${p} width=${width} />`)}
    </div>
  </li>`;
}

// Where each part begins on its floor, in pixels; bars have 2 px between parts.
function spans(floor, width) {
  const free = width - 2 * (floor.parts.length - 1), out = {};
  let x = 0;
  for (const p of floor.parts) {
    const w = Math.max(3, free * p.share);
    out[p.id] = { x, w, share: p.share, used: 0, fed: 0 };
    x += w + 2;
  }
  return out;
}

function Ribbons({ floors, flows, box, alive }) {
  if (!box) return null;
  const at = {};
  for (const f of floors) for (const [id, s] of Object.entries(spans(f, box.width))) at[id] = { ...s, ...box.bars[f.id] };
  const drawn = flows.flatMap((flow) => {
    const a = at[flow.source], b = at[flow.target];
    if (!a || !b) return [];
    const aw = (a.w * flow.source_share) / a.share, bw = (b.w * flow.target_share) / b.share;
    const ax = a.x + a.used, bx = b.x + b.fed;
    a.used += aw; b.fed += bw;
    const y0 = a.top, y1 = b.top + b.height, my = (y0 + y1) / 2;
    const side = (p, q, up) => `C${p} ${my} ${q} ${my} ${q} ${up ? y1 : y0}`;
    const d = `M${ax} ${y0}${side(ax, bx, true)}L${bx + bw} ${y1}${side(bx + bw, ax + aw, false)}Z`;
    const line = `M${ax + aw / 2} ${y0}${side(ax + aw / 2, bx + bw / 2, true)}`;
    return [{ id: `${flow.source}>${flow.target}`, d, line, tone: flow.tone, modelled: flow.modelled, wide: Math.min(aw, bw) > 5 }];
  });
  // Hatched colours are patterns, and what moves has a layer of its own: the ribbons are painted once a change.
  const hatched = [...new Set(drawn.filter((r) => r.modelled).map((r) => r.tone))];
  const frame = { width: box.width, height: box.height, viewBox: `0 0 ${box.width} ${box.height}`, "aria-hidden": "true" };
  return html`<svg class="ribbons" ...${frame}>
    <defs>${hatched.map((tone) => html`<pattern key=${tone} id=${`hatch-${tone}`} class=${`tone-${tone}`} width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="7" height="7" fill="var(--tone)" opacity=".5" /><rect width="4" height="7" fill="var(--tone)" /></pattern>`)}</defs>
    ${drawn.map((r) => html`<path key=${r.id} class=${`ribbon tone-${r.tone}`} d=${r.d} fill=${r.modelled ? `url(#hatch-${r.tone})` : "var(--tone)"} />`)}
  </svg>
  ${alive && html`<svg class="ribbons moving" ...${frame}>${drawn.filter((r) => r.wide).map((r) => html`<path key=${r.id} class=${`stream tone-${r.tone}`} d=${r.line} stroke="var(--tone)" />`)}</svg>`}`;
}

export function Tower({ figures, room, open }) {
  const ref = useRef(null), [box, setBox] = useState(null);
  const top = [...figures.floors].reverse();
  useLayoutEffect(() => {
    const measure = () => {
      const own = ref.current.getBoundingClientRect(), bars = {};
      let width = 0;
      for (const bar of ref.current.querySelectorAll(".bar[data-id]")) {
        const r = bar.getBoundingClientRect();
        bars[bar.dataset.id] = { top: r.top - own.top, height: r.height };
        width = r.width;
      }
      setBox({ width, height: own.height, bars });
    };
    const watch = new ResizeObserver(measure);
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  const step = (event) => {
    const way = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!way) return;
    const doors = [...ref.current.querySelectorAll("button.name")];
    doors[doors.indexOf(event.currentTarget) + way]?.focus();
    event.preventDefault();
  };
  const alive = (figures.line.find((item) => item.id === "tok_per_s")?.figure.value || 0) > 0;
  const width = box ? box.width : 0;
  return html`<section class="sheet" aria-labelledby="tower-title">
    <header><h2 id="tower-title">Watt to value</h2><span class="quiet">last 60 s</span></header>
    <ol class="tower" ref=${ref}>
      ${top.map((f) => html`<${Floor} key=${f.id} f=${f} room=${room} open=${open} width=${width} step=${step} />`)}
      <li class="unseen">The ribbons between floors repeat the table below.</li>
      <${Ribbons} floors=${figures.floors} flows=${figures.flows} box=${box} alive=${alive} />
    </ol>
    <div class="key"><span><${Mark} p="measured" />measured</span><span><${Mark} p="modelled" />modelled</span><span><${Mark} p="estimated" />estimated</span><span><${Mark} p="declared" />declared</span><span><${Mark} p="unknown" />unknown</span></div>
    <details><summary>The tower as a table</summary><div class="wide" tabindex="0" role="region" aria-label="The tower as a table"><table>
      <thead><tr><th scope="col">Layer</th><th scope="col">Part</th><th scope="col" class="n">Amount</th><th scope="col">Known by</th></tr></thead>
      <tbody>${top.flatMap((f) => f.parts.length
        ? f.parts.map((p) => html`<tr><td>${f.number ?? "$"} ${f.name}, ${f.says}</td><td><i class=${`swatch tone-${p.tone}`}></i>${p.label}</td><td class="n"><${Fig} plain f=${p.figure} name=${p.label} /></td><td>${p.figure.provenance}</td></tr>`)
        : [html`<tr><td>${f.number ?? "$"} ${f.name}, ${f.says}</td><td colspan="3" class="quiet">${f.missing}</td></tr>`])}</tbody></table></div></details>
  </section>`;
}
