// Uses every control of a page and writes what it saw into data-log.
{
  const fire = (on, type, more = {}) => {
    const kind = more.key ? KeyboardEvent : PointerEvent;
    on.dispatchEvent(new kind(type, { bubbles: true, clientX: 300, clientY: 300, ...more }));
  };
  const find = document.getElementById("find"), many = document.getElementById("many");
  const state = () => [document.querySelectorAll(".node.on").length, document.querySelectorAll(".link.off").length].join();
  const log = { start: state() };
  for (const node of [...document.querySelectorAll(".node")].slice(0, 50)) { fire(node, "pointermove"); node.focus(); fire(node, "keydown", { key: "Enter" }); fire(node, "keydown", { key: " " }); }
  for (const hit of [...document.querySelectorAll(".hit")].slice(0, 80)) { fire(hit, "pointermove"); fire(hit, "pointerleave"); }
  const first = document.querySelector(".node");
  fire(first, "click");
  log.picked = state();
  log.card = document.querySelector("#card h2").textContent;
  log.cardLinks = document.querySelectorAll("#card li").length;
  fire(document.body, "keydown", { key: "Escape" });
  log.escaped = state();
  many.value = 0; many.dispatchEvent(new Event("input"));
  log.none = state();
  many.value = 1000; many.dispatchEvent(new Event("input"));
  log.all = state();
  find.value = "dogs"; find.dispatchEvent(new Event("input"));
  log.found = [...document.querySelectorAll(".node.match text:first-of-type")].map((t) => t.textContent);
  fire(find, "keydown", { key: "Enter" });
  find.value = ""; find.dispatchEvent(new Event("input"));
  const weights = () => [...document.querySelectorAll("#links tbody tr")].map((row) => row.children[2].textContent);
  const sorter = document.querySelectorAll("#links th button");
  log.tabled = [document.querySelectorAll("#nodes tbody tr").length, document.querySelectorAll("#links tbody tr").length];
  for (const button of document.querySelectorAll("button")) button.click();
  if (sorter.length) { sorter[2].click(); log.falling = weights(); sorter[2].click(); log.rising = weights(); }
  const graph = document.getElementById("graph");
  graph.dispatchEvent(new WheelEvent("wheel", { deltaY: -300, clientX: 300, clientY: 300, cancelable: true }));
  fire(graph, "pointerdown", { button: 0 }); fire(document.body, "pointermove", { clientX: 380, clientY: 350 }); fire(document.body, "pointerup");
  log.box = graph.getAttribute("viewBox");
  dispatchEvent(new Event("beforeprint")); dispatchEvent(new Event("afterprint"));
  log.images = document.images.length;
  document.documentElement.dataset.log = JSON.stringify(log);
}
