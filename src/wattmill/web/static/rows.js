// The rows behind a figure, a page at a time, to read or to take away.
import { RequestTable } from "./rooms.js";
import { ask } from "./live.js";
import { html, useEffect, useState } from "./vendor/preact-htm.js";

const withQuery = (path, more) => path + (path.includes("?") ? "&" : "?") + more;

export function Rows({ path, f }) {
  const [page, setPage] = useState(null), [bad, setBad] = useState(null);
  const more = (from) => ask(from).then((next) => setPage((old) => (old && from !== path ? { ...next, rows: [...old.rows, ...next.rows] } : next)), (e) => setBad(e));
  useEffect(() => { if (path.startsWith("/api/")) more(path); else setBad(new Error("That is no list of this factory.")); }, []);
  if (bad) return html`<p class="status-failed" role="alert">${bad.message}</p><p class="note">${bad.help || ""}</p>`;
  if (!page) return html`<p class="quiet" role="status">Reading the rows …</p>`;
  return html`<header class="row"><h2>${page.title}</h2><a class="btn" href=${withQuery(path, "format=csv")} download>CSV</a><a class="btn" href=${withQuery(path, "format=jsonl")} download>JSON lines</a></header>
    <p class="note">${page.note}</p>
    ${page.rows.length === 0 ? html`<p class="quiet">No such row.</p>` : page.kind === "requests" ? html`<${RequestTable} rows=${page.rows} now=${f.at_us} label=${page.title} />`
      : html`<div class="wide" tabindex="0" role="region" aria-label=${page.title}><table><thead><tr>${page.columns.map((c) => html`<th scope="col">${c}</th>`)}</tr></thead><tbody>${page.rows.map((r) => html`<tr>${page.columns.map((c) => html`<td class=${typeof r[c] === "number" ? "n" : ""}>${r[c] === null ? "–" : typeof r[c] === "number" ? r[c].toLocaleString() : r[c]}</td>`)}</tr>`)}</tbody></table></div>`}
    ${page.next && html`<p class="note"><button class="btn" onClick=${() => more(page.next)}>More</button></p>`}`;
}
