// A grid of pictures: rows and columns are the values of two axes, a cell is a stack of takes to flip through.

/** One cell: its pictures one at a time, the winner first, and what can be said of them. */
function gridCell(view, cell) {
  if (!cell) return h("td", { class: "apx-cell apx-empty" }, "Nothing here");
  const { pictures, label } = cell;
  const frame = h("div", { class: "apx-stack" });
  const place = h("span", { class: "apx-place" });
  const flip = (by, text, name) => h("button", { type: "button", class: "apx-button apx-small", "aria-label": `${name} in ${label}`, onclick: () => show(at + by) }, text);
  const previous = flip(-1, "‹", "Previous picture");
  const next = flip(1, "›", "Next picture");
  const pick = h("button", { type: "button", class: "apx-button apx-small", onclick: toggle }, "");
  const status = h("span", { class: "apx-unseen", role: "status" });
  let at = 0;

  function show(index) {
    at = Math.min(Math.max(index, 0), pictures.length - 1);
    const picture = pictures[at];
    setDisabled(previous, at === 0);
    setDisabled(next, at === pictures.length - 1);
    setText(place, `${at + 1} of ${pictures.length}`);
    setText(pick, picture.starred ? "★ Winner" : "☆ Pick");
    pick.setAttribute("aria-pressed", String(picture.starred));
    pick.setAttribute("aria-label", `${picture.starred ? "Winner" : "Pick as winner"}: picture ${at + 1} of ${pictures.length} in ${label}`);
    frame.replaceChildren(...thumbnails(view, [picture], "card", () => view.lightbox.open(pictures, at)));
  }

  /** One winner a cell: the star goes from the one that had it. */
  async function toggle() {
    const chosen = pictures[at];
    const before = pictures.filter((picture) => picture.starred && picture !== chosen);
    try {
      for (const picture of before) await say(picture, false);
      await say(chosen, !chosen.starred);
      setText(status, chosen.starred ? "Picked." : "Not the winner any more.");
    } catch (problem) {
      setText(status, problem.text);
      status.classList.remove("apx-unseen");
    }
    show(at);
  }

  async function say(picture, starred) {
    await view.kernel.request("review", { run_id: picture.run_id, index: picture.index, starred });
    picture.starred = starred;
  }

  if (pictures.length) show(0);
  // The lightbox may have said something of one of these pictures.
  view.reviewListeners.push((row) => {
    for (const news of row.pictures) {
      const known = pictures.find((one) => one.run_id === news.run_id && one.index === news.index);
      if (known) Object.assign(known, news);
    }
    if (pictures.length) show(at);
  });
  const flipping = pictures.length > 1 ? [previous, place, next] : [];
  return h("td", { class: "apx-cell" },
    pictures.length ? frame : null,
    pictures.length ? h("div", { class: "apx-row" }, flipping, pick, status) : null,
    cell.caption ? h("div", { class: "apx-facts" }, cell.caption) : null,
    cell.why.map((why) => h("div", { class: "apx-facts" }, `⚠ ${why}`)));
}

function drawGrid(model, el) {
  const view = makeView(model, el);
  view.lightbox = makeLightbox(view);
  const place = h("div", { class: "apx-scroll apx-grid-scroll", tabindex: "0", role: "region", "aria-label": "Grid of pictures" });

  function draw() {
    view.reviewListeners = [];
    const { x, y, sections } = model.get("grid");
    const corner = [y && `${y} ↓`, x && `${x} →`].filter(Boolean).join("  ");
    place.replaceChildren(...(sections ?? []).map((section) => h("section", {},
      section.label ? h("h3", { class: "apx-title" }, section.label) : null,
      h("table", { class: "apx-table apx-grid" },
        h("thead", {}, h("tr", {}, h("td", {}, corner), section.columns.map((text) => h("th", { scope: "col" }, text || "(none)")))),
        h("tbody", {}, section.rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.label || (y ? "(none)" : "")),
          row.cells.map((cell) => gridCell(view, cell)))))))));
  }

  view.onReview = (row) => view.reviewListeners.forEach((hear) => hear(row));
  view.on("change:grid", draw);
  draw();
  view.root.append(view.late, place);
  return view.attach();
}

export default {
  initialize({ model }) {
    connectionOf(model);
  },
  render({ model, el }) {
    return drawGrid(model, el);
  },
};
