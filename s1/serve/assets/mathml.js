// Common LaTeX as MathML, which browsers typeset themselves. What is not known is shown as it was written.
"use strict";
const MathText = (() => {
  const SYMBOLS = {
    alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ",
    iota: "ι", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ", tau: "τ", phi: "φ",
    varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ", Xi: "Ξ", Pi: "Π",
    Sigma: "Σ", Phi: "Φ", Psi: "Ψ", Omega: "Ω", infty: "∞", partial: "∂", nabla: "∇", ell: "ℓ", emptyset: "∅",
    degree: "°", circ: "∘", hbar: "ℏ", angle: "∠", triangle: "△", prime: "′",
  };
  const OPERATORS = {
    cdot: "⋅", times: "×", div: "÷", pm: "±", mp: "∓", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠",
    approx: "≈", equiv: "≡", sim: "∼", cong: "≅", propto: "∝", in: "∈", notin: "∉", subset: "⊂", subseteq: "⊆",
    cup: "∪", cap: "∩", to: "→", rightarrow: "→", Rightarrow: "⇒", implies: "⇒", iff: "⇔", leftarrow: "←", mapsto: "↦",
    forall: "∀", exists: "∃", neg: "¬", land: "∧", lor: "∨", mid: "∣", parallel: "∥", perp: "⊥", setminus: "∖",
    ldots: "…", cdots: "⋯", dots: "…", vdots: "⋮", therefore: "∴", because: "∵", ast: "∗", star: "⋆", lt: "<", gt: ">",
    langle: "⟨", rangle: "⟩", lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", vert: "|", Vert: "‖",
    "{": "{", "}": "}", "|": "‖", "%": "%", "$": "$", "#": "#", "&": "&", "_": "_",
  };
  const LARGE = { sum: "∑", prod: "∏", int: "∫", iint: "∬", oint: "∮", bigcup: "⋃", bigcap: "⋂" };
  const LIMITS = new Set(["lim", "max", "min", "sup", "inf", "gcd", "lcm"]);
  const NAMES = new Set(["sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "log", "ln", "exp", "det", "dim", "ker", "deg", "arg", "Pr", ...LIMITS]);
  const SPACES = { ",": ".17em", ":": ".22em", ";": ".28em", " ": ".3em", quad: "1em", qquad: "2em" };
  const ACCENTS = { hat: "^", bar: "¯", overline: "¯", vec: "→", tilde: "~", dot: "˙", widehat: "^", underline: "_" };
  const STYLED = { mathbb: "double-struck", mathbf: "bold", mathcal: "script", mathrm: "normal", boldsymbol: "bold" };
  const DOUBLE = { R: "ℝ", N: "ℕ", Z: "ℤ", Q: "ℚ", C: "ℂ", P: "ℙ", F: "𝔽", E: "𝔼" };
  const IGNORED = new Set(["displaystyle", "textstyle", "limits", "nolimits", "!", "big", "Big", "bigg", "Bigg",
    "bigl", "bigr", "Bigl", "Bigr", "middle"]);
  const DEEPEST = 60;

  function node(name, ...children) {
    const made = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
    for (const child of children) made.append(child);
    return made;
  }
  const row = (items) => (items.length === 1 ? items[0] : node("mrow", ...items));

  function tokens(source) {
    return source.match(/\\[a-zA-Z]+\*?|\\[\s\S]|\d+(?:[.,]\d+)*|\s+|[\s\S]/gu) || [];
  }

  class Parser {
    constructor(source) { this.tokens = tokens(source); this.at = 0; this.depth = 0; }
    skip() { while (/^\s/.test(this.tokens[this.at] || "")) this.at++; }
    peek() { this.skip(); return this.tokens[this.at]; }
    next() { this.skip(); return this.tokens[this.at++]; }

    list(ends) {
      if (++this.depth > DEEPEST) throw new RangeError("too deep");
      const items = [];
      while (this.at < this.tokens.length && !ends.includes(this.peek())) {
        if (this.peek() === undefined) break;
        items.push(this.scripts(this.atom()));
      }
      this.depth--;
      return items;
    }
    group() {
      if (this.peek() !== "{") return this.atom();
      this.next();
      const items = this.list(["}"]);
      this.next();
      return row(items);
    }
    raw() {
      this.skip();
      if (this.tokens[this.at] !== "{") return this.next() || "";
      let text = "", depth = 0;
      do {
        const token = this.tokens[this.at++];
        if (token === undefined) break;
        depth += (token === "{") - (token === "}");
        text += token;
      } while (depth > 0);
      return text.slice(1, -1);
    }
    scripts(base) {
      let below = null, above = null;
      for (;;) {
        const sign = this.peek();
        if (sign === "_" && !below) { this.next(); below = this.group(); }
        else if (sign === "^" && !above) { this.next(); above = this.group(); }
        else if (sign === "'") { this.next(); above = above ? row([above, node("mo", "′")]) : node("mo", "′"); }
        else break;
      }
      const [under, over, both] = base.limits ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
      if (below && above) return node(both, base, below, above);
      return below ? node(under, base, below) : above ? node(over, base, above) : base;
    }
    atom() {
      const token = this.next();
      if (token === undefined) return node("mrow");
      if (token === "{") { this.at--; return this.group(); }
      if (token[0] === "\\") return this.command(token.slice(1).replace("*", ""));
      if (/^\d/.test(token)) return node("mn", token);
      if (/^\p{L}/u.test(token)) return node("mi", token);
      return node("mo", token === "-" ? "−" : token);
    }
    command(name) {
      if (name in SYMBOLS) return node("mi", SYMBOLS[name]);
      if (name in OPERATORS) return node("mo", OPERATORS[name]);
      if (name in LARGE) { const made = node("mo", LARGE[name]); made.limits = !name.endsWith("int"); return made; }
      if (NAMES.has(name)) { const made = node("mi", name); made.limits = LIMITS.has(name); return made; }
      if (name in SPACES) { const made = node("mspace"); made.setAttribute("width", SPACES[name]); return made; }
      if (IGNORED.has(name)) return node("mrow");
      if (name in ACCENTS) {
        const made = node(name === "underline" ? "munder" : "mover", this.group(), node("mo", ACCENTS[name]));
        made.setAttribute("accent", "true");
        return made;
      }
      if (name in STYLED) {
        const text = this.raw();
        const made = node("mi", name === "mathbb" ? [...text].map((c) => DOUBLE[c] || c).join("") : text);
        if (STYLED[name] === "normal") made.setAttribute("mathvariant", "normal");
        return made;
      }
      if (["frac", "dfrac", "tfrac", "cfrac"].includes(name)) return node("mfrac", this.group(), this.group());
      if (["binom", "dbinom", "tbinom"].includes(name)) {
        const made = node("mfrac", this.group(), this.group());
        made.setAttribute("linethickness", "0");
        return row([node("mo", "("), made, node("mo", ")")]);
      }
      if (name === "sqrt") {
        if (this.peek() !== "[") return node("msqrt", this.group());
        this.next();
        const index = row(this.list(["]"]));
        this.next();
        return node("mroot", this.group(), index);
      }
      if (["boxed", "fbox"].includes(name)) {
        const made = node("mrow", this.group());
        made.setAttribute("class", "boxed");
        return made;
      }
      if (["text", "textbf", "textit", "operatorname", "mbox", "textrm"].includes(name)) return node("mtext", this.raw());
      if (name === "left") {
        const open = this.fence(), items = this.list(["\\right"]);
        this.next();
        return row([open, ...items, this.fence()]);
      }
      if (["pmod", "bmod", "mod"].includes(name)) {
        if (name === "bmod") return node("mo", "mod");
        return row([node("mo", "("), node("mi", "mod"), node("mspace"), this.group(), node("mo", ")")]);
      }
      if (name === "begin") return this.table(this.raw().replace("*", ""));
      const made = node("mtext", "\\" + name);
      made.setAttribute("class", "wrong");
      return made;
    }
    fence() {
      const token = this.next() || ".";
      const text = token === "." ? "" : token[0] === "\\" ? OPERATORS[token.slice(1)] || token : token;
      const made = node("mo", text);
      made.setAttribute("stretchy", "true");
      return made;
    }
    table(kind) {
      if (kind === "array") this.raw();
      const table = node("mtable");
      for (let more = true; more;) {
        const line = node("mtr");
        for (;;) {
          line.append(node("mtd", ...this.list(["&", "\\\\", "\\end"])));
          if (this.peek() !== "&") break;
          this.next();
        }
        table.append(line);
        more = this.next() === "\\\\";
      }
      this.raw();
      const [open, close] = { pmatrix: "()", bmatrix: "[]", vmatrix: "||", cases: "{ " }[kind] || ["", ""];
      return row([open, table, (close || "").trim()].filter(Boolean).map((x) => (x === table ? x : node("mo", x))));
    }
  }

  function math(source, block) {
    const made = node("math");
    if (block) made.setAttribute("display", "block");
    try {
      const parser = new Parser(source), items = [];
      while (parser.peek() !== undefined) {
        items.push(...parser.list([]));
      }
      made.append(row(items));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      made.append(node("mtext", source));
    }
    made.setAttribute("aria-label", source);
    return made;
  }

  const FORMULA = /\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)|(\\boxed\{(?:[^{}]|\{[^{}]*\})*\})/g;

  // The text with its formulas typeset, into an element that is emptied first.
  function show(element, text) {
    element.replaceChildren();
    let done = 0;
    for (const found of text.matchAll(FORMULA)) {
      element.append(text.slice(done, found.index));
      const source = found.slice(1).find((part) => part !== undefined);
      const block = found[1] !== undefined || found[2] !== undefined;
      element.append(math(source, block));
      done = found.index + found[0].length;
      if (block && text[done] === "\n") done++;
    }
    element.append(text.slice(done));
  }
  return { show, math };
})();
