// A chart as the server describes it: axes with their ticks, series with their points. The page only places them.
import { Mark } from "./figure.js";
import { html, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.js";

const TONES = ["blue", "vermilion", "green", "purple", "orange", "sky", "other"];
const PAD = { left: 54, right: 14, top: 8, bottom: 24 };

// Shapes as well as colours: a chart must be read without either.
const SHAPES = [
  (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
  (x, y, r) => `M${x} ${y - 1.2 * r}L${x + 1.15 * r} ${y + r}H${x - 1.15 * r}Z`,
  (x, y, r) => `M${x} ${y - 1.35 * r}L${x + 1.35 * r} ${y}L${x} ${y + 1.35 * r}L${x - 1.35 * r} ${y}Z`,
];
const shape = (n) => SHAPES[n % SHAPES.length];
const tone = (n) => `tone-${TONES[n % TONES.length]}`;

const placed = (side, log, from, to) => {
  const f = log ? Math.log : (v) => v;
  const low = f(side.low), high = f(side.high);
  return (v) => from + ((f(Math.max(v, log ? side.low : -Infinity)) - low) / (high - low)) * (to - from);
};

const path = (points, x, y, steps) => points.map(([px, py], n) => (n ? (steps ? `H${x(px).toFixed(1)}V${y(py).toFixed(1)}` : `L${x(px).toFixed(1)} ${y(py).toFixed(1)}`) : `M${x(px).toFixed(1)} ${y(py).toFixed(1)}`)).join("");

function Plot({ c, width }) {
  const height = c.kind === "scatter" ? Math.min(340, Math.max(230, width * 0.5)) : 190;
  const [sx, sy] = c.sides, right = width - PAD.right, bottom = height - PAD.bottom;
  const x = placed(sx, c.x.log, PAD.left, right), y = placed(sy, c.y.log, bottom, PAD.top);
  const steps = c.kind === "steps", lines = steps || c.kind === "lines";
  const crowded = c.series.reduce((n, s) => n + s.points.length, 0) > 60;
  const shown = sx.ticks.filter(([v], n) => n === 0 || x(v) - x(sx.ticks[n - 1][0]) > 26);
  const low = Math.max(sx.low, sy.low), high = Math.min(sx.high, sy.high);
  const rim = (by) => [[low, low * by], [high, high * by]].map(([px, py]) => `${x(px).toFixed(1)} ${Math.min(bottom, Math.max(PAD.top, y(py))).toFixed(1)}`);
  return html`<svg class="plot" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${c.says}>
    ${sy.ticks.map(([v, text]) => html`<path class="grid" d=${`M${PAD.left} ${y(v).toFixed(1)}H${right}`} /><text x=${PAD.left - 7} y=${y(v) + 4} text-anchor="end">${text}</text>`)}
    ${shown.map(([v, text]) => html`<path class="tick" d=${`M${x(v).toFixed(1)} ${bottom}v4`} /><text x=${x(v)} y=${bottom + 18} text-anchor="middle">${text}</text>`)}
    <path class="frame" d=${`M${PAD.left} ${PAD.top}V${bottom}H${right}`} />
    ${c.diagonal && html`${c.band && html`<polygon class="band" points=${[...rim(1 - c.band), ...rim(1 + c.band).reverse()].join(" ")} />`}<path class="agree" d=${`M${x(low)} ${y(low)}L${x(high)} ${y(high)}`} />`}
    ${[...c.series.entries()].reverse().map(([n, s]) => html`<g class=${tone(n)}>
      ${(lines || s.joined) && html`<path class=${`line${s.dashed ? " dashed" : ""}`} d=${path(s.points, x, y, steps)} />`}
      ${!lines && s.points.map(([px, py], i) => html`<path class=${`dot${s.dashed ? " hollow" : ""}${crowded && !s.joined ? " faint" : ""}`} d=${shape(n)(x(px), y(py), crowded && !s.joined ? 2.4 : 4)}><title>${`${s.name}${s.names[i] ? `, ${s.names[i]}` : ""}: ${px.toPrecision(4)} ${c.x.unit}, ${py.toPrecision(4)} ${c.y.unit}`}</title></path>`)}</g>`)}
  </svg>`;
}

const Axis = ({ a }) => html`<span><${Mark} p=${a.provenance} />${a.label}${!a.names.length && html`, <b>${a.unit}</b>`}${a.label !== a.provenance && !a.names.length && html` · ${a.provenance}`}</span>`;

export function Chart({ c, rows }) {
  const ref = useRef(null), [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => ref.current && setWidth(Math.floor(ref.current.getBoundingClientRect().width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return html`<figure class="chart" data-chart=${c.id}><figcaption><h3>${c.title}</h3>${rows && html`<a class="quiet" href=${`#rows=${encodeURIComponent(rows)}`} aria-label=${`rows of: ${c.title}`}>rows</a>`}</figcaption>
    <p class="axis"><span aria-hidden="true">↑</span><${Axis} a=${c.y} /></p>
    <div ref=${ref}>${width > 0 && html`<${Plot} c=${c} width=${width} />`}</div>
    <p class="axis x"><${Axis} a=${c.x} /><span aria-hidden="true">→</span></p>
    ${(c.series.length > 1 || c.series[0]?.dashed || c.diagonal) && html`<ul class="legend">${c.series.map((s, n) => html`<li class=${tone(n)}><svg width="18" height="12" aria-hidden="true">${(s.joined || c.kind !== "scatter") && html`<path class=${`line${s.dashed ? " dashed" : ""}`} d="M0 6H18" />`}${c.kind === "scatter" && html`<path class=${`dot${s.dashed ? " hollow" : ""}`} d=${shape(n)(9, 6, 3.4)} />`}</svg>${s.name}</li>`)}${c.band && html`<li><svg width="18" height="12" aria-hidden="true"><rect class="band" y="1" width="18" height="10" /><path class="agree" d="M0 6H18" /></svg>agrees, ± ${c.band * 100} %</li>`}</ul>`}
  </figure>`;
}
