// Everything a model wrote reaches the page through textContent.
const $ = (id) => document.getElementById(id);
const MARKS = { "right": "✓", "wrong": "✗", "cut": "…", "no answer": "–", "error": "!", "not graded": "?" };
const NAMES = { "cut": "answer cut" };
const nameOf = (outcome) => NAMES[outcome] || outcome;
const PROMPT = 0, DELIMITER = 2, PARTS = [["Thinking", [1, DELIMITER]], ["Answer", [3]]];

const CHUNK = 200; // rows drawn at a time

let index, cells, columns, rows = [], drawn = 0, blocks = new Map();
// policy, question and sample are those of the open answer; only: the policy whose answers are listed, -1 for all
const state = { policy: 0, question: 0, sample: 0, only: 0, show: "all", against: 0, find: "", sort: -1, direction: "none" };

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
function flip([question, policy, sample]) {
  const [now, before] = [policy, state.against].map((p) => outcome(at(question, p, sample)));
  return before === undefined ? 0 : (now === "right") - (before === "right");
}

function admitted(row) {
  if (state.only >= 0 && row[1] !== state.only) return false;
  if (state.show === "gained" && flip(row) !== 1) return false;
  if (state.show === "lost" && flip(row) !== -1) return false;
  if (index.outcomes.includes(state.show) && outcome(row) !== state.show) return false;
  return index.questions[row[0]][1].toLowerCase().includes(state.find.toLowerCase());
}

const spent = (row) => row[10] ?? row[5];
const isOpen = (row) => row[0] === state.question && row[1] === state.policy && row[2] === state.sample;

function columnsOf() {
  const found = [
    { name: "", value: (row) => index.outcomes.indexOf(outcome(row)), cell: outcomeMark },
    { name: "question", value: (row) => index.questions[row[0]][1] },
    { name: "target", value: (row) => index.questions[row[0]][2] },
    { name: "answer", value: (row) => row[4] },
    { name: "thinking tokens", value: spent },
    { name: "policy", value: (row) => index.policies[row[1]][1] },
  ];
  if (index.samples > 1) found.push({ name: "sample", value: (row) => row[2] });
  return found;
}

function outcomeMark(row) {
  const found = outcome(row), mark = element("span", MARKS[found], "mark");
  mark.classList.add(found.replace(" ", "-"));
  mark.title = nameOf(found);
  mark.setAttribute("aria-label", nameOf(found));
  mark.setAttribute("role", "img");
  return mark;
}

function drawRow(row, number) {
  const drawnRow = element("tr");
  for (const { name, value, cell } of columns) {
    const found = value(row);
    const text = typeof found === "number" ? found.toLocaleString("en") : found ?? "none";
    const made = cell ? element("td") : element("td", text, name);
    if (cell) made.append(cell(row)); else if (name === "question") made.title = text;
    drawnRow.append(made);
  }
  drawnRow.dataset.row = number;
  return drawnRow;
}

// More rows, up to and with row `last`: a large run has thousands.
function drawRows(last) {
  const end = Math.min(rows.length, Math.max(last + 1, drawn + CHUNK));
  $("samples").tBodies[0].append(...rows.slice(drawn, end).map((row, i) => drawRow(row, drawn + i)));
  drawn = end;
}

