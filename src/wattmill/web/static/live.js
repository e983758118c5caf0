// The connection: one full state, then deltas [[path, value] …] of the same JSON. Says how old it is.
const KEEP = 150; // readings per trend

export const ask = async (path, options = {}) => {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(body.error?.message || `${answer.status} ${answer.statusText}`), { status: answer.status, code: body.error?.code, help: body.error?.help });
  return body;
};

export const send = (path, body, method = "POST") => ask(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function patched(state, path, value, gone) {
  if (path.length === 0) return value;
  const [head, ...rest] = path;
  const copy = Array.isArray(state) ? [...state] : { ...state };
  if (rest.length === 0 && gone) delete copy[head];
  else copy[head] = patched(state?.[head], rest, value, gone);
  return copy;
}

export const apply = (state, changes) => changes.reduce((s, c) => patched(s, c[0], c[1], c.length === 1), state);

export function listen(tell) {
  let figures = null, trends = {}, seen = 0, source = null;
  const note = () => {
    for (const { id, figure } of figures.line) {
      const old = trends[id] || [];
      trends[id] = [...old.slice(-KEEP + 1), [figures.at_us / 1e6, figure.value]];
    }
    seen = performance.now();
    tell({ figures, trends: { ...trends }, age: 0 });
  };
  const open = () => {
    source = new EventSource("/api/live");
    source.addEventListener("full", (e) => { ({ figures, trends } = JSON.parse(e.data)); trends = { ...trends }; note(); });
    source.addEventListener("delta", (e) => { figures = apply(figures, JSON.parse(e.data)); note(); });
    source.addEventListener("beat", () => { seen = performance.now(); });
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      source.close();
      ask("/api/session").then(() => setTimeout(open, 2000), (e) => (e.status === 401 ? tell({ lost: "session" }) : setTimeout(open, 2000)));
    });
  };
  open();
  setInterval(() => { if (figures) tell({ figures, trends, age: (performance.now() - seen) / 1000 }); }, 2500);
}
