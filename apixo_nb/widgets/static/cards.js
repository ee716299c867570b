// One card a run, newest first: live while it is on its way, then its pictures or the reason why there are none.

function makeCards(view) {
  const list = h("div", { class: "apx-cards" });
  const empty = h("p", { class: "apx-empty" }, "Runs appear here, from this form and from the cells of this notebook.");
  const spoken = h("p", { class: "apx-unseen", role: "status" });
  const progress = h("p", { class: "apx-all" });
  const element = h("section", { class: "apx-runs", "aria-label": "Runs" }, progress, empty, list, spoken);
  const known = new Map(); // run id -> { element, update, kind, drawn }

  function draw() {
    const cards = view.model.get("cards");
    const wanted = new Set(cards.map((card) => card.run_id));
    for (const [run_id, one] of known) {
      if (wanted.has(run_id)) continue;
      one.element.remove();
      known.delete(run_id);
    }
    let before = null;
    for (const card of cards) {
      const one = drawOne(card);
      const place = before ? before.nextSibling : list.firstChild;
      if (place !== one.element) list.insertBefore(one.element, place);
      before = one.element;
    }
    empty.hidden = cards.length > 0;
  }

  function drawOne(card) {
    const drawn = JSON.stringify(card);
    const one = known.get(card.run_id) ?? { element: h("article", { class: "apx-card", tabindex: "-1" }) };
    if (one.drawn === drawn) return one;
    const turned = one.kind && one.kind !== card.kind;
    if (card.kind === "live" && one.kind === "live") one.update(card);
    else redraw(one, card);
    if (turned) announce(card);
    Object.assign(one, { drawn, kind: card.kind });
    known.set(card.run_id, one);
    return one;
  }

  /** Draw a card anew; a focus inside it is not lost to the page. */
  function redraw(one, card) {
    const held = one.element.contains(document.activeElement);
    one.element.dataset.kind = card.kind;
    one.element.setAttribute("aria-label", `Run ${card.run_id}: ${card.phase}`);
    const live = card.kind === "live" ? liveCard(view, card) : null;
    one.update = live?.update;
    one.tick = live?.tick;
    one.element.replaceChildren(...(live ? live.parts : endedCard(view, card)));
    if (held) one.element.focus();
  }

  function announce(card) {
    const pictures = card.pictures?.length ? `, ${plural(card.pictures.length, "picture")}` : "";
    setText(spoken, `${card.phase}${pictures}: ${card.prompt.slice(0, 60)}`);
  }

  const timer = setInterval(() => known.forEach((one) => one.tick?.()), 1000);
  const drawProgress = () => {
    showText(progress, view.model.get("progress"));
  };
  view.on("change:cards", draw);
  view.on("change:progress", drawProgress);
  draw();
  drawProgress();
  return { element, stop: () => clearInterval(timer) };
}

/** A run on its way. */
function liveCard(view, first) {
  let card = first;
  const phase = h("strong", { class: "apx-phase" });
  const facts = h("span", { class: "apx-facts" });
  const fill = h("div", { class: "apx-fill" });
  const bar = h("div", { class: "apx-progress", role: "progressbar", "aria-label": "Time passed of the time it usually takes", "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  const problem = h("p", { class: "apx-problem", role: "alert", hidden: true });
  const cancel = h("button", {
    type: "button", class: "apx-button apx-small",
    title: "Stop waiting. APIXO cannot cancel a task: it may still finish, and can be resumed.",
    onclick: () => {
      setDisabled(cancel, true);
      view.kernel.request("cancel", { run_id: card.run_id }).catch((error) => {
        showText(problem, error.text);
        setDisabled(cancel, false);
      });
    },
  }, "Cancel");
  let share = 0;

  function tick() {
    const seconds = Math.max(0, (Date.now() - card.began_ms) / 1000);
    const parts = [...card.facts.slice(0, 2), `${Math.round(seconds)} s`, card.expected, plural(card.polls, "poll"), card.downloads && `${card.downloads} pictures`, card.cost];
    setText(phase, card.phase);
    setText(facts, parts.filter(Boolean).join(" · "));
    // As the cell's bar: it slows down towards the expected time, and never runs backwards.
    const now = card.downloads ? 0.96 : 0.94 * (1 - Math.exp((-1.5 * seconds) / Math.max(card.expected_s, 0.1)));
    share = Math.max(share, now);
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
  }

  tick();
  return {
    parts: [
      h("div", { class: "apx-row apx-head" }, view.sandboxBadge(card), phase, facts, h("span", { class: "apx-grow" }), cancel),
      bar, drawPrompt(view, card), problem,
    ],
    tick,
    update(news) {
      card = news;
      if (!card.stoppable) setDisabled(cancel, true);
      tick();
    },
  };
}

/** A run that has ended: its pictures, or why there are none and what can be done. */
function endedCard(view, card) {
  const problem = h("p", { class: "apx-problem", role: "alert", hidden: true });
  let pending = false;

  /** Send a request once: a second click while the first one is under way must not buy a second time. */
  const act = (name, given, after) => async (event) => {
    if (pending) return;
    pending = true;
    const button = event.currentTarget;
    setDisabled(button, true);
    try {
      await after(await view.kernel.request(name, { run_id: card.run_id, ...given() }));
    } catch (error) {
      showText(problem, errorText(error));
    }
    setTimeout(() => {
      pending = false;
      setDisabled(button, false);
    }, REST_MS);
  };
  const button = (text, onclick) => h("button", { type: "button", class: "apx-button apx-small", onclick }, text);
  const nothing = () => {};
  const why = card.problem?.text
    ? h("div", { class: "apx-why" }, h("p", { class: "apx-reason" }, card.problem.text), h("p", { class: "apx-facts" }, card.problem.advice))
    : null;
  return [
    h("div", { class: "apx-row apx-head" }, view.sandboxBadge(card), h("strong", { class: "apx-phase" }, card.phase),
      h("span", { class: "apx-facts" }, card.took, card.took && card.cost ? " · " : "", card.cost)),
    card.pictures.length ? h("div", { class: "apx-thumbs" }, thumbnails(view, card.pictures, "card")) : null,
    drawPrompt(view, card),
    why,
    card.remark ? h("p", { class: "apx-reason" }, `⚠ ${card.remark}`) : null,
    card.notice ? h("p", { class: "apx-facts" }, card.notice) : null,
    h("p", { class: "apx-facts" }, card.facts.filter((fact) => fact !== card.took && fact !== card.cost).join(" · ")),
    h("div", { class: "apx-row" },
      card.retry_price ? button(`Try again · ${card.retry_price}`, act("retry", () => ({ token: randomToken(), settings_id: view.facts().settings_id, price_micros: card.retry_micros }), nothing)) : null,
      card.resumable ? button("Resume · free", act("resume", () => ({}), nothing)) : null,
      button("Send to form", act("form", () => ({}), (reply) => view.form.put(reply.form)))),
    problem,
  ].filter(Boolean);
}

/** The prompt of a card; a long one is opened on request. */
function drawPrompt(view, card) {
  const text = h("p", { class: "apx-prompt" }, card.prompt);
  if (!card.cut) return text;
  const more = h("button", { type: "button", class: "apx-link", onclick: async () => {
    setText(text, await view.prompts.get(card.run_id));
    more.remove();
  } }, "Show all of it");
  text.append("… ", more);
  return text;
}