function drawList() {
  const all = index.rows.filter((row) => state.only < 0 || row[1] === state.only).length;
  rows = index.rows.filter(admitted);
  if (state.sort >= 0) {
    const { value } = columns[state.sort];
    rows.sort((a, b) => order(value(a), value(b), state.direction));
  }
  $("samples").tBodies[0].replaceChildren();
  drawn = 0;
  if (rows.length && !rows.some(isOpen)) [state.question, state.policy, state.sample] = rows[0];
  drawRows(rows.findIndex(isOpen));
  $("samples").classList.toggle("single", state.only >= 0);
  $("count").textContent = `${rows.length.toLocaleString("en")} of ${all.toLocaleString("en")} answers`;
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
  add("answer", cell[4] === null ? "none" : cell[4]);
  add("target", question[2] === null ? "none" : question[2]);
  add("policy", index.policies[cell[1]][1]);
  add("thinking tokens", cell[5].toLocaleString("en"));
  if (cell[10] !== null) add("of all rollouts", cell[10].toLocaleString("en"));
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

function sections(segments, texts) {
  return PARTS.flatMap(([name, phases]) => {
    const found = segments.filter(([phase]) => phases.includes(phase));
    return found.length ? [element("h3", name), spans(found, texts)] : [];
  });
}

function rolloutsOf(rollouts, texts) {
  if (!rollouts.length) return [];
  const made = rollouts.map(([segments, thinking, answer, found, chosen, error], i) => {
    const fold = element("details", undefined, "rollout"), line = element("summary", `${i + 1}. `);
    line.append(element("b", error ? "failed" : found === null ? "no answer" : found),
      ` · ${thinking.toLocaleString("en")} thinking tokens, ${answer.toLocaleString("en")} of the answer`);
    if (chosen) line.append(" · ", element("b", "chosen", "right"));
    fold.append(line);
    if (error) fold.append(element("p", error, "error"));
    fold.append(...sections(segments, texts));
    return fold;
  });
  return [element("h3", `Rollouts (${rollouts.length})`), ...made];
}

// The same question under the other policies.
function others(number) {
  const box = element("p", undefined, "others");
  index.policies.forEach(([, label], policy) => {
    const cell = at(number, policy, state.sample);
    if (!cell) return;
    const button = element("button"), mark = outcomeMark(cell);
    button.append(mark, ` ${label}`);
    if (policy === state.policy) button.setAttribute("aria-current", "true");
    button.onclick = () => { if (state.only >= 0) state.only = policy; state.policy = policy; remember(); draw(); };
    box.append(button);
  });
  return box;
}

// Scrolls the list alone: scrollIntoView would move the page too, past its title where it is narrow.
function middleOf(item) {
  const list = $("list"), head = $("samples").tHead.offsetHeight;
  const top = item.offsetTop - head, bottom = item.offsetTop + item.offsetHeight - list.clientHeight;
  return Math.min(Math.max(list.scrollTop, bottom), top);
}

async function drawTrace() {
  const trace = $("trace"), { question: number, policy, sample } = state;
  for (const item of $("samples").tBodies[0].rows) {
    const current = isOpen(rows[item.dataset.row]);
    if (current) { item.setAttribute("aria-current", "true"); $("list").scrollTop = middleOf(item); }
    else item.removeAttribute("aria-current");
  }
  const cell = at(number, policy, sample);
  if (!rows.length || !cell) return trace.replaceChildren(element("p", "No answer fits these filters.", "faint"));
  const question = index.questions[number], held = await textsOf(number);
  if (number !== state.question || policy !== state.policy || sample !== state.sample) return;
  const parts = [element("h2", question[1]), facts(question, cell), others(number)];
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
    parts.push(...sections(stored[2], held[0]), ...rolloutsOf(stored[3], held[0]));
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
  $("policy").value = String(state.only);
  $("show").value = state.show;
  $("against").value = String(state.against);
  $("against-label").hidden = state.show !== "gained" && state.show !== "lost";
  markSorted($("samples"), state.sort, state.direction);
  return drawTrace();
}

function remember() {
  const wanted = new URLSearchParams({ policy: keyOf(state.policy), question: index.questions[state.question][0] });
  if (state.sample) wanted.set("sample", state.sample);
  if (state.only < 0) wanted.set("all", "1");
  if (state.show !== "all") wanted.set("show", state.show);
  if (state.show === "gained" || state.show === "lost") wanted.set("against", keyOf(state.against));
  if (state.sort >= 0) wanted.set("sort", `${columns[state.sort].name || "outcome"} ${state.direction}`);
  history.replaceState(null, "", "#" + wanted.toString().replaceAll("+", "%20"));
}

function recall() {
  const wanted = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const place = (list, name) => list.indexOf(wanted.get(name));
  const keys = index.policies.map(([key]) => key);
  const policy = place(keys, "policy"), against = place(keys, "against");
  const question = place(index.questions.map((q) => q[0]), "question");
  if (policy >= 0) state.policy = state.only = policy;
  if (wanted.get("all")) state.only = -1;
  if (against >= 0) state.against = against;
  if (question >= 0) state.question = question;
  state.sample = Math.min(Math.max(0, Number(wanted.get("sample")) || 0), index.samples - 1);
  if ([...$("show").options].some((option) => option.value === wanted.get("show"))) state.show = wanted.get("show");
  const [, name, direction] = /^(.*) (ascending|descending)$/.exec(wanted.get("sort") || "") || [];
  state.sort = columns.findIndex((column) => name && (column.name || "outcome") === name);
  state.direction = state.sort < 0 ? "none" : direction;
  return draw();
}

function open(row) {
  [state.question, state.policy, state.sample] = row;
  remember();
  return state.only < 0 ? draw() : drawTrace();
}

function step(by) {
  const next = rows.findIndex(isOpen) + by;
  if (!rows[next]) return;
  if (next >= drawn) drawRows(next);
  open(rows[next]);
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
  columns = columnsOf();
  const policies = index.policies.map(([, label], i) => [String(i), label]);
  fill("policy", [...policies, ["-1", "all policies"]]);
  fill("against", policies);
  fill("show", [["all", "all"], ...index.outcomes.map((o) => [o, nameOf(o)]),
    ["gained", "wrong → right"], ["lost", "right → wrong"]]);
  const table = $("samples");
  table.tHead.rows[0].append(...columns.map(({ name }) => {
    const head = element("th", name || "✓", name);
    head.scope = "col";
    if (!name) head.setAttribute("aria-label", "outcome");
    return head;
  }));
  sortable(table, (column, direction) => {
    [state.sort, state.direction] = direction === "none" ? [-1, "none"] : [column, direction];
    draw();
    remember();
    $("list").scrollTop = 0;
  });
  const points = JSON.parse($("metrics").textContent).points;
  const natural = points.findIndex((p) => p.kind === "natural");
  state.against = Math.max(0, natural);
  state.policy = state.only = Math.max(0, points.findLastIndex((p) => p.kind === "wait"), natural);
  $("policy").onchange = (event) => {
    state.only = Number(event.target.value);
    if (state.only >= 0) state.policy = state.only;
    draw();
    remember();
  };
  for (const name of ["show", "against"]) $(name).onchange = (event) => {
    state[name] = name === "show" ? event.target.value : Number(event.target.value);
    draw();
    remember();
  };
  $("find").oninput = (event) => { state.find = event.target.value; draw(); };
  $("samples").tBodies[0].onclick = (event) => {
    const item = event.target.closest("tr");
    if (item) open(rows[item.dataset.row]);
  };
  $("list").onscroll = () => {
    const { scrollTop, clientHeight, scrollHeight } = $("list");
    if (drawn < rows.length && scrollTop + clientHeight > scrollHeight - 600) drawRows(drawn);
  };
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const inList = event.target === $("list");
    const by = { j: 1, k: -1, ...(inList && { ArrowDown: 1, ArrowUp: -1 }) }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  window.onhashchange = () => { recall(); $("viewer").scrollIntoView({ behavior: "smooth" }); };
  await recall();
}

start().catch((error) => $("trace").replaceChildren(element("p", `The traces cannot be shown: ${error.message}`, "error")));
