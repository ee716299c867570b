// What the page can do beyond being read: find cells, and look at pictures closely. Plain script, no module, as
// browsers load no modules from the disk.
"use strict";

(() => {
  const at = (id) => document.getElementById(id);
  const cells = [...document.querySelectorAll(".cell")];

  // --- finding ---

  const form = document.querySelector(".filter");
  const words = new WeakMap();

  // What is said of a cell, its place included, in lower case.
  function textOf(cell) {
    if (!words.has(cell)) {
      const strip = cell.querySelector(".strip");
      words.set(cell, `${strip.getAttribute("aria-label")} ${cell.textContent}`.toLowerCase());
    }
    return words.get(cell);
  }

  function isRated(cell, wanted) {
    const rating = Number(cell.dataset.rating);
    if (wanted === "star") return "starred" in cell.dataset;
    if (wanted === "0") return rating === 0;
    return rating >= Number(wanted);
  }

  function find() {
    const asked = at("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = at("state").value;
    const rating = at("rating").value;
    let found = 0;
    for (const cell of cells) {
      const fits =
        (!state || cell.dataset.states.split("|").includes(state)) &&
        (!rating || isRated(cell, rating)) &&
        asked.every((word) => textOf(cell).includes(word));
      cell.classList.toggle("out", !fits);
      found += fits;
    }
    const all = found === cells.length;
    at("found").textContent = all ? `${found} cells` : `${found} of ${cells.length} cells`;
    at("nothing").hidden = found > 0 || cells.length === 0;
    for (const section of document.querySelectorAll("main > section")) fold(section, all);
  }

  // Rows, columns and sections in which nothing was found make room.
  function fold(section, all) {
    section.hidden = !all && !section.querySelector(".cell:not(.out)");
    const rows = [...section.querySelectorAll("tbody > tr")];
    const filled = new Set();
    for (const row of rows) {
      const inside = [...row.querySelectorAll(".cell:not(.out)")];
      row.hidden = !all && inside.length === 0;
      for (const cell of inside) filled.add(cell.cellIndex);
    }
    for (const row of section.querySelectorAll("tr")) {
      for (const cell of row.cells) cell.hidden = !all && cell.cellIndex > 0 && !filled.has(cell.cellIndex);
    }
  }

  form.hidden = false;
  form.addEventListener("input", find);
  form.addEventListener("reset", () => setTimeout(find)); // the fields are emptied after the event
  form.addEventListener("submit", (event) => event.preventDefault());
  find(); // a browser may have kept what was asked for when the page was read again

  // --- looking closely ---

  const look = at("look");
  let links = [];
  let here = 0;

  function show(index) {
    here = Math.min(Math.max(index, 0), links.length - 1);
    const link = links[here];
    at("look-picture").src = link.href;
    at("look-picture").alt = link.querySelector("img").alt;
    at("look-file").href = link.href;
    at("look-title").textContent = link.dataset.title;
    at("look-place").textContent = `${here + 1} of ${links.length}`;
    at("look-before").disabled = here === 0;
    at("look-next").disabled = here === links.length - 1;
    const about = document.getElementById(link.dataset.about)?.cloneNode(true);
    about?.removeAttribute("id");
    const place = link.parentElement.querySelector(".place").cloneNode(true);
    at("look-about").replaceChildren(place, ...(about ? [about] : []));
  }

  // The first picture of the cell before or behind.
  function cellwise(step) {
    const cell = links[here].closest(".cell");
    let index = here;
    while (links[index]?.closest(".cell") === cell) index += step;
    if (!links[index]) return here;
    const other = links[index].closest(".cell");
    return links.findIndex((link) => link.closest(".cell") === other);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.look");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    links = [...document.querySelectorAll(".cell:not(.out) a.look")].filter((one) => !one.closest("[hidden]"));
    look.showModal();
    show(links.indexOf(link));
  });

  const keys = {
    ArrowLeft: () => here - 1,
    ArrowRight: () => here + 1,
    ArrowUp: () => cellwise(-1),
    ArrowDown: () => cellwise(1),
    Home: () => 0,
    End: () => links.length - 1,
  };
  // On the whole page: a button that goes out at an end takes the focus with it.
  document.addEventListener("keydown", (event) => {
    const scrolls = event.target.id === "look-about" && !["ArrowLeft", "ArrowRight"].includes(event.key);
    if (!look.open || !keys[event.key] || scrolls || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    show(keys[event.key]());
  });
  at("look-before").addEventListener("click", () => show(here - 1));
  at("look-next").addEventListener("click", () => show(here + 1));
  at("look-close").addEventListener("click", () => look.close());
  look.addEventListener("close", () => {
    at("look-picture").removeAttribute("src");
    links[here]?.scrollIntoView({ block: "nearest", inline: "nearest" });
    links[here]?.focus({ preventScroll: true });
  });
})();
