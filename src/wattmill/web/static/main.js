// Starts the page: a session first (the token leaves the address bar at once), then the live board.
import { Ago, Fig, Mark, Spark, usLocal } from "./figure.js";
import { ask, listen, send } from "./live.js";
import { Recent, Room, ROOMS } from "./rooms.js";
import { Tower } from "./tower.js";
import { html, render, useEffect, useRef, useState } from "./vendor/preact-htm.js";

const STALE_S = 5;

function where() {
  const hash = new URLSearchParams(location.hash.slice(1));
  if (hash.get("request")) return { view: "request", id: hash.get("request") };
  if (hash.get("rows")) return { view: "rows", path: hash.get("rows") };
  if (hash.get("result")) return { view: "result", id: hash.get("result") };
  return { view: ROOMS.some(([id]) => id === hash.get("room")) ? hash.get("room") : "places" };
}

function Header({ f, age }) {
  const b = f.books;
  return html`<header class="top">
    <div class="brand"><img src="/static/mark.svg" alt="" /><h1 class="brand">${f.name}</h1></div>
    <p class=${`health ${f.health.mood}`} role="status"><i class="dot" aria-hidden="true"></i><span>${f.health.sentence}${f.health.help && html` <code>${f.health.help}</code>`}</span></p>
    <div class="trust"><span>ledger difference <b><${Fig} f=${b.difference} name="ledger difference" /></b></span><span class="twin">twin error <b><${Fig} f=${f.twin} name="twin error" /></b></span>
      <time class="clock" datetime=${usLocal(f.at_us).toISOString()}>${usLocal(f.at_us).toLocaleTimeString([], { hour12: false })}</time></div>
    ${age > STALE_S && html`<p class="notice" role="alert">Last word ${Math.round(age)} s ago: the admin app does not answer. What you see is old. <code>wattmill status</code> tells what is up.</p>`}
    ${f.stand_ins.length > 0 && age <= STALE_S && html`<p class="unseen">Stand-in for a provider: ${f.stand_ins.join(", ")}</p>`}
  </header>`;
}

const NumberLine = ({ f, trends }) => html`<section aria-label="Key figures"><ul class="numbers">${f.line.map((item) => html`<li key=${item.id}>
  <span class="label">${item.label}</span><${Fig} f=${item.figure} name=${item.label} /><${Spark} points=${trends[item.id]} label=${item.label} /></li>`)}</ul></section>`;

function Board() {
  const [live, setLive] = useState(null), [at, setAt] = useState(where), side = useRef(null), asked = useRef(false);
  useEffect(() => { listen(setLive); }, []);
  useEffect(() => {
    const moved = () => { setAt(where()); asked.current = true; };
    const leave = (e) => { if (e.key === "Escape" && location.hash) location.hash = "#room=places"; };
    addEventListener("hashchange", moved);
    addEventListener("keydown", leave);
    return () => { removeEventListener("hashchange", moved); removeEventListener("keydown", leave); };
  }, []);
  useEffect(() => {
    if (!asked.current || !side.current) return;
    asked.current = false;
    if (matchMedia("(max-width: 1180px)").matches) side.current.scrollIntoView({ block: "start" });
    side.current.focus({ preventScroll: true });
  }, [at]);
  if (live?.lost) return html`<${Door} why="The session ended." />`;
  if (!live?.figures) return html`<p class="quiet center" role="status">Reading the books …</p>`;
  const f = live.figures;
  document.title = `${f.health.mood === "act" ? "! " : ""}${f.name} · wattmill`;
  return html`<div class=${`page${live.age > STALE_S ? " stale" : ""}`}>
    <a class="skip" href="#room=places">Skip to the rooms</a>
    <${Header} f=${f} age=${live.age} />
    <${NumberLine} f=${f} trends=${live.trends} />
    <main class=${`stage${at.view === "rows" ? " whole" : ""}`}>${at.view !== "rows" && html`<${Tower} figures=${f} room=${at.view} open=${(room) => { location.hash = `#room=${room}`; }} />`}
      <section class="sheet" ref=${side} tabindex="-1" aria-label="Room"><${Room} at=${at} f=${f} trends=${live.trends} /></section></main>
    <${Recent} f=${f} />
    <footer class="end"><span>wattmill ${f.version}</span>${f.gateway_url && html`<span>gateway <code>${f.gateway_url}/v1</code></span>`}<span><a href="/metrics">metrics</a></span><span>${f.started_us ? html`started <${Ago} us=${f.started_us} now=${f.at_us} />` : "not running"}</span></footer>
  </div>`;
}

function Door({ why }) {
  const [bad, setBad] = useState(why || "");
  const enter = async (event) => {
    event.preventDefault();
    try {
      await send("/api/session", { token: new FormData(event.target).get("token").trim() });
      start();
    } catch (e) { setBad(e.message); }
  };
  return html`<main class="sheet door"><img src="/static/mark.svg" alt="" /><h1>wattmill</h1><p class="quiet">This board shows spend and keys, so it asks who you are.</p>
    <form onSubmit=${enter}><label for="token">Admin token</label><input id="token" name="token" type="password" autocomplete="current-password" required autofocus />
    <button class="btn main">Open the board</button></form>
    ${bad && html`<p class="bad" role="alert">${bad}</p>`}
    <p class="note">It is in the link that <code>wattmill up</code> printed, and in the file <code>admin.token</code> of the factory's folder; <code>wattmill status</code> names it.</p></main>`;
}

const root = document.getElementById("board");
const show = (what) => { root.replaceChildren(); render(what, root); };

async function start() {
  const hash = new URLSearchParams(location.hash.slice(1)), token = hash.get("token");
  if (token) {
    hash.delete("token");
    history.replaceState(null, "", location.pathname + (hash.size ? `#${hash}` : ""));
    try { await send("/api/session", { token }); } catch (e) { return show(html`<${Door} why=${e.message} />`); }
  }
  try { await ask("/api/session"); } catch (e) { return show(html`<${Door} why=${e.status === 401 ? "" : e.message} />`); }
  show(html`<${Board} />`);
}

start();
