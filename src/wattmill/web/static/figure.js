// One figure as people read it: the text comes from the server, the page never rounds or computes.
import { html } from "./vendor/preact-htm.js";

export const Mark = ({ p }) => html`<i class=${`mark ${p}`} aria-hidden="true"></i>`;

// "49.3 W" -> number and unit, so that the unit can be set smaller.
const split = (text) => {
  const at = text.search(/ (?=[^\d])/);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
};

const ROOM_OF = { "/api/twin": "twin" }; // what has a room of its own is no list of rows

export const rowsLink = (rows) => {
  if (!rows) return null;
  if (ROOM_OF[rows]) return `#room=${ROOM_OF[rows]}`;
  const request = rows.match(/^\/api\/requests\/(req_\w+)$/);
  return request ? `#request=${request[1]}` : `#rows=${encodeURIComponent(rows)}`;
};

const said = (f) => `${f.value === null ? "unknown" : f.text}, ${f.provenance}`;

// A link to the rows it was computed from; `plain` leaves the mark out (inside tables whose column says it).
export function Fig({ f, plain, name }) {
  if (!f) return html`<span class="fig">–</span>`;
  const [number, unit] = split(f.text);
  const title = [f.note, f.provenance].filter(Boolean).join(" · ");
  const inner = html`${!plain && f.value !== null && html`<${Mark} p=${f.provenance} />`}<span class="num">${number}</span>${unit && html`<span class="unit"> ${unit}</span>`}`;
  const link = rowsLink(f.rows);
  const label = `${name ? name + ": " : ""}${said(f)}`;
  if (!link) return html`<span class="fig" title=${title}>${inner}</span>`;
  return html`<a class="fig" href=${link} title=${title} aria-label=${label}>${inner}</a>`;
}

export function Spark({ points, label }) {
  const values = (points || []).map((p) => p[1]).filter((v) => v !== null);
  if (values.length < 2) {
    return html`<svg class="spark" viewBox="0 0 100 22" preserveAspectRatio="none" aria-hidden="true"><path class="flat" d="M0 20H100" /></svg>`;
  }
  const low = Math.min(...values), high = Math.max(...values), from = points[0][0], span = points[points.length - 1][0] - from || 1;
  const y = (v) => (high === low ? 12 : 20 - ((v - low) / (high - low)) * 17);
  let d = "", pen = "M";
  for (const [t, v] of points) {
    if (v === null) { pen = "M"; continue; }
    d += `${pen}${(((t - from) / span) * 100).toFixed(2)} ${y(v).toFixed(2)}`;
    pen = "L";
  }
  const text = `${label}: trend of ${values.length} readings, now ${high === low ? "steady" : values[values.length - 1] >= values[0] ? "above its first" : "below its first"}`;
  return html`<svg class="spark" viewBox="0 0 100 22" preserveAspectRatio="none" role="img" aria-label=${text}><path d=${d} /></svg>`;
}

export const usLocal = (us) => new Date(us / 1000);

export function Ago({ us, now }) {
  if (!us) return html`–`;
  const s = Math.max(0, Math.round((now - us) / 1e6));
  const text = s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
  const when = usLocal(us);
  return html`<time datetime=${when.toISOString()} title=${when.toLocaleString()}>${text} ago</time>`;
}

export const Cap = ({ f, none }) => {
  if (!f || f.value === null) return none ? html`<div class="cap none" aria-hidden="true"></div>` : null;
  const kind = f.value >= 1 ? "full" : f.value >= 0.8 ? "near" : "";
  return html`<div class=${`cap ${kind}`} aria-hidden="true"><i style=${{ width: `${Math.min(100, f.value * 100)}%` }}></i></div>`;
};
