"use strict";
// Everything a model wrote reaches the page through textContent.
const $ = (id) => document.getElementById(id);
const MARKS = { "right": "✓", "wrong": "✗", "cut": "…", "no answer": "–", "error": "!", "not graded": "?" };
const NAMES = { "cut": "answer cut" };
const nameOf = (outcome) => NAMES[outcome] || outcome;
const PROMPT = 0, DELIMITER = 2, PARTS = [["Thinking", [1, DELIMITER]], ["Answer", [3]]];

let index, cells, shown = [], blocks = new Map();
const state = { policy: 0, question: 0, sample: 0, show: "all", against: 0, find: "" };

function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name.replace(" ", "-");
  return made;
}

async function inflate(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const keyOf = (policy) => index.policies[policy][0];
const at = (question, policy, sample) => cells[(question * index.policies.length + policy) * index.samples + sample];

function outcome(cell) {
  return cell === undefined ? undefined : cell[3] < 0 ? "not graded" : index.outcomes[cell[3]];
}

// 1 when the outcome went from wrong to right against the other policy, -1 for the reverse, else 0
function flip(question) {
  const [now, before] = [state.policy, state.against].map((p) => outcome(at(question, p, state.sample)));
  return now === undefined || before === undefined ? 0 : (now === "right") - (before === "right");
}

function admitted(question) {
  const found = outcome(at(question, state.policy, state.sample));
  if (found === undefined) return false;
  if (state.show === "gained" && flip(question) !== 1) return false;
  if (state.show === "lost" && flip(question) !== -1) return false;
  if (index.outcomes.includes(state.show) && found !== state.show) return false;
  return index.questions[question][1].toLowerCase().includes(state.find.toLowerCase());
}

function drawList() {
  const list = $("list");
  shown = Array.from(index.questions, (_, i) => i).filter(admitted);
  list.replaceChildren(...shown.map((question) => {
    const item = element("li");
    const found = outcome(at(question, state.policy, state.sample));
    const mark = element("span", MARKS[found], "mark");
    mark.classList.add(found.replace(" ", "-"));
    mark.title = nameOf(found);
    item.append(mark, element("span", index.questions[question][1]));
    item.dataset.question = question;
    return item;
  }));
  const all = index.questions.length;
  $("count").textContent = `${shown.length} of ${all} questions`;
  if (shown.length && !shown.includes(state.question)) state.question = shown[0];
}

function facts(question, cell) {
  const list = element("dl", undefined, "facts");
  const add = (name, value, style) => {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value, style));
    list.append(pair);
  };
  const found = outcome(cell);
  add("outcome", `${MARKS[found]} ${nameOf(found)}`, found);
  add("answer found", cell[4] === null ? "none" : cell[4]);
  add("reference", question[2] === null ? "none" : question[2]);
  add("thinking tokens", cell[5].toLocaleString("en"));
  add("answer tokens", cell[6].toLocaleString("en"));
  if (cell[7]) add("waits appended", String(cell[7]));
  if (cell[8]) add("thinking", "cut at the budget");
  if (cell[9] !== null) add("error", cell[9], "error");
  if (question[3]) add("source", question[3]);
  add("id", question[0]);
  return list;
}

async function textsOf(question) {
  if (question >= index.traced) return undefined;
  const number = Math.floor(question / index.block);
  if (!blocks.has(number)) blocks.set(number, inflate(`block-${number}`));
  return (await blocks.get(number))[question % index.block];
}

function spans(segments, texts) {
  const box = element("div", undefined, "tokens");
  for (const [phase, forced, text, length] of segments) {
    const words = texts[text].slice(0, length);
    if (!forced) { box.append(element("span", words, phase === DELIMITER ? "delimiter" : "model")); continue; }
    const mark = element("mark", undefined, "forced");
    mark.title = "appended by the forcing, not written by the model";
    mark.append(element("span", "forced", "tag"), document.createTextNode(words));
    box.append(mark);
  }
  return box;
}

// Scrolls the list alone: scrollIntoView would move the page too, past its title where it is narrow.
function middleOf(item) {
  const list = $("list"), top = item.offsetTop - list.offsetTop, bottom = top + item.offsetHeight - list.clientHeight;
  return Math.min(Math.max(list.scrollTop, bottom), top);
}

