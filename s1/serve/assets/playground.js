"use strict";
const byId = (id) => document.getElementById(id);
const STEPS = [0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768];
const NO_LIMIT = "no limit";
let context = 1024;
const panels = [];

function headers() {
  const key = byId("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function problemOf(reply) {
  if (reply.status === 401) byId("key-field").hidden = false;
  const body = await reply.json().catch(() => null);
  return body?.error?.message || `The server replied with status ${reply.status}.`;
}

class Panel {
  constructor(title, step) {
    this.root = byId("panel").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find("h2").textContent = title;
    this.root.setAttribute("aria-label", title);
    this.range = this.find("input[type=range]");
    this.steps = [...STEPS.filter((n) => n < context), null];
    this.range.max = this.steps.length - 1;
    this.range.value = Math.min(step, this.steps.length - 1);
    this.range.addEventListener("input", () => this.showLimit());
    this.range.addEventListener("change", () => {  // where the slider rests, not what it passes on the way
      clearTimeout(this.resting);
      this.resting = setTimeout(() => this.thinks && this.limit !== null && this.turn({ max_thinking: this.limit }), 250);
    });
    for (const button of this.root.querySelectorAll("[data-turn]")) {
      button.addEventListener("click", () => this.pressed(button.dataset.turn));
    }
    this.clear();
    this.showLimit();
    byId("panels").append(this.root);
  }
  get limit() { return this.steps[this.range.value]; }
  showLimit() {
    const text = this.limit === null ? NO_LIMIT : `${this.limit.toLocaleString("en")} tokens`;
    this.find("output").textContent = text;
    this.range.setAttribute("aria-valuetext", text);
    this.count();
  }
  clear() {
    this.id = null;
    this.last = {};
    this.tokens = this.waits = this.seconds = 0;
    this.find(".thinking").replaceChildren();
    this.find(".answer").replaceChildren();
    this.find(".ended").textContent = "";
    this.count();
  }
  count() {
    this.find("[data-count=tokens]").textContent = this.tokens.toLocaleString("en");
    this.find("[data-count=waits]").textContent = this.waits;
    this.find("[data-count=seconds]").textContent = this.seconds.toFixed(1);
    this.find("meter").value = this.limit ? Math.min(1, this.tokens / this.limit) : 0;
  }
  enable(thinking, running) {
    this.thinks = thinking;
    for (const button of this.root.querySelectorAll("[data-turn]")) {
      button.disabled = !(button.dataset.turn === "stop" ? running : thinking);
    }
    this.find("select").disabled = running;
  }
  async turn(body) {
    const reply = await fetch(`v1/thinking/${this.id}`, { method: "POST", headers: headers(), body: JSON.stringify(body) });
    if (!reply.ok && reply.status !== 404 && reply.status !== 409) this.find(".ended").textContent = await problemOf(reply);
  }
  pressed(what) {
    if (what === "stop") this.leave.abort();
    else this.turn({ [what]: true });
  }

  async ask(question) {
    this.leave?.abort();
    clearTimeout(this.resting);  // the request has the limit already
    this.clear();
    const leave = this.leave = new AbortController();
    const began = performance.now();
    const clock = setInterval(() => { this.seconds = (performance.now() - began) / 1000; this.count(); }, 100);
    this.enable(false, true);
    try {
      const body = { messages: [{ role: "user", content: question }], stream: true, receipt: true,
        waits: Number(this.find("select").value) };
      if (this.limit !== null) body.max_thinking = this.limit;
      const reply = await fetch("v1/chat/completions",
        { method: "POST", headers: headers(), body: JSON.stringify(body), signal: leave.signal });
      if (!reply.ok) throw new Error(await problemOf(reply));
      await this.read(reply.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (error) {
      if (error.name === "AbortError") this.find(".ended").textContent = "Stopped.";
      else byId("problem").textContent = error.message;
    } finally {
      clearInterval(clock);
      if (leave === this.leave) {
        this.seconds = (performance.now() - began) / 1000;
        this.count();
        this.id = null;
        this.enable(false, false);
      }
    }
  }
  async read(reader) {
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: {")) this.take(JSON.parse(line.slice(6)));
      }
    }
  }
  take(event) {
    if (event.error) throw new Error(event.error.message);
    this.id = event.id;
    for (const choice of event.choices) {
      const thought = choice.delta.reasoning_content;
      if (thought) {
        this.add(".thinking", thought, choice.forced);
        this.tokens = choice.thinking_tokens ?? this.tokens;
        this.waits = choice.waits ?? this.waits;
        this.enable(true, true);
      }
      if (choice.delta.content) {
        this.add(".answer", choice.delta.content, choice.forced);
        this.enable(false, true);
      }
      if (choice.receipt) this.end(choice.receipt);
    }
    this.count();
  }
  add(where, text, forced) {
    const box = this.find(where);
    if (!box.hasChildNodes()) text = text.trimStart();
    if (!text) return;
    const follows = box.scrollTop + box.clientHeight > box.scrollHeight - 30;
    let last = this.last[where];
    if (!last || last.forced !== forced) {
      last = this.last[where] = { forced, text: "", element: document.createElement(forced ? "mark" : "span") };
      box.append(last.element);
    }
    last.text += text;
    MathText.show(last.element, last.text);
    if (follows) box.scrollTop = box.scrollHeight;
  }
  end(receipt) {
    this.tokens = receipt.thinking_tokens;
    this.waits = receipt.waits;
    const why = {
      limit: "The budget ended the thinking.", loop: "The thinking repeated itself and was ended.",
      answer_now: "You ended the thinking.",
    };
    this.find(".ended").textContent = `${why[receipt.cut_by] || "The model ended its thinking."} ` +
      `${receipt.answer_tokens} answer token${receipt.answer_tokens === 1 ? "" : "s"}${receipt.finish === "length" ? ", and no room for more" : ""}.`;
  }
}

function compare() {
  const other = panels[1];
  if (byId("compare").checked) {
    if (!other) panels.push(new Panel("Another budget", 2));
    panels[1].root.hidden = false;
    panels[0].find("h2").textContent = "One budget";
  } else if (other) {
    other.leave?.abort();
    other.root.hidden = true;
    panels[0].find("h2").textContent = "The dial";
  }
}

async function begin() {
  const reply = await fetch("v1/settings", { headers: headers() });
  if (!reply.ok) {
    byId("problem").textContent = await problemOf(reply);
    return false;
  }
  const settings = await reply.json();
  context = settings.context;
  byId("model").textContent = `This is ${settings.model}, with room for ${context.toLocaleString("en")} tokens.`;
  for (const text of settings.examples) {
    const button = document.createElement("button");
    button.type = "button";
    MathText.show(button, text);
    button.addEventListener("click", () => { byId("question").value = text; byId("question").focus(); });
    byId("examples").append(button);
  }
  if (!byId("question").value) byId("question").value = settings.examples[0] || "";
  panels.push(new Panel("The dial", 6));
  return true;
}

byId("compare").addEventListener("change", compare);
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("problem").textContent = "";
  if (!panels.length && !(await begin())) return;
  for (const panel of panels) if (!panel.root.hidden) panel.ask(byId("question").value);
});
begin();
