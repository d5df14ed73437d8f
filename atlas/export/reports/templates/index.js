"use strict";
// Search, filters and sorting of the table that the page already shows.
(() => {
  const form = document.querySelector("form"), table = document.getElementById("neurons");
  const rows = [...table.tBodies[0].rows], told = form.querySelector("output");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  function show() {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { value: layer } = form.layer, { value: module } = form.module, { value: type } = form.type;
    let seen = 0;
    for (const row of rows) {
      const data = row.dataset, text = texts.get(row);
      const fits = (!layer || data.layer === layer) && (!type || data.type === type)
        && (!module || data.module.split(".")[0] === module) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      seen += fits;
    }
    told.textContent = `${seen.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  }
  const orders = {
    id: (row) => [Number(row.dataset.layer), Number(row.dataset.neuron)],
    label: (row) => [row.cells[1].textContent],
    type: (row) => [row.dataset.type],
    module: (row) => row.dataset.module ? row.dataset.module.split(".").map(Number) : [Infinity],
    max: (row) => [number(row.dataset.max)], graphs: (row) => [number(row.dataset.graphs)], score: (row) => [number(row.dataset.score)],
  };
  function number(text) { return text === "" ? -Infinity : Number(text); }
  function compare(a, b) {
    for (let i = 0; i < Math.max(a.length, b.length); i++) {
      if (a[i] === b[i]) continue;
      if (a[i] === undefined) return -1;
      if (b[i] === undefined) return 1;
      return typeof a[i] === "string" ? a[i].localeCompare(b[i], "en") : a[i] - b[i];
    }
    return 0;
  }
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" || (head.classList.contains("r") && !head.hasAttribute("aria-sort"));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keys = new Map(rows.map((row) => [row, orders[head.dataset.key](row)]));
      rows.sort((a, b) => (down ? -1 : 1) * compare(keys.get(a), keys.get(b)));
      table.tBodies[0].append(...rows);
    });
  }
  show();
})();
