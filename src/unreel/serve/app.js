"use strict";
// Texts are set as text, never as markup: names of files and labels may hold anything.
const at = (id) => document.getElementById(id);
const state = { view: "all", clips: [], chosen: null, span: [null, null], wanted: [], unwanted: [], labels: [], classes: {}, count: 0 };

async function ask(path, words) {
  const sent = words === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(words) };
  const answer = await fetch(path, sent);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || "the request was refused");
  return found;
}
function say(text, bad = false) {
  at("said").textContent = text;
  at("said").className = bad ? "bad" : "";
}
const busy = async (text, work) => {
  say(text);
  try { await work(); } catch (error) { say(error.message, true); }
};
const seconds = (v) => `${v.toFixed(2)} s`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
function card(clip) {
  const item = element("li", "clip");
  item.dataset.clip = clip.clip;
  const picture = element("button", "picture");
  picture.setAttribute("aria-label", clip.name);
  const strip = element("span", clip.frames > 1 ? "strip" : "strip still");
  strip.style.setProperty("--frames", clip.frames);
  strip.style.setProperty("--seconds", "1.6s");
  strip.style.backgroundImage = `url(/pictures/${clip.clip})`;
  picture.append(strip);
  picture.addEventListener("click", () => choose(clip));
  item.append(picture, element("span", "name", clip.name));
  if (clip.similarity !== undefined) item.append(element("span", "value", clip.similarity.toFixed(3)));
  if (clip.probability !== undefined) item.append(element("span", "tag guess", `${clip.label} ${(100 * clip.probability).toFixed(0)} %`));
  return item;
}
function mark() {
  for (const item of at("clips").children) {
    const clip = Number(item.dataset.clip);
    item.classList.toggle("chosen", state.chosen !== null && state.chosen.clip === clip);
    item.querySelectorAll(".tag:not(.guess)").forEach((tag) => tag.remove());
    for (const one of state.labels.filter((l) => l.row === clip)) {
      const span = one.start_s === null ? "" : ` ${seconds(one.start_s)} to ${seconds(one.end_s)}`;
      item.append(element("span", "tag", one.label + span));
    }
  }
}
function show(clips, add = false) {
  if (!add) at("clips").replaceChildren();
  state.clips = add ? [...state.clips, ...clips] : clips;
  at("clips").append(...clips.map(card));
  at("more").hidden = state.view !== "all" || state.clips.length >= state.count;
  mark();
}
function choose(clip) {
  state.chosen = clip;
  state.span = [null, null];
  at("name").textContent = clip.name;
  at("span").textContent = "";
  const moves = clip.frames > 1;
  at("video").hidden = !moves;
  at("still").hidden = moves;
  if (moves) { at("video").src = `/media/${clip.clip}`; at("video").play().catch(() => {}); }
  else { at("video").removeAttribute("src"); at("still").src = `/media/${clip.clip}`; }
  for (const id of ["like", "unlike", "label", "give", "take"]) at(id).disabled = false;
  for (const id of ["start", "end", "whole"]) at(id).disabled = !moves;
  mark();
}
function bound(which) {
  state.span[which] = at("video").currentTime;
  const [start, end] = state.span;
  at("span").textContent = start !== null && end !== null ? `from ${seconds(start)} to ${seconds(end)}` : which ? `ends at ${seconds(end)}` : `starts at ${seconds(start)}`;
}
async function label(text) {
  if (state.chosen === null) return;
  const [start, end] = state.span;
  const span = start !== null && end !== null ? { start_s: start, end_s: end } : {};
  await busy("", async () => {
    take(await ask("/api/labels", { clip: state.chosen.clip, label: text, ...span }));
    say(text ? `“${text}” kept in labels.csv` : "taken back");
  });
}
function take(found) {
  state.labels = found.labels;
  state.classes = found.classes;
  at("classes").replaceChildren(...Object.entries(found.classes).slice(0, 9).map(([name, count], i) => {
    const button = element("button", "", `${i + 1}  ${name} (${count})`);
    button.addEventListener("click", () => label(name));
    return button;
  }));
  mark();
}
async function view(name) {
  state.view = name;
  document.querySelectorAll("[data-view]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.view === name)));
  await busy("", async () => {
    if (name === "all") { const found = await ask("/api/clips"); state.count = found.count; show(found.clips); }
    if (name === "telling") { show((await ask("/api/telling")).clips); say("The clips whose labels would teach most."); }
    if (name === "predictions") {
      const found = (await ask("/api/predictions")).predictions;
      show(found);
      say(found.length ? `${found.length} predictions` : "Train first: then every clip has a label and a probability here.");
    }
  });
}
async function search(list) {
  if (state.chosen === null) return;
  const clip = state.chosen.clip;
  state.wanted = state.wanted.filter((c) => c !== clip);
  state.unwanted = state.unwanted.filter((c) => c !== clip);
  state[list].push(clip);
  if (!state.wanted.length) { say("Choose a clip and find more like it first."); return; }
  await busy("searching …", async () => {
    const found = await ask("/api/search", { wanted: state.wanted, unwanted: state.unwanted });
    state.view = "search";
    document.querySelectorAll("[data-view]").forEach((b) => b.setAttribute("aria-pressed", "false"));
    show(found.clips);
    say(`most like ${state.wanted.length} and least like ${state.unwanted.length} chosen; “All clips” starts again`);
  });
}
const train = () => busy("training …", async () => {
  const found = await ask("/api/train", {});
  await view("predictions");
  say(`trained on ${Object.values(found.labels).reduce((a, b) => a + b, 0)} labels. ${found.notes.join(" ")}`);
});
function move(step) {
  const buttons = [...at("clips").querySelectorAll("button.picture")];
  if (!buttons.length) return;
  const here = buttons.findIndex((b) => state.chosen !== null && Number(b.parentElement.dataset.clip) === state.chosen.clip);
  const next = buttons[here < 0 ? 0 : Math.min(Math.max(here + step, 0), buttons.length - 1)];
  next.focus();
  next.click();
}
document.querySelectorAll("[data-view]").forEach((b) => b.addEventListener("click", () => {
  if (b.dataset.view === "all") { state.wanted = []; state.unwanted = []; }
  view(b.dataset.view);
}));
at("like").addEventListener("click", () => search("wanted"));
at("unlike").addEventListener("click", () => search("unwanted"));
at("train").addEventListener("click", train);
at("start").addEventListener("click", () => bound(0));
at("end").addEventListener("click", () => bound(1));
at("whole").addEventListener("click", () => { state.span = [null, null]; at("span").textContent = "the whole clip"; });
at("take").addEventListener("click", () => label(""));
at("form").addEventListener("submit", (event) => { event.preventDefault(); const text = at("label").value.trim(); if (text) label(text); at("label").value = ""; at("label").blur(); });
at("more").addEventListener("click", async () => { show((await ask(`/api/clips?offset=${state.clips.length}`)).clips, true); });
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const known = Object.keys(state.classes);
  const keys = {
    ArrowRight: () => move(1), ArrowLeft: () => move(-1), s: () => search("wanted"), x: () => search("unwanted"), t: train,
    u: () => label(""), "[": () => bound(0), "]": () => bound(1), l: () => at("label").focus(),
  };
  if (/^[1-9]$/.test(event.key) && known[event.key - 1] !== undefined) { label(known[event.key - 1]); event.preventDefault(); }
  else if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
});
at("video").addEventListener("error", () => { if (at("video").getAttribute("src")) say("Your browser cannot play this file; its picture shows some frames."); });
ask("/api/labels").then(take);
view("all");
