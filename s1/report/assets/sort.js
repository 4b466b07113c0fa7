"use strict";
// Headings as buttons that sort a table: up, down, as it was.
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const { compare } = new Intl.Collator("en", { numeric: true });

// Numbers by size, texts by the alphabet, what is missing last in either direction.
function order(one, other, direction) {
  const [missing, lacks] = [one, other].map((value) => value === null || value === undefined || value === "");
  if (missing || lacks) return missing - lacks;
  const by = typeof one === "number" && typeof other === "number" ? one - other : compare(one, other);
  return direction === "descending" ? -by : by;
}

function markSorted(table, column, direction) {
  [...table.tHead.rows[0].cells].forEach((head, i) =>
    head.setAttribute("aria-sort", i === column && direction ? direction : "none"));
}

// `apply(column, direction)` puts the rows in order.
function sortable(table, apply) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const direction = NEXT[head.getAttribute("aria-sort")];
      markSorted(table, column, direction);
      apply(column, direction);
    };
  });
  markSorted(table, -1);
}

function valueOf(cell) {
  const text = cell.textContent.replace("●", "").trim(), number = Number.parseFloat(text.replaceAll(",", ""));
  return text === "none" ? null : /^[-+]?[\d.,]+( %)?( –.*)?$/.test(text) ? number : text;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  sortable(table, (column, direction) => {
    const values = new Map(rows.map((row) => [row, valueOf(row.cells[column])]));
    const by = (a, b) => order(values.get(a), values.get(b), direction);
    body.append(...(direction === "none" ? rows : [...rows].sort(by)));
  });
}
