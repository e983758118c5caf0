// The rows behind a figure, a page at a time, to read or to take away.
import { usLocal } from "./figure.js";
import { RequestTable } from "./rooms.js";
import { ask } from "./live.js";
import { useOrder } from "./order.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

// Instants are microseconds in what is taken away, and a clock's time here.
const isInstant = (c, v) => c.endsWith("_us") && v > 1e15;
const said = (c, v) => (v === null ? "–" : isInstant(c, v) ? html`<time datetime=${usLocal(v).toISOString()}>${usLocal(v).toLocaleString()}</time>` : typeof v === "number" ? v.toLocaleString() : v);

function Plain({ page }) {
  const number = (c) => page.rows.some((r) => typeof r[c] === "number");
  const [head, ordered] = useOrder(page.columns.map((c) => [isInstant(c, page.rows[0][c]) ? c.slice(0, -3) : c, (r) => r[c], number(c)]), page.rows);
  return html`<div class="wide rows" tabindex="0" role="region" aria-label=${page.title}><table>${head}<tbody>${ordered.map((r) => html`<tr>${page.columns.map((c) => html`<td class=${typeof r[c] === "number" ? "n" : ""}>${said(c, r[c])}</td>`)}</tr>`)}</tbody></table></div>`;
}

const withQuery = (path, more) => path + (path.includes("?") ? "&" : "?") + more;

export function Rows({ path, f }) {
  const [page, setPage] = useState(null), [bad, setBad] = useState(null);
  const more = (from) => ask(from).then((next) => setPage((old) => (old && from !== path ? { ...next, rows: [...old.rows, ...next.rows] } : next)), (e) => setBad(e));
  useEffect(() => { if (path.startsWith("/api/")) more(path); else setBad(new Error("That is no list of this factory.")); }, []);
  if (bad) return html`<p class="status-failed" role="alert">${bad.message}</p><p class="note">${bad.help || ""}</p>`;
  if (!page) return html`<p class="quiet" role="status">Reading the rows …</p>`;
  return html`<header class="row"><h2>${page.title}</h2><a class="btn" href=${withQuery(path, "format=csv")} download>CSV</a><a class="btn" href=${withQuery(path, "format=jsonl")} download>JSON lines</a></header>
    <p class="note">${page.note}</p>
    ${page.rows.length === 0 ? html`<p class="quiet">No such row.</p>` : page.kind === "requests" ? html`<${RequestTable} rows=${page.rows} now=${f.at_us} label=${page.title} />` : html`<${Plain} page=${page} />`}
    ${page.next && html`<p class="note"><button class="btn" onClick=${() => more(page.next)}>More</button></p>`}`;
}
