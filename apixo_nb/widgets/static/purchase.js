// What the form would cost, and the button that buys it: once, for the sum that is shown.

/** The price, the budgets, and the button that buys. */
function makePurchase(view, state, { prompt, problem, say }) {
  const { kernel } = view;
  const price = h("p", { class: "apx-price" });
  const money = h("p", { class: "apx-money" });
  const generate = h("button", { type: "button", class: "apx-button apx-primary", onclick: buy });
  let pending = false; // a purchase that the kernel has not answered yet: no second one meanwhile
  let bought = null; // the form that was just bought, for as long as another press may be the same one
  const rests = () => bought !== null && bought === state.values.rev;

  function draw() {
    const counted = state.pictureTotal !== null;
    const total = dollars(state.totalMicros);
    setText(price, counted ? `${orderText(state)}: ${total}${view.facts().sandbox ? " by list price, not paid" : ""}` : `${orderText(state)}: not counted yet`);
    setText(money, state.budgets.map((budget) => budgetText(budget, state.totalMicros)).join(" · "));
    money.hidden = state.budgets.length === 0;
    money.classList.toggle("apx-over", state.budgets.some((budget) => budget.left_micros < state.totalMicros));
    setDisabled(generate, pending || !counted || rests());
    const busy = kernel.late ? "Waiting for the kernel …" : "Sending …";
    setText(generate, pending ? busy : counted ? `Generate · ${total}` : "Generate");
  }

  function setPending(value) {
    pending = value;
    draw();
  }

  async function buy() {
    if (pending || rests()) return;
    showText(problem, "");
    if (!state.values.prompt.trim()) {
      prompt.demand();
      return;
    }
    if (state.pictureTotal === null) return;
    // What is sent is what was agreed to, whatever changes meanwhile.
    const order = { form: state.values, settings_id: view.facts().settings_id, token: randomToken(), price_micros: state.totalMicros };
    state.flush();
    setPending(true);
    if (await confirmed(view, order.price_micros, price.textContent)) await send(order);
    setPending(false);
  }

  async function send(order) {
    try {
      const { run_ids } = await kernel.request("generate", order);
      say(`${plural(run_ids.length, "run")} started.`);
      view.root.querySelector(".apx-runs")?.scrollIntoView({ block: "nearest" });
      bought = order.form.rev;
      setTimeout(() => {
        bought = null;
        draw();
      }, REST_MS);
    } catch (error) {
      showText(problem, errorText(error));
      if (error.field === "prompt") prompt.control.focus();
    }
  }

  return { element: h("div", { class: "apx-buy" }, h("div", { class: "apx-grow" }, price, money), generate), draw, buy };
}

/** What is asked for: "3 draws × 4 pictures". */
function orderText(state) {
  const counted = state.pictureTotal !== null;
  if (state.isSweep) return counted ? `${plural(state.checked.tasks, "task")}, ${plural(state.pictureTotal, "picture")}` : "A sweep";
  if (!counted) return "Pictures";
  const pictures = plural(state.picturesPerRequest, "picture");
  return state.values.repeat > 1 ? `${plural(state.values.repeat, "draw")} × ${pictures}` : pictures;
}

function budgetText(budget, total) {
  const left = budget.left_micros - total;
  const after = left >= 0 ? `${dollars(left)} left after this` : `${dollars(-left)} too much`;
  return `Budget ${budget.name}, ${dollars(budget.limit_micros)}: ${after}`;
}

/** Above the notebook's own limit, one more look at the sum. */
function confirmed(view, total, priceText) {
  const limit = view.facts().ask_above_micros;
  if (total <= limit) return Promise.resolve(true);
  const dialog = makeDialog(view.root, "Is that the sum you want?", "apx-ask");
  const choice = (value, look, text) => h("button", { type: "button", class: `apx-button ${look}`, onclick: () => dialog.element.close(value) }, text);
  dialog.element.append(h("h3", { class: "apx-title" }, `Spend ${dollars(total)}?`), h("p", {}, `${priceText}.`),
    h("p", { class: "apx-facts" }, `You are asked above ${dollars(limit)}; %config Apixo.ask_above_usd sets that sum.`),
    h("div", { class: "apx-row" }, choice("yes", "apx-primary", `Generate · ${dollars(total)}`), choice("", "", "Not now")));
  dialog.open();
  return new Promise((resolve) => {
    dialog.element.addEventListener("close", () => {
      resolve(dialog.element.returnValue === "yes");
      dialog.element.remove();
    });
  });
}
