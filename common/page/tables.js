// Sorts and searches tables marked with data-sortable. Without it the page shows the same rows.
(() => {
  "use strict";
  const collator = new Intl.Collator("en", { numeric: true });

  // The first number of a cell, with the minus signs and thousands separators of the page; null for none.
  const number = (text) => {
    const found = text.replace(/[−–]/g, "-").replace(/,(?=\d{3})/g, "").match(/[+-]?\d+(\.\d+)?/);
    return found ? Number(found[0]) : null;
  };

  const compare = (column, words) => (a, b) => {
    const [x, y] = [a, b].map((row) => row.cells[column].textContent.trim());
    if (words) return collator.compare(x, y);
    const [p, q] = [number(x), number(y)];
    return (p === null) - (q === null) || p - q;
  };

  // Rows without a value stay at the end in both directions.
  const arrange = (rows, column, words, down) => {
    const known = rows.filter((row) => words || number(row.cells[column].textContent) !== null);
    const rest = rows.filter((row) => !known.includes(row));
    known.sort(compare(column, words));
    if (down) known.reverse();
    return [...known, ...rest];
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const words = column === 0 || head.classList.contains("text");
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        body.append(...arrange([...body.rows], column, words, down));
      });
    });
  };

  const searchable = (table) => {
    const rows = [...table.tBodies[0].rows];
    const box = document.createElement("p");
    box.className = "search";
    const label = document.createElement("label");
    const field = document.createElement("input");
    field.type = "search";
    label.append("Show rows with ", field);
    const told = document.createElement("span");
    told.setAttribute("role", "status");
    box.append(label, told);
    table.closest(".wide").before(box);
    field.addEventListener("input", () => {
      const asked = field.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(asked);
      const shown = rows.filter((row) => !row.hidden).length;
      told.textContent = asked ? `${shown} of ${rows.length} rows` : "";
    });
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    if (table.tBodies[0].rows.length < 2) continue;
    sortable(table);
    searchable(table);
  }
})();
