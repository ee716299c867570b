// The history: all runs of the ledger, to be searched, sorted, filtered, compared and exported.

const COLUMNS = [
  { key: "prompt", text: "Prompt", cell: (row) => promptCell(row) },
  { key: "state", text: "State", cell: (row) => row.state },
  { key: "created_at", text: "Made", cell: (row) => localTime(row.created_ms) },
  { key: "aspect_ratio", text: "Ratio", cell: (row) => row.aspect_ratio },
  { key: "costTime", text: "Time", cell: (row) => row.took },
  { key: "cost_usd", text: "Cost", cell: (row) => row.cost },
  { key: "rating", text: "Rating", cell: (row) => (row.rating ? `${row.rating}/5` : "") },
];
const KINDS = [
  ["csv", "CSV, exact"], ["excel", "CSV for Excel"], ["jsonl", "JSON Lines"], ["parquet", "Parquet"], ["html", "HTML report"],
];

function promptCell(row) {
  const labels = [row.name, ...row.tags.map((tag) => `#${tag}`)].filter(Boolean).join(" ");
  return [h("div", { class: "apx-clamp", title: row.prompt }, row.prompt),
    row.why ? h("div", { class: "apx-facts" }, row.why) : null, labels ? h("div", { class: "apx-facts" }, labels) : null];
}

/** What the table is filtered by; `onchange` is called when one of them has changed. */
function makeFilters(onchange) {
  const later = debounce(250, onchange);
  const menu = (...options) => h("select", { class: "apx-input", onchange }, options);
  const date = () => h("input", { type: "date", class: "apx-input", onchange });
  const money = () => h("input", { type: "number", class: "apx-input apx-number", min: "0", step: "0.01", onchange });
  const search = h("input", { type: "search", class: "apx-input", placeholder: "words of the prompt, a tag, an id …", oninput: later });
  const [state, tag] = [menu(), menu()];
  const rating = menu(h("option", { value: "" }, "any"), [1, 2, 3, 4, 5].map((value) => h("option", { value: String(value) }, `${value} or more`)));
  const starred = h("input", { type: "checkbox", id: newId(), onchange });
  const [since, until] = [date(), date()];
  const [costMin, costMax] = [money(), money()];
  const numberOf = (control) => (control.value === "" ? null : Number(control.value));

  function fillMenu(select, words) {
    const chosen = select.value;
    select.replaceChildren(h("option", { value: "" }, "any"), ...words.map((word) => h("option", { value: word }, word)));
    select.value = words.includes(chosen) ? chosen : "";
  }

  return {
    element: h("div", { class: "apx-filters", role: "search", "aria-label": "Search the history" },
      labelled("Search", search), labelled("State", state), labelled("Tag", tag), labelled("Rating", rating),
      labelled("From", since), labelled("To", until), labelled("Cost from, $", costMin), labelled("Cost to, $", costMax),
      h("div", { class: "apx-field apx-check" }, starred, h("label", { for: starred.id }, "Starred only"))),
    read: () => ({
      text: search.value, states: state.value ? [state.value] : [], tags: tag.value ? [tag.value] : [],
      rating_min: numberOf(rating), starred: starred.checked, since: since.value, until: until.value,
      cost_min_usd: numberOf(costMin), cost_max_usd: numberOf(costMax),
    }),
    fillMenus({ states, tags }) {
      fillMenu(state, states);
      fillMenu(tag, tags);
    },
    stop: () => later.cancel(),
  };
}

/** Writes the selected runs, or all that are found, to a file; `chosen()` gives both. */
function makeExport(view, guarded, chosen) {
  const kind = h("select", { class: "apx-input", "aria-label": "Kind of file" }, KINDS.map(([value, text]) => h("option", { value }, text)));
  const save = h("button", { type: "button", class: "apx-button", onclick: exportRuns }, "Export");
  const result = h("p", { class: "apx-note", role: "status" });

  async function exportRuns() {
    setDisabled(save, true);
    setText(result, "Writing …");
    const reply = await guarded(() => view.kernel.request("export", { kind: kind.value, ...chosen() }, { patient: true }));
    setDisabled(save, false);
    setText(result, "");
    if (reply) {
      result.append(`Written: ${reply.file} `, h("button", { type: "button", class: "apx-link", onclick: () => guarded(() => fetchFile(reply.file)) }, "Download"));
      result.title = reply.place;
    }
  }

  async function fetchFile(file) {
    const { buffers } = await view.kernel.request("fetch", { file }, { patient: true });
    const url = URL.createObjectURL(new Blob(buffers));
    saveFile(url, file);
    setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may take a moment to begin
  }

  return {
    element: h("div", { class: "apx-row apx-nowrap" }, kind, save),
    result,
    draw(selected, total) {
      setDisabled(save, total === 0 && selected === 0);
      setText(save, selected ? `Export ${selected} selected` : `Export all ${total.toLocaleString("en-US")}`);
    },
  };
}

