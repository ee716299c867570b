// The form. What is filled in lives in the model, so that every view of the panel shows the same.

const CHECK_MS = 250;

function makeForm(view) {
  const { model, kernel } = view;
  let pending = false; // a purchase that the kernel has not answered yet: no second one meanwhile
  let bought = null; // the form that was just bought, for as long as another press may be the same one

  const form = () => model.get("form");
  const spec = () => view.facts().models.find((one) => one.id === form().model) ?? view.facts().models[0];
  const save = debounce(CHECK_MS, () => model.save_changes());

  function change(values) {
    show(problem, "");
    setText(status, "");
    model.set("form", { ...form(), ...values, rev: (form().rev ?? 0) + 1 });
    save();
  }

  // --- what can be filled in ---

  const count = h("span", { class: "apx-count" });
  const promptProblem = h("p", { class: "apx-problem", id: newId(), hidden: true });
  const prompt = h("textarea", {
    rows: "4", class: "apx-input apx-prompt-box", spellcheck: "true", "aria-describedby": promptProblem.id,
    placeholder: "a cozy cyberpunk cafe with neon lights",
    oninput: () => change({ prompt: prompt.value }),
  });
  const hint = h("span", {});
  const promptField = labelled("Prompt", prompt, h("div", { class: "apx-under" },
    hint, count), promptProblem);

  const model_ = h("select", { class: "apx-input", onchange: () => chooseModel(model_.value) });
  const modelField = labelled("Model", model_);
  const parameters = h("div", { class: "apx-row apx-parameters" });
  let groups = [];

  const repeat = h("input", {
    type: "number", class: "apx-input apx-number", min: "1", step: "1", inputmode: "numeric",
    oninput: () => change({ repeat: Number(repeat.value) }),
  });
  const repeatProblem = h("p", { class: "apx-problem", hidden: true });
  const repeatField = labelled("Draws", repeat, repeatProblem);
  repeatField.title = "There is no seed: each draw of the same request is another picture, and is paid for";

  const references = makeReferences(view, () => form().image_urls, (image_urls) => change({ image_urls }), () => spec().references_max);

  const sweep = h("textarea", {
    rows: "2", class: "apx-input", spellcheck: "false", placeholder: "style = oil, ink, \"cut, paper\"",
    oninput: () => change({ sweep: sweep.value }),
  });
  const sweepProblem = h("p", { class: "apx-problem", hidden: true });
  const several = h("div", { class: "apx-row apx-parameters" });
  const sweepBox = h("details", { class: "apx-more apx-sweep" }, h("summary", {}, "Sweep: all combinations of several values"),
    h("div", { class: "apx-sweep-body" },
      labelled("Values of {names} in the prompt, one name a line", sweep, sweepProblem), several));

  const name = h("input", { type: "text", class: "apx-input", oninput: () => change({ name: name.value }) });
  const tags = h("input", { type: "text", class: "apx-input", oninput: () => change({ tags: words(tags.value) }) });
  const note = h("input", { type: "text", class: "apx-input", oninput: () => change({ note: note.value }) });
  const labels = h("details", { class: "apx-more" }, h("summary", {}, "Name, tags and note"),
    h("div", { class: "apx-row apx-labels" }, labelled("Name of the experiment", name),
      labelled("Tags, parted by commas", tags), labelled("Note", note)));

  // --- what can be done ---

  const price = h("p", { class: "apx-price" });
  const money = h("p", { class: "apx-money" });
  const status = h("p", { class: "apx-note", role: "status" });
  const problem = h("p", { class: "apx-problem", role: "alert", hidden: true });
  const generate = h("button", { type: "button", class: "apx-button apx-primary", onclick: buy });
  const copied = h("textarea", { class: "apx-input apx-copied", rows: "4", readonly: true, hidden: true, "aria-label": "The text to copy" });
  const element = h("section", { class: "apx-form", "aria-label": "Make pictures" },
    promptField, modelField, parameters, repeatField, references.element, sweepBox, labels,
    h("div", { class: "apx-buy" }, h("div", { class: "apx-grow" }, price, money), generate),
    problem, status,
    h("div", { class: "apx-row apx-copies" },
      action("Copy as %%apixo cell", () => copy("cell")), action("Copy as Python", () => copy("python")), action("Clear", clear)),
    copied);

  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) buy();
  });

  function action(text, onclick) {
    return h("button", { type: "button", class: "apx-button", onclick }, text);
  }

  function words(text) {
    return text.split(",").map((word) => word.trim()).filter(Boolean);
  }

  function chooseModel(id) {
    const chosen = view.facts().models.find((one) => one.id === id);
    const known = Object.fromEntries(chosen.parameters.map((one) => {
      const value = form().parameters[one.wire];
      return [one.wire, one.values.includes(value) ? value : one.default];
    }));
    change({ model: id, parameters: known });
  }

  // --- showing it ---

  function drawModels() {
    const { models, most_draws } = view.facts();
    model_.replaceChildren(...models.map((one) => h("option", { value: one.id }, one.id)));
    modelField.hidden = models.length < 2;
    repeat.max = most_draws;
  }

  function drawParameters() {
    groups = spec().parameters.map((one) => ({
      wire: one.wire, default: one.default,
      ...radioGroup({
        legend: one.label, values: one.values, draw: shapeOf,
        onpick: (value) => change({ parameters: { ...form().parameters, [one.wire]: value } }),
      }),
    }));
    several.replaceChildren(...spec().parameters.map(manyOf));
    parameters.dataset.model = spec().id;
    parameters.replaceChildren(...groups.map((group) => group.element), repeatField);
  }

  /** Several values of a parameter at once: boxes to tick, which go before the choice above. */
  function manyOf(one) {
    const boxes = one.values.map((value) => h("span", { class: "apx-check" },
      h("input", { type: "checkbox", id: newId(), "data-wire": one.wire, value: String(value), onchange: () => tick(one) }), h("label", {}, String(value))));
    for (const box of boxes) box.lastChild.htmlFor = box.firstChild.id;
    return h("fieldset", { class: "apx-choices" }, h("legend", { class: "apx-label" }, `${one.label}: all of`), h("div", { class: "apx-options" }, boxes));
  }

  function tick(one) {
    const ticked = one.values.filter((value) => several.querySelector(`[data-wire="${one.wire}"][value="${CSS.escape(String(value))}"]`).checked);
    const lists = { ...form().lists };
    delete lists[one.wire];
    if (ticked.length) lists[one.wire] = ticked;
    change({ lists });
  }

  const isSweep = () => Boolean(form().sweep.trim() || Object.keys(form().lists).length);

  /** A ratio's shape, drawn to scale; nothing for other values. */
  function shapeOf(value) {
    const [width, height] = String(value).split(":").map(Number);
    if (!width || !height) return null;
    const scale = 18 / Math.max(width, height);
    const shape = h("span", { class: "apx-shape", "aria-hidden": "true" });
    shape.style.width = `${width * scale}px`;
    shape.style.height = `${height * scale}px`;
    return shape;
  }

  function fill() {
    const filled = form();
    if (parameters.dataset.model !== spec().id) drawParameters();
    const put = (control, value) => {
      if (control.value !== value && !(document.activeElement === control && control !== prompt)) control.value = value;
    };
    put(prompt, filled.prompt);
    put(model_, spec().id);
    put(repeat, String(filled.repeat));
    put(sweep, filled.sweep);
    for (const box of several.querySelectorAll("input")) box.checked = (filled.lists[box.dataset.wire] ?? []).map(String).includes(box.value);
    if (isSweep()) sweepBox.open = true;
    put(name, filled.name);
    put(note, filled.note);
    put(tags, filled.tags.join(", "));
    for (const group of groups) group.set(filled.parameters[group.wire] ?? group.default);
    references.fill();
    if (filled.name || filled.note || filled.tags.length) labels.open = true;
    setText(count, `${[...filled.prompt].length.toLocaleString("en-US")} / ${spec().prompt_max.toLocaleString("en-US")}`);
    // A name in braces is filled in a cell and in a sweep; here nobody would.
    const [named] = (!isSweep() && filled.prompt.match(/\{[\p{L}_]\w*\}/u)) || [];
    setText(hint, named ? `${named} is sent as it stands; a sweep, below, fills names.` : "Sent exactly as written. Ctrl+Enter generates.");
    count.classList.toggle("apx-over", [...filled.prompt].length > spec().prompt_max);
    showPrice();
  }

  function pictureCount() {
    const counted = spec().parameters.find((one) => one.wire === spec().count);
    return Number(form().parameters[spec().count] ?? counted?.default ?? 1);
  }

  const goodDraws = () => Number.isInteger(form().repeat) && form().repeat >= 1 && form().repeat <= view.facts().most_draws;

  /** How many pictures are asked for; null while that is no number, or the kernel still counts those of a sweep. */
  function asked() {
    if (!goodDraws()) return null;
    if (!isSweep()) return pictureCount() * form().repeat;
    const checked = model.get("checked");
    return checked.rev === form().rev && checked.pictures ? checked.pictures : null;
  }

  const total = () => (asked() ?? 0) * spec().price_micros;

  function showPrice() {
    const { sandbox } = view.facts();
    const draws = form().repeat;
    const counted = asked() !== null;
    show(repeatProblem, goodDraws() ? "" : `Draws are a whole number from 1 to ${view.facts().most_draws}.`);
    let made = draws > 1 ? `${plural(draws, "draw")} × ${plural(pictureCount(), "picture")}` : plural(pictureCount(), "picture");
    if (isSweep() || !counted) made = counted ? `${plural(model.get("checked").tasks, "task")}, ${plural(asked(), "picture")}` : isSweep() ? "A sweep" : "Pictures";
    setText(price, counted ? `${made}: ${dollars(total())}${sandbox ? " by list price, not paid" : ""}` : `${made}: not counted yet`);
    const budgets = model.get("money").budgets ?? [];
    setText(money, budgets.map((budget) => leftOf(budget)).join(" · "));
    money.hidden = budgets.length === 0;
    money.classList.toggle("apx-over", budgets.some((budget) => budget.left_micros < total()));
    setDisabled(generate, pending || !counted || rests());
    const busy = kernel.late ? "Waiting for the kernel …" : "Sending …";
    setText(generate, pending ? busy : counted ? `Generate · ${dollars(total())}` : "Generate");
  }

  function leftOf(budget) {
    const left = budget.left_micros - total();
    const after = left >= 0 ? `${dollars(left)} left after this` : `${dollars(-left)} too much`;
    return `Budget ${budget.name}, ${dollars(budget.limit_micros)}: ${after}`;
  }

  function showChecked() {
    const found = model.get("checked").problems ?? {};
    show(promptProblem, found.prompt);
    prompt.setAttribute("aria-invalid", String(Boolean(found.prompt)));
    show(repeatProblem, goodDraws() ? "" : `Draws are a whole number from 1 to ${view.facts().most_draws}.`);
    show(sweepProblem, found.sweep);
    showPrice();
    if (model.get("checked").rev === form().rev) references.showProblems(found);
  }

  function show(element, text) {
    setText(element, text ?? "");
    element.hidden = !text;
  }

  // --- doing it ---

  const rests = () => bought !== null && bought === form().rev;

  async function buy() {
    if (pending || rests()) return;
    show(problem, "");
    if (!form().prompt.trim()) {
      show(promptProblem, "Write a prompt first.");
      prompt.focus();
      return;
    }
    if (asked() === null) return;
    pending = true;
    // What is sent is what was agreed to, whatever changes meanwhile.
    const order = { form: form(), settings_id: view.facts().settings_id, token: randomToken(), price_micros: total() };
    save.flush();
    showPrice();
    if (!(await agreed())) {
      pending = false;
      showPrice();
      return;
    }
    try {
      const { run_ids } = await kernel.request("generate", order);
      setText(status, `${plural(run_ids.length, "run")} started.`);
      view.root.querySelector(".apx-runs")?.scrollIntoView({ block: "nearest" });
      bought = order.form.rev;
      setTimeout(() => {
        bought = null;
        showPrice();
      }, REST_MS);
    } catch (error) {
      show(problem, [error.text ?? String(error), error.advice].filter(Boolean).join(" "));
      if (error.field === "prompt") prompt.focus();
    }
    pending = false;
    showPrice();
  }

  /** Above the notebook's own limit, one more look at the sum. */
  function agreed() {
    if (total() <= view.facts().ask_above_micros) return Promise.resolve(true);
    const dialog = makeDialog(view.root, "Is that the sum you want?", "apx-ask");
    const spend = `Spend ${dollars(total())}?`;
    const answer = (said) => h("button", { type: "button", class: `apx-button ${said ? "apx-primary" : ""}`, onclick: () => dialog.element.close(said ? "yes" : "") },
      said ? `Generate · ${dollars(total())}` : "Not now");
    dialog.element.append(h("h3", { class: "apx-title" }, spend), h("p", {}, `${price.textContent}.`),
      h("p", { class: "apx-facts" }, `You are asked above ${dollars(view.facts().ask_above_micros)}; %config Apixo.ask_above_usd sets that sum.`),
      h("div", { class: "apx-row" }, answer(true), answer(false)));
    dialog.open();
    return new Promise((resolve) => {
      dialog.element.addEventListener("close", () => {
        resolve(dialog.element.returnValue === "yes");
        dialog.element.remove();
      });
    });
  }

  async function copy(kind) {
    save.flush();
    copied.hidden = true;
    const checked = model.get("checked");
    const texts = checked.rev === form().rev ? checked : await kernel.request("texts", { form: form() });
    const text = texts[kind];
    if (!text) {
      setText(status, "No cell says exactly this (a line break, { } or $ on its first line, or blank lines around the prompt). Copy it as Python.");
      return;
    }
    if (await copyText(text)) {
      setText(status, "Copied: paste it into a cell.");
      return;
    }
    copied.hidden = false; // the browser does not let us
    copied.value = text;
    copied.select();
    setText(status, "Press Ctrl+C to copy it.");
  }

  function clear() {
    change({ prompt: "", image_urls: [], name: "", tags: [], note: "", repeat: 1, sweep: "", lists: {} });
    prompt.focus();
  }

  view.on("change:form", fill);
  view.on("change:money", showPrice);
  view.on("change:checked", showChecked);
  view.on("change:facts", () => {
    drawModels();
    drawParameters();
    fill();
  });
  view.onLate(showPrice);
  drawModels();
  fill();
  showChecked();

  return {
    element,
    /** Put all parameters of a past run into the form. */
    put(values) {
      change({ ...values, repeat: 1, sweep: "", lists: {} });
      prompt.focus();
      prompt.setSelectionRange(prompt.value.length, prompt.value.length);
      setText(status, "The form holds that run's request.");
    },
    addReference: (url) => references.add(url),
    stop: () => save.flush(),
  };
}

