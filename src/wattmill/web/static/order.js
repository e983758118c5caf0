// A table's head whose names sort the rows that are there; without a click they stand as the server sent them.
import { html, useState } from "./vendor/preact-htm.js";

const less = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);

// `columns`: [name, value of a row, whether it is a number]. Returns the head, and the rows in order: numbers the
// largest first, words from A; a second click turns it, a third gives the server's order. Unknown comes last.
export function useOrder(columns, rows) {
  const [by, setBy] = useState(null);
  const [at, way] = by || [-1, 0];
  const first = (n) => (n ? -1 : 1);
  const click = (n) => setBy(at !== n ? [n, first(columns[n][2])] : way === first(columns[n][2]) ? [n, -way] : null);
  const head = html`<thead><tr>${columns.map(([name, , number], n) => html`<th scope="col" class=${number ? "n" : ""} aria-sort=${at === n ? (way < 0 ? "descending" : "ascending") : null}><button class="head" onClick=${() => click(n)}>${name}</button></th>`)}</tr></thead>`;
  if (!by || !columns[at]) return [head, rows];
  const value = columns[at][1], unknown = (row) => value(row) === null || value(row) === undefined;
  return [head, [...rows].sort((a, b) => unknown(a) - unknown(b) || (unknown(a) ? 0 : way * less(value(a), value(b))))];
}