async function drawTrace() {
  const trace = $("trace"), { question: number, policy, sample } = state;
  for (const item of $("list").children) {
    const current = Number(item.dataset.question) === number;
    if (current) { item.setAttribute("aria-current", "true"); $("list").scrollTop = middleOf(item); }
    else item.removeAttribute("aria-current");
  }
  const cell = at(number, policy, sample);
  if (!shown.length || !cell) return trace.replaceChildren(element("p", "No question fits these filters.", "faint"));
  const question = index.questions[number], held = await textsOf(number);
  if (number !== state.question || policy !== state.policy || sample !== state.sample) return;
  const parts = [element("h2", question[1]), facts(question, cell)];
  const stored = held && held[1].find(([p, s]) => p === policy && s === sample);
  if (!stored) {
    parts.push(element("p", `This page holds the traces of the first ${index.traced} questions; ` +
      "the others are in generations.jsonl in the same folder.", "faint"));
  } else {
    const legend = element("p", undefined, "legend-row");
    legend.append(element("mark", "forced"), document.createTextNode(
      " was appended by the forcing: waits, the end of a thinking that was cut, the cue. All else is the model's."));
    parts.push(legend);
    const fold = element("details");
    fold.append(element("summary", "Prompt"), spans(stored[2].filter(([phase]) => phase === PROMPT), held[0]));
    parts.push(fold);
    for (const [name, phases] of PARTS) {
      const segments = stored[2].filter(([phase]) => phases.includes(phase));
      if (segments.length) parts.push(element("h3", name), spans(segments, held[0]));
    }
  }
  trace.replaceChildren(...parts);
  trace.scrollTop = 0;
}

function draw() {
  drawList();
  for (const row of document.querySelectorAll("tr[data-policy]"))
    row.classList.toggle("picked", row.dataset.policy === keyOf(state.policy));
  for (const dot of document.querySelectorAll("a.dot"))
    dot.classList.toggle("picked", dot.getAttribute("href") === `#policy=${encodeURIComponent(keyOf(state.policy))}`);
  for (const name of ["policy", "show", "against", "sample"]) $(name).value = String(state[name]);
  return drawTrace();
}

function remember() {
  const wanted = new URLSearchParams({ policy: keyOf(state.policy), question: index.questions[state.question][0] });
  if (state.sample) wanted.set("sample", state.sample);
  if (state.show !== "all") wanted.set("show", state.show);
  if (state.show === "gained" || state.show === "lost") wanted.set("against", keyOf(state.against));
  history.replaceState(null, "", "#" + wanted.toString().replaceAll("+", "%20"));
}

function recall() {
  const wanted = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const place = (list, name) => list.indexOf(wanted.get(name));
  const keys = index.policies.map(([key]) => key);
  const policy = place(keys, "policy"), against = place(keys, "against");
  const question = place(index.questions.map((q) => q[0]), "question");
  if (policy >= 0) state.policy = policy;
  if (against >= 0) state.against = against;
  if (question >= 0) state.question = question;
  state.sample = Math.min(Math.max(0, Number(wanted.get("sample")) || 0), index.samples - 1);
  if ([...$("show").options].some((option) => option.value === wanted.get("show"))) state.show = wanted.get("show");
  return draw();
}

function step(by) {
  const next = shown[shown.indexOf(state.question) + by];
  if (next === undefined) return;
  state.question = next;
  remember();
  drawTrace();
}

function fill(id, options) {
  $(id).replaceChildren(...options.map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    return option;
  }));
}

async function start() {
  index = await inflate("index");
  cells = new Array(index.questions.length * index.policies.length * index.samples);
  for (const row of index.rows) cells[(row[0] * index.policies.length + row[1]) * index.samples + row[2]] = row;
  const policies = index.policies.map(([, label], i) => [String(i), label]);
  fill("policy", policies);
  fill("against", policies);
  fill("show", [["all", "all"], ...index.outcomes.map((o) => [o, nameOf(o)]),
    ["gained", "wrong → right"], ["lost", "right → wrong"]]);
  fill("sample", Array.from({ length: index.samples }, (_, i) => [String(i), String(i)]));
  $("sample-label").hidden = index.samples < 2;
  const points = JSON.parse($("metrics").textContent).points;
  const natural = points.findIndex((p) => p.kind === "natural");
  state.against = Math.max(0, natural);
  state.policy = Math.max(0, points.findLastIndex((p) => p.kind === "wait"), natural);
  for (const name of ["policy", "show", "against", "sample"]) $(name).onchange = (event) => {
    state[name] = name === "show" ? event.target.value : Number(event.target.value);
    draw();
    remember();
  };
  $("find").oninput = (event) => { state.find = event.target.value; draw(); };
  $("list").onclick = (event) => {
    const item = event.target.closest("li");
    if (item) { state.question = Number(item.dataset.question); remember(); drawTrace(); }
  };
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  });
  window.onhashchange = () => { recall(); $("viewer").scrollIntoView({ behavior: "smooth" }); };
  await recall();
}

start().catch((error) => $("trace").replaceChildren(element("p", `The traces cannot be shown: ${error.message}`, "error")));