function makeHistory(view) {
  const query = { sort: "created_at", descending: true, offset: 0 }; // and what the filters say
  const selected = new Set();
  let rows = [];
  let total = 0;
  let page = 25;
  let shown = false; // the tab is open
  let latest = 0; // the number of the latest search

  const filters = makeFilters(refind);

  // --- table ---

  const all = h("input", { type: "checkbox", "aria-label": "Select all rows of this page", onchange: () => selectPage(all.checked) });
  const heads = COLUMNS.map((column) => {
    const button = h("button", { type: "button", class: "apx-sort", onclick: () => sortBy(column.key) }, column.text, h("span", { class: "apx-arrow", "aria-hidden": "true" }));
    return { column, button, cell: h("th", { scope: "col", class: `apx-col-${column.key}` }, button) };
  });
  const body = h("tbody");
  const table = h("table", { class: "apx-table apx-history-table" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, all), h("th", { scope: "col" }, "Picture"), heads.map((head) => head.cell), h("th", { scope: "col" }, h("span", { class: "apx-unseen" }, "What to do")))),
    body);
  const scroller = h("div", { class: "apx-scroll", tabindex: "0", role: "region", "aria-label": "Runs of the ledger" }, table);

  // --- below it ---

  const status = h("p", { class: "apx-note", role: "status" });
  const problem = h("p", { class: "apx-problem", role: "alert", hidden: true });
  const button = (text, onclick) => h("button", { type: "button", class: "apx-button", onclick }, text);
  const back = button("‹ Newer", () => turn(-1));
  const on = button("Older ›", () => turn(1));
  const compare = button("Compare", () => guarded(() => view.compare.open([...selected])));
  const none = button("Select none", () => selectNone());
  const exports = makeExport(view, guarded, () => ({ run_ids: [...selected], query }));
  const element = h("section", { class: "apx-history", "aria-label": "History" },
    filters.element,
    h("div", { class: "apx-row apx-actions" }, status, h("span", { class: "apx-grow" }), compare, none, exports.element),
    problem, exports.result, scroller,
    h("div", { class: "apx-row apx-pager" }, back, on));

  function refind() {
    query.offset = 0;
    return find();
  }

  async function guarded(action) {
    problem.hidden = true;
    try {
      return await action();
    } catch (error) {
      showText(problem, errorText(error));
      return null;
    }
  }

  async function find() {
    Object.assign(query, filters.read());
    const number = (latest += 1);
    const reply = await guarded(() => view.kernel.request("find", { query }));
    if (!reply || number !== latest) return; // a later question has been asked since
    ({ rows, total, page } = reply);
    draw();
  }

  function sortBy(key) {
    // Words are read from A, everything else from the largest and latest.
    const fromTop = !["prompt", "state", "aspect_ratio"].includes(key);
    query.descending = query.sort === key ? !query.descending : fromTop;
    query.sort = key;
    refind();
  }

  function turn(by) {
    query.offset = Math.max(0, query.offset + by * page);
    find();
  }

  function draw() {
    for (const { column, button: head, cell } of heads) {
      const sorted = query.sort === column.key;
      cell.setAttribute("aria-sort", sorted ? (query.descending ? "descending" : "ascending") : "none");
      setText(head.lastChild, sorted ? (query.descending ? " ↓" : " ↑") : "");
    }
    body.replaceChildren(...rows.map(drawRow));
    if (!rows.length) body.append(h("tr", {}, h("td", { colspan: String(COLUMNS.length + 3), class: "apx-empty" }, "No run is like that.")));
    setDisabled(back, query.offset === 0);
    setDisabled(on, query.offset + rows.length >= total);
    back.parentElement.hidden = isDisabled(back) && isDisabled(on);
    drawSelection();
  }

  function drawRow(row) {
    const pick = h("input", {
      type: "checkbox", "aria-label": `Select run ${row.run_id}`,
      onchange: () => {
        if (pick.checked) selected.add(row.run_id);
        else selected.delete(row.run_id);
        drawSelection();
      },
    });
    pick.checked = selected.has(row.run_id);
    const send = h("button", { type: "button", class: "apx-button apx-small", "aria-label": `Send run ${row.run_id} to the form`, onclick: () => guarded(() => view.sendToForm(row.run_id)) }, "To form");
    return h("tr", { "data-run": row.run_id },
      h("td", {}, pick), h("td", {}, h("div", { class: "apx-thumbs" }, thumbnails(view, row.pictures, "row"))),
      COLUMNS.map((column) => h("td", { class: `apx-col-${column.key}` }, column.cell(row))),
      h("td", {}, send));
  }

  function drawSelection() {
    const first = total ? query.offset + 1 : 0;
    const place = total > rows.length ? `, ${first} to ${query.offset + rows.length} shown` : "";
    setText(status, `${plural(total, "run")}${place}${selected.size ? `; ${selected.size} selected` : ""}`);
    setDisabled(compare, selected.size < 2 || selected.size > view.facts().most_compared);
    compare.title = isDisabled(compare) ? `Select 2 to ${view.facts().most_compared} runs to compare them` : "";
    none.hidden = selected.size === 0;
    exports.draw(selected.size, total);
    all.checked = rows.length > 0 && rows.every((row) => selected.has(row.run_id));
  }

  function selectPage(chosen) {
    for (const row of rows) {
      if (chosen) selected.add(row.run_id);
      else selected.delete(row.run_id);
    }
    draw();
  }

  function selectNone() {
    selected.clear();
    draw();
  }

  async function refresh() {
    if (!shown) return;
    await guarded(async () => filters.fillMenus(await view.kernel.request("facets")));
    await find();
  }

  // A run that begins or ends is news for the table.
  const soon = debounce(500, refresh);
  let states = "";
  view.on("change:cards", () => {
    const now = view.model.get("cards").map((card) => card.run_id + card.state).join();
    if (now !== states) soon();
    states = now;
  });

  return {
    element,
    show() {
      shown = true;
      refresh();
    },
    hide() {
      shown = false;
    },
    /** Something was said of a picture: its row is drawn anew, in its place. */
    renew(row) {
      const index = rows.findIndex((known) => known.run_id === row.run_id);
      if (index < 0) return;
      rows[index] = row;
      body.children[index].replaceWith(drawRow(row));
    },
    stop: () => {
      filters.stop();
      soon.cancel();
    },
  };
}