/** Reference pictures: a list with previews, and a line to add one. */
function makeReferences(view, urls, change, most) {
  const list = h("ul", { class: "apx-references" });
  const problem = h("p", { class: "apx-problem", id: newId(), hidden: true });
  const line = h("input", {
    type: "url", class: "apx-input", placeholder: "https://…", "aria-describedby": problem.id,
    onkeydown: (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      addTyped();
    },
  });
  const add = h("button", { type: "button", class: "apx-button", onclick: addTyped }, "Add");
  const field = labelled("Reference pictures: public addresses (URLs)", line);
  field.append(h("div", { class: "apx-row apx-nowrap" }, line, add));
  const element = h("div", { class: "apx-reference-box" }, field, problem, list);
  let shown = "";

  function tell(text) {
    setText(problem, text);
    problem.hidden = !text;
    return text;
  }

  function addOne(url) {
    if (urls().length >= most()) return tell(`At most ${most()} reference pictures.`);
    if (urls().includes(url)) return tell("That picture is in the list already.");
    change([...urls(), url]);
    return tell("");
  }

  function addTyped() {
    const typed = line.value.split(/\s+/).filter(Boolean);
    if (typed.length && !typed.map(addOne).some(Boolean)) line.value = "";
    line.focus();
  }

  function row(url, index) {
    const why = h("span", { class: "apx-problem", hidden: true });
    const size = h("span", { class: "apx-facts" });
    const place = h("span", { class: "apx-preview apx-gone", "aria-hidden": "true" }, "?");
    const remove = h("button", {
      type: "button", class: "apx-button apx-small", "aria-label": `Remove reference ${index + 1}`,
      onclick: () => {
        change(urls().filter((_, other) => other !== index));
        line.focus();
      },
    }, "Remove");
    return h("li", { "data-url": url }, place, h("div", { class: "apx-grow" }, h("div", { class: "apx-url", title: url }, url), size, why), remove);
  }

  /** Have the browser show a picture whose address is good. */
  function preview(item, index) {
    const place = item.querySelector("span.apx-preview");
    if (!place) return;
    const size = item.querySelector(".apx-facts");
    const image = h("img", {
      alt: `Reference ${index + 1}`, class: "apx-preview", referrerpolicy: "no-referrer",
      onload: () => setText(size, `${image.naturalWidth} × ${image.naturalHeight}`),
      onerror: () => {
        image.replaceWith(place);
        setText(size, "The browser cannot show it: it is no picture, not public, or not for other pages. APIXO may fail to fetch it too.");
      },
    });
    image.src = item.dataset.url;
    place.replaceWith(image);
  }

  return {
    element,
    add: addOne,
    fill() {
      const wanted = JSON.stringify(urls());
      if (wanted === shown) return;
      shown = wanted;
      list.replaceChildren(...urls().map(row));
    },
    /** What the kernel has to say of each; only what it finds good is loaded by the browser. */
    showProblems(found) {
      [...list.children].forEach((item, index) => {
        const why = item.querySelector(".apx-problem");
        setText(why, found[`image_urls.${index}`] ?? "");
        why.hidden = !why.textContent;
        if (why.hidden && !item.dataset.tried) preview(item, index);
        item.dataset.tried = "true";
      });
    },
  };
}
