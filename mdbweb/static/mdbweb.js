"use strict";

// Keys. Without this script, everything but live tails works.
const field = (e) => e.target.closest("input, select, textarea, [contenteditable]");
const rows = () => [...document.querySelectorAll("[data-row]")];
let going = 0; // when g was pressed

function move(by) {
  const all = rows();
  if (!all.length) return;
  const i = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[i < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(i + by, 0), all.length - 1)];
  next.querySelector("a, button")?.focus();
  next.scrollIntoView({ block: "nearest" });
}

function fold() {
  const all = [...document.querySelectorAll(".tree details")];
  const open = all.some((d) => !d.open);
  for (const d of all) d.open = open;
}

const keys = {
  "/": () => document.querySelector("#find")?.select() ?? document.querySelector("#find")?.focus(),
  "?": () => document.querySelector("#help")?.showModal(),
  j: () => move(1),
  k: () => move(-1),
  n: () => document.querySelector("a[rel=next]")?.click(),
  p: () => document.querySelector("a[rel=prev]")?.click(),
  e: fold,
  g: () => { going = Date.now(); },
  " ": () => document.querySelector("#pause")?.click(),
};

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || field(e) || document.querySelector("dialog[open]")) return;
  if (e.key === " " && (e.target.closest("button, a, summary") || !document.querySelector("#pause"))) return;
  if (Date.now() - going < 1500 && e.key !== "g") {
    going = 0;
    const link = document.querySelector(`nav a[data-go="${CSS.escape(e.key)}"]`);
    if (link) { e.preventDefault(); link.click(); return; }
  }
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
});

document.addEventListener("click", async (e) => {
  const button = e.target.closest("button");
  if (!button) return;
  if ("help" in button.dataset) document.querySelector("#help").showModal();
  const text = button.dataset.copy ? document.getElementById(button.dataset.copy).textContent : "copyLink" in button.dataset ? location.origin + location.pathname : null;
  if (text === null) return;
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
});

// The local time, where the pointer rests.
function localTime(t) { t.title = new Date(t.dateTime).toLocaleString(); }
document.querySelectorAll("time").forEach(localTime);

// A live tail.
const tail = document.querySelector("#tail");
if (tail) {
  const most = 300;
  const body = tail.tBodies[0], line = document.querySelector("#line"), status = document.querySelector("#status");
  const pause = document.querySelector("#pause");
  let waiting = [], paused = false, seen = 0, left = 0;
  const say = (state, text) => { status.dataset.state = state; status.textContent = text; };
  const total = () => `${seen.toLocaleString("en")} ${seen === 1 ? "message" : "messages"}` + (left ? `, ${left.toLocaleString("en")} more not shown` : "");
  const show = () => {
    const fragment = document.createDocumentFragment();
    for (const m of waiting.reverse()) {
      const row = line.content.cloneNode(true).firstElementChild;
      const [pos, type] = row.querySelectorAll("a");
      pos.textContent = m.number.toLocaleString("en");
      pos.href = type.href = m.link;
      type.textContent = m.type;
      const time = row.querySelector("time");
      time.textContent = m.time;
      time.dateTime = m.iso;
      localTime(time);
      const [name, position] = row.querySelectorAll(".name span");
      name.textContent = m.stream;
      position.textContent = "/" + m.position;
      row.querySelector(".data").textContent = m.preview;
      row.className = "fresh";
      fragment.append(row);
    }
    waiting = [];
    body.prepend(fragment);
    while (body.rows.length > most) body.rows[most].remove();
  };
  let queued = false;
  const update = () => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      if (paused) {
        say("paused", `Paused. ${waiting.length} new.`);
        return;
      }
      show();
      say("live", `Live. ${total()}.`);
    });
  };
  const byStream = tail.dataset.events.includes("stream=");
  const source = new EventSource(tail.dataset.events);
  source.addEventListener("ready", update);
  source.addEventListener("message", (e) => {
    const m = JSON.parse(e.data);
    m.number = byStream ? m.position : m.global;
    waiting.push(m);
    if (waiting.length > most) waiting.shift(); // nothing is drawn while the page is in the background
    seen++;
    update();
  });
  source.addEventListener("omitted", (e) => { left += JSON.parse(e.data).n; update(); });
  source.addEventListener("problem", (e) => {
    source.close();
    const p = JSON.parse(e.data);
    say("lost", `${p.Problem} ${p.Remedy}`);
  });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) say("lost", "The live tail has ended. There may be too many: reload the page in a moment.");
    else say("lost", "Connection lost. Connecting again…");
  };
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", paused);
    pause.textContent = paused ? "Go on" : "Pause";
    update();
  });
  document.querySelector("#clear").addEventListener("click", () => { body.replaceChildren(); seen = left = 0; waiting = []; update(); });
}
