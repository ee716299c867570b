// Blind votes: two pictures, no names, one key. What they were is shown when the votes are counted.

function drawVote(model, el) {
  const view = makeView(model, el);
  const sides = ["left", "right"].map((side) => ({ side, frame: h("div", { class: "apx-side-frame" }) }));
  const question = h("p", { class: "apx-question", role: "status" });
  const problem = h("p", { class: "apx-problem", role: "alert", hidden: true });
  const counted = h("div", { class: "apx-counted" });
  const key = (text, keys, outcome) => h("button", { type: "button", class: "apx-button", "aria-keyshortcuts": keys, onclick: () => vote(outcome) }, text);
  const left = key("← Left", "ArrowLeft", "left");
  const tie = key("↓ Neither", "ArrowDown", "tie");
  const right = key("Right →", "ArrowRight", "right");
  const undo = h("button", { type: "button", class: "apx-button", "aria-keyshortcuts": "u", onclick: () => act("undo", {}) }, "Undo (u)");
  const count = h("button", { type: "button", class: "apx-button", onclick: () => act("count", {}) }, "Show results");
  const ballot = h("div", { class: "apx-ballot", tabindex: "0", role: "group", "aria-label": "Which is better? Arrow left, arrow right, arrow down for neither, u to undo" },
    h("div", { class: "apx-pair" }, sides.map(({ frame }) => frame)),
    h("div", { class: "apx-row apx-vote-keys" }, left, tie, right, h("span", { class: "apx-grow" }), undo, count));
  let before = Promise.resolve(); // what was asked before; keys are carried out in their order

  const pair = () => model.get("pair");

  function act(name, given) {
    before = before.then(async () => {
      problem.hidden = true;
      try {
        await view.kernel.request(name, given);
      } catch (error) {
        showText(problem, errorText(error));
      }
    });
  }

  function vote(outcome) {
    if (pair().pictures) act("vote", { outcome, turn: pair().turn });
  }

  ballot.addEventListener("keydown", (event) => {
    const outcome = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
    if ((!outcome && event.key !== "u") || event.repeat) return;
    event.preventDefault();
    if (outcome) vote(outcome);
    else act("undo", {});
  });

  function draw() {
    const { pictures, done, left: open, prompt } = pair();
    const all = done + open;
    setText(question, pictures ? `Which is better? Pair ${done + 1} of ${all}${prompt ? `: ${prompt}` : ""}` : `All ${all} pairs are voted on.`);
    sides.forEach(({ side, frame }, index) => {
      frame.replaceChildren(...(pictures ? [h("button", { type: "button", class: "apx-thumb", onclick: () => vote(side), tabindex: "-1" },
        view.kernel.pictures.image({ ...pictures[index], alt: `The ${side} picture` }, "full", { class: "apx-full" }))] : []));
    });
    for (const button of [left, tie, right]) setDisabled(button, !pictures);
    setDisabled(undo, done === 0);
    setDisabled(count, done === 0);
  }

  function drawResults() {
    const { by, rows } = model.get("results");
    if (!rows) return;
    const percent = (value) => (value === null ? "" : `${Math.round(100 * value)} %`);
    counted.replaceChildren(h("table", { class: "apx-table" },
      h("thead", {}, h("tr", {}, [by, "Win rate", "95 % between", "Wins", "Losses", "Ties"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.value || "(none)"), h("td", {}, percent(row.win_rate)),
        h("td", {}, row.low === null ? "" : `${percent(row.low)} and ${percent(row.high)}`),
        [row.wins, row.losses, row.ties].map((number) => h("td", {}, String(number))))))));
  }

  view.on("change:pair", draw);
  view.on("change:results", drawResults);
  draw();
  drawResults();
  view.root.append(view.late, question, ballot, problem, counted);
  return view.attach();
}

export default {
  initialize({ model }) {
    connectionOf(model);
  },
  render({ model, el }) {
    return drawVote(model, el);
  },
};
