"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { nodes, links } = data;
  const el = (id) => document.getElementById(id);
  const graph = el("graph"), tip = el("tip"), card = el("card");
  const cards = nodes.map((_, i) => el("n" + i));
  const lines = links.map((_, i) => (i < data.drawn ? el("e" + i) : null));
  let shown = data.start, chosen = null;

  // -- making elements: text only ever goes in as text ---------------------------------------------------------
  function make(tag, text, name) {
    const one = document.createElement(tag);
    if (text !== undefined && text !== null) one.textContent = text;
    if (name) one.className = name;
    return one;
  }
  function number(value, digits = 3) {
    if (value === null || value === undefined) return "";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
  }
  const share = (value) => (value === null || value === undefined ? "" : value && Math.abs(value) < 0.001 ? "< 0.1%" : number(value * 100, 2) + "%");
  const nodesOf = (count) => `${number(count)} ${count === 1 ? "node" : "nodes"}`;
  const signed = (value) => (value > 0 ? "+" : "") + number(value).replace("-", "−");
  function list(pairs) {
    const dl = make("dl");
    for (const [term, text] of pairs) if (text !== "" && text !== null) dl.append(make("dt", term), make("dd", text));
    return dl;
  }
  const title = (node) => (node.text === node.name ? node.name : node.text);
  function nodePairs(node) {
    return [["what", node.text === node.name ? "" : node.name], ["module", node.module], ["influence", share(node.influence)],
      ["edges in", number(node.into.length)], ["edges out", number(node.from.length)]];
  }
  function linkPairs(link) {
    return [["mean weight", signed(link.mean)], ["standard error", number(link.error)], ["sum of |weight|", number(link.sum)],
      ["observations", number(link.count)], ["graphs", number(link.graphs)], ["sign consistency", number(link.sign)],
      ["share of the target's input", share(link.share)], ["influence", share(link.influence)]];
  }

  // -- who is connected to whom ---------------------------------------------------------------------------------
  for (const node of nodes) { node.into = []; node.from = []; }
  links.forEach((link, i) => { nodes[link.source].from.push(i); nodes[link.target].into.push(i); });
  function reach(start, side, end) {
    const seen = new Set([start]), used = new Set(), queue = [start];
    while (queue.length) {
      for (const i of nodes[queue.pop()][side]) {
        if (i >= shown) continue;
        used.add(i);
        const next = links[i][end];
        if (!seen.has(next)) { seen.add(next); queue.push(next); }
      }
    }
    return [seen, used];
  }
  function pick(index) {
    chosen = index;
    graph.classList.toggle("picked", index !== null);
    for (const one of graph.querySelectorAll(".on, .chosen")) one.classList.remove("on", "chosen");
    for (const row of document.querySelectorAll("tr.on")) row.classList.remove("on");
    if (index === null) return;
    graph.classList.remove("searched");
    const [above, up] = reach(index, "from", "target"), [below, down] = reach(index, "into", "source");
    for (const i of [...above, ...below]) cards[i].classList.add("on");
    for (const i of [...up, ...down]) if (lines[i]) lines[i].classList.add("on");
    cards[index].classList.add("chosen");
    for (const row of document.querySelectorAll(`tr[data-node="${index}"]`)) row.classList.add("on");
    show(index, above.size - 1, below.size - 1);
  }
  function show(index, above, below) {
    const node = nodes[index], head = make("h2", title(node));
    head.dir = "auto";
    card.replaceChildren(head, list([...nodePairs(node), ["fed by, over edges shown", nodesOf(below)], ["feeds, over edges shown", nodesOf(above)]]));
    for (const [name, side, end] of [["Strongest inputs", "into", "source"], ["Strongest outputs", "from", "target"]]) {
      if (!node[side].length) continue;
      const ul = make("ul");
      for (const i of node[side].slice(0, 8)) {
        const item = make("li"), button = make("button"), other = links[i][end];
        button.type = "button";
        button.append(make("b", signed(links[i].mean), links[i].mean < 0 ? "down" : "up"), make("span", title(nodes[other])));
        button.addEventListener("click", () => { pick(other); centre(other); });
        item.append(button);
        ul.append(item);
      }
      card.append(make("h3", name), ul);
    }
  }

  // -- the card beside the pointer ------------------------------------------------------------------------------
  function explain(where, heading, pairs) {
    tip.replaceChildren(make("strong", heading), list(pairs));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(where.x + 16, innerWidth - box.width - 8)) + "px";
    tip.style.top = Math.max(6, where.y + 18 + box.height > innerHeight ? where.y - box.height - 12 : where.y + 18) + "px";
  }
  function linkName(link) { return `${title(nodes[link.source])} → ${title(nodes[link.target])}`; }
  const hide = () => { tip.hidden = true; };
  cards.forEach((one, i) => {
    one.addEventListener("pointermove", (event) => { if (!drag) explain(event, title(nodes[i]), nodePairs(nodes[i])); });
    one.addEventListener("pointerleave", hide);
    one.addEventListener("blur", hide);
    one.addEventListener("focus", () => {
      if (!one.matches(":focus-visible")) return;
      const box = one.getBoundingClientRect();
      explain({ x: box.right - 16, y: box.top }, title(nodes[i]), nodePairs(nodes[i]));
    });
    one.addEventListener("click", (event) => { event.stopPropagation(); if (!moved) pick(chosen === i ? null : i); });
    one.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(chosen === i ? null : i); }
    });
  });
  const hits = document.createElementNS("http://www.w3.org/2000/svg", "g");
  hits.setAttribute("fill", "none");
  lines.forEach((line, i) => {
    if (!line) return;
    const hit = document.createElementNS("http://www.w3.org/2000/svg", "path");
    hit.setAttribute("d", line.getAttribute("d"));
    hit.setAttribute("class", "hit");
    hit.addEventListener("pointermove", (event) => { if (!drag) { line.classList.add("hot"); explain(event, linkName(links[i]), linkPairs(links[i])); } });
    hit.addEventListener("pointerleave", () => { line.classList.remove("hot"); hide(); });
    links[i].hit = hit;
    hits.append(hit);
  });
  graph.querySelector(".links").after(hits);

  // -- how many edges -------------------------------------------------------------------------------------------
  const many = el("many");
  function limit(count) {
    shown = count;
    lines.forEach((line, i) => {
      if (!line) return;
      line.classList.toggle("off", i >= count);
      links[i].hit.style.display = i >= count ? "none" : "";
    });
    const least = count ? `, ${data.measure} ≥ ${number(links[count - 1].strength)}` : "";
    el("shown").textContent = count < links.length ? `${number(count)} strongest of ${number(links.length)}${least}` : links.length ? "all shown" : "none";
    if (chosen !== null) pick(chosen);
  }
  many.value = String(data.drawn ? Math.round(1000 * Math.sqrt(data.start / data.drawn)) : 0);
  many.disabled = !data.drawn;
  many.addEventListener("input", () => limit(Math.round(data.drawn * (many.value / 1000) ** 2)));

  // -- search ---------------------------------------------------------------------------------------------------
  const find = el("find");
  let matches = [];
  find.addEventListener("input", () => {
    const words = find.value.trim().toLowerCase();
    matches = [];
    nodes.forEach((node, i) => {
      const hit = words !== "" && `${node.text} ${node.full} ${node.name} ${node.module ?? ""}`.toLowerCase().includes(words);
      cards[i].classList.toggle("match", hit);
      if (hit) matches.push(i);
    });
    graph.classList.toggle("searched", words !== "");
    el("found").textContent = words === "" ? "" : `${number(matches.length)} found`;
  });
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !matches.length) return;
    const next = matches[(matches.indexOf(chosen) + 1) % matches.length];
    pick(next);
    centre(next);
  });

  // -- zoom and pan ---------------------------------------------------------------------------------------------
  const whole = graph.viewBox.baseVal, home = { x: whole.x, y: whole.y, width: whole.width, height: whole.height };
  const blown = 1.5 * Math.max(home.width / graph.clientWidth, home.height / graph.clientHeight); // few nodes: at most 1.5 times
  if (blown < 1) {
    const width = home.width / blown, height = home.height / blown;
    Object.assign(home, { x: home.x + (home.width - width) / 2, y: home.y + (home.height - height) / 2, width, height });
  }
  const rowNames = graph.querySelectorAll(".row");
  let view = { ...home }, drag = null, moved = false;
  look(view);
  function look(next) {
    view = next;
    graph.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    const size = scale(), left = view.x + view.width / 2 - (graph.clientWidth * size) / 2;
    for (const name of rowNames) { // names of rows keep to the left border and to their size
      name.setAttribute("x", left + 12 * size);
      name.setAttribute("font-size", 11.5 * size);
    }
  }
  function scale() { return Math.max(view.width / graph.clientWidth, view.height / graph.clientHeight) || 1; }
  function at(event) {
    const point = new DOMPoint(event.clientX, event.clientY), matrix = graph.getScreenCTM();
    return matrix ? point.matrixTransform(matrix.inverse()) : point;
  }
  function zoom(factor, about) {
    const width = Math.min(Math.max(view.width * factor, 120), home.width * 6), real = width / view.width;
    look({ x: about.x - (about.x - view.x) * real, y: about.y - (about.y - view.y) * real, width, height: view.height * real });
  }
  const middle = () => ({ x: view.x + view.width / 2, y: view.y + view.height / 2 });
  function centre(index) {
    const box = cards[index].querySelector("rect").getBBox();
    const far = scale() > 1.3 ? 1.1 / scale() : 1, width = view.width * far, height = view.height * far;
    look({ x: box.x + box.width / 2 - width / 2, y: box.y + box.height / 2 - height / 2, width, height });
  }
  graph.addEventListener("wheel", (event) => { event.preventDefault(); hide(); zoom(1.0016 ** event.deltaY, at(event)); }, { passive: false });
  graph.addEventListener("pointerdown", (event) => { if (event.button === 0) { drag = { x: event.clientX, y: event.clientY, view }; moved = false; } });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    if (!moved && Math.hypot(dx, dy) < 4) return;
    moved = true;
    hide();
    graph.classList.add("dragged");
    look({ ...drag.view, x: drag.view.x - dx * scale(), y: drag.view.y - dy * scale() });
  });
  addEventListener("pointerup", () => { drag = null; graph.classList.remove("dragged"); });
  addEventListener("pointercancel", () => { drag = null; graph.classList.remove("dragged"); });
  graph.addEventListener("click", () => { if (!moved) pick(null); });
  addEventListener("keydown", (event) => { if (event.key === "Escape") { pick(null); hide(); } });
  el("in").addEventListener("click", () => zoom(0.75, middle()));
  el("out").addEventListener("click", () => zoom(1 / 0.75, middle()));
  el("fit").addEventListener("click", () => look({ ...home }));
  new ResizeObserver(() => look(view)).observe(graph);
  let before = null;
  addEventListener("beforeprint", () => { before = view; look({ ...home }); });
  addEventListener("afterprint", () => { if (before) look(before); });

  // -- tables: columns are [heading, value to sort by, text, class] ---------------------------------------------
  function table(home, rows, columns, choose) {
    let by = null, falling = true, most = 300;
    const used = columns.filter(([, value]) => rows.some((row) => ![null, undefined, ""].includes(value(row))));
    const sheet = make("table"), head = make("tr"), body = make("tbody"), more = make("button", "", "more");
    used.forEach((column, k) => {
      const cell = make("th", null, column[3]), button = make("button", column[0]);
      button.type = "button";
      button.addEventListener("click", () => { falling = by === k ? !falling : column[3] === "n"; by = k; fill(); });
      cell.append(button);
      head.append(cell);
    });
    function ordered() {
      const all = rows.map((_, i) => i);
      if (by === null) return all;
      const value = used[by][1], way = falling ? -1 : 1;
      return all.sort((i, j) => {
        const a = value(rows[i]), b = value(rows[j]), none = (a === null || a === undefined) - (b === null || b === undefined);
        if (none) return none;
        return (way * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }))) || i - j;
      });
    }
    function fill() {
      [...head.children].forEach((cell, k) => (k === by ? cell.setAttribute("aria-sort", falling ? "descending" : "ascending") : cell.removeAttribute("aria-sort")));
      body.replaceChildren(...ordered().slice(0, most).map((i) => {
        const line = make("tr");
        for (const [, , text, name] of used) {
          const cell = make("td", text(rows[i]), name);
          if (name === "long") { cell.title = text(rows[i]); cell.dir = "auto"; }
          line.append(cell);
        }
        choose(line, i);
        return line;
      }));
      more.hidden = rows.length <= most;
      more.textContent = `Show all ${number(rows.length)}`;
    }
    const top = make("thead");
    top.append(head);
    sheet.append(top, body);
    more.type = "button";
    more.addEventListener("click", () => { most = rows.length; fill(); });
    home.append(sheet, more);
    fill();
    addEventListener("beforeprint", () => { most = Math.min(rows.length, 2000); fill(); });
  }
  table(el("nodes"), nodes, [
    ["Node", (n) => n.order, (n) => n.name, ""], ["Label", (n) => n.text, (n) => n.full, "long"], ["Influence", (n) => n.influence, (n) => share(n.influence), "n"],
    ["In", (n) => n.into.length, (n) => number(n.into.length), "n"], ["Out", (n) => n.from.length, (n) => number(n.from.length), "n"],
    ["Module", (n) => n.module, (n) => n.module, ""],
  ], (row, i) => { row.dataset.node = i; row.addEventListener("click", () => { pick(i); centre(i); }); });
  const label = (i) => (nodes[i].text === nodes[i].name ? "" : nodes[i].text);
  table(el("links"), links, [
    ["From", (e) => nodes[e.source].order, (e) => nodes[e.source].name, ""], ["To", (e) => nodes[e.target].order, (e) => nodes[e.target].name, ""],
    ["Weight", (e) => e.mean, (e) => signed(e.mean), "n"], ["± se", (e) => e.error, (e) => number(e.error, 2), "n"], ["Sum |w|", (e) => e.sum, (e) => number(e.sum), "n"],
    ["n", (e) => e.count, (e) => number(e.count), "n"], ["Share", (e) => e.share, (e) => share(e.share), "n"], ["Influence", (e) => e.influence, (e) => share(e.influence), "n"],
    ["From label", (e) => label(e.source), (e) => label(e.source), "long"], ["To label", (e) => label(e.target), (e) => label(e.target), "long"],
  ], (row, i) => {
    row.addEventListener("click", () => { pick(links[i].source); centre(links[i].source); });
    row.addEventListener("pointerenter", () => lines[i] && lines[i].classList.add("hot"));
    row.addEventListener("pointerleave", () => lines[i] && lines[i].classList.remove("hot"));
  });
  const tabs = [...document.querySelectorAll("[role=tab]")];
  function open(tab) {
    for (const one of tabs) {
      one.setAttribute("aria-selected", String(one === tab));
      el(one.getAttribute("aria-controls")).hidden = one !== tab;
    }
  }
  tabs.forEach((tab, k) => {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", (event) => { if (event.key === "ArrowLeft" || event.key === "ArrowRight") { tabs[1 - k].focus(); open(tabs[1 - k]); } });
  });

  limit(data.start);
  document.documentElement.dataset.ready = "true";
})();
