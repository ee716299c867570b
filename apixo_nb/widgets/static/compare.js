// Runs side by side: pictures at full size, parameters, and what differs between the prompts.

function makeComparison(view) {
  const dialog = makeDialog(view.root, "Compare runs", "apx-compare");
  const body = h("div", { class: "apx-compare-body" });
  dialog.element.append(
    h("div", { class: "apx-bar" }, h("h3", { class: "apx-title" }, "Side by side"), h("span", { class: "apx-grow" }),
      h("button", { type: "button", class: "apx-button", onclick: dialog.close }, "Close")),
    body,
  );

  /** One run's pictures, one at a time at full size. */
  function drawPictures(run) {
    const frame = h("div", { class: "apx-frame" });
    const place = h("span", { class: "apx-place" });
    const step = (by, label, text) => h("button", { type: "button", class: "apx-button apx-small", "aria-label": label, onclick: () => show(at + by) }, text);
    const previous = step(-1, "Previous picture of this run", "‹");
    const next = step(1, "Next picture of this run", "›");
    let at = 0;
    function show(index) {
      at = Math.min(Math.max(index, 0), run.pictures.length - 1);
      setDisabled(previous, at === 0);
      setDisabled(next, at === run.pictures.length - 1);
      setText(place, `${at + 1} of ${run.pictures.length}`);
      frame.replaceChildren(view.kernel.pictures.image(run.pictures[at], "full", { class: "apx-full" }));
    }
    if (!run.pictures.length) return h("div", { class: "apx-frame apx-gone" }, run.why || "No picture");
    show(0);
    return h("div", {}, frame, run.pictures.length > 1 ? h("div", { class: "apx-row" }, previous, place, next) : null);
  }

  const tags = { same: "span", removed: "del", added: "ins" };
  const spoken = { removed: "left out: ", added: "added: " };

  function drawDifference(pieces) {
    return h("p", { class: "apx-prompt apx-difference" }, pieces.map(([kind, text]) =>
      h(tags[kind], {}, spoken[kind] ? h("span", { class: "apx-unseen" }, spoken[kind]) : null, text)));
  }

  function draw({ runs, prompts, parameters }) {
    const head = (text) => h("th", { scope: "row" }, text);
    body.replaceChildren(h("table", { class: "apx-table apx-compare-table" },
      h("thead", {}, h("tr", {}, h("td", {}), runs.map((run, index) => h("th", { scope: "col" }, `${index + 1}. ${localTime(run.created_ms)}`)))),
      h("tbody", {},
        h("tr", {}, head("Picture"), runs.map((run) => h("td", {}, drawPictures(run)))),
        h("tr", {}, head("Prompt"), prompts.map((pieces) => h("td", {}, drawDifference(pieces)))),
        parameters.map((one) => h("tr", { class: one.differs ? "apx-differs" : "" },
          h("th", { scope: "row" }, one.label, one.differs ? h("span", { class: "apx-unseen" }, " (differs)") : null),
          one.values.map((value) => h("td", {}, value)))))));
    body.style.setProperty("--apx-columns", runs.length);
  }

  return {
    async open(run_ids) {
      draw(await view.kernel.request("compare", { run_ids }, { patient: true }));
      dialog.open();
    },
  };
}
