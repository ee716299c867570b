// The form. What is filled in lives in the model, so that every view of the panel shows the same.

const CHECK_MS = 250;

/** What is filled in, and what follows from it; nothing here is drawn. */
class FormState {
  #model;
  #facts;
  #save;

  constructor(view) {
    this.#model = view.model;
    this.#facts = view.facts;
    this.#save = debounce(CHECK_MS, () => this.#model.save_changes());
    this.onChange = () => {}; // called before something is filled in
  }

  get values() {
    return this.#model.get("form");
  }

  get checked() {
    return this.#model.get("checked");
  }

  /** Whether what the kernel found is of the form as it is now. */
  get isChecked() {
    return this.checked.rev === this.values.rev;
  }

  get budgets() {
    return this.#model.get("money").budgets ?? [];
  }

  /** The model's parameters, limits and price. */
  get spec() {
    const { models } = this.#facts();
    return models.find((one) => one.id === this.values.model) ?? models[0];
  }

  change(values) {
    this.onChange();
    this.#model.set("form", { ...this.values, ...values, rev: (this.values.rev ?? 0) + 1 });
    this.#save();
  }

  /** Send at once what is not sent yet. */
  flush() {
    this.#save.flush();
  }

  chooseModel(id) {
    const chosen = this.#facts().models.find((one) => one.id === id);
    const parameters = Object.fromEntries(chosen.parameters.map((one) => {
      const value = this.values.parameters[one.wire];
      return [one.wire, one.values.includes(value) ? value : one.default];
    }));
    this.change({ model: id, parameters });
  }

  get isSweep() {
    return Boolean(this.values.sweep.trim() || Object.keys(this.values.lists).length);
  }

  /** How many pictures one request asks for. */
  get picturesPerRequest() {
    const { parameters, count } = this.spec;
    const counted = parameters.find((one) => one.wire === count);
    return Number(this.values.parameters[count] ?? counted?.default ?? 1);
  }

  get drawsProblem() {
    const { most_draws } = this.#facts();
    const { repeat } = this.values;
    return Number.isInteger(repeat) && repeat >= 1 && repeat <= most_draws ? "" : `Draws are a whole number from 1 to ${most_draws}.`;
  }

  /** How many pictures are asked for; null while that is no number, or the kernel still counts those of a sweep. */
  get pictureTotal() {
    if (this.drawsProblem) return null;
    if (!this.isSweep) return this.picturesPerRequest * this.values.repeat;
    return this.isChecked && this.checked.pictures ? this.checked.pictures : null;
  }

  get totalMicros() {
    return (this.pictureTotal ?? 0) * this.spec.price_micros;
  }
}

function makeForm(view) {
  const { model } = view;
  const state = new FormState(view);
  const status = h("p", { class: "apx-note", role: "status" });
  const problem = h("p", { class: "apx-problem", role: "alert", hidden: true });
  const say = (text) => setText(status, text);
  state.onChange = () => {
    showText(problem, "");
    say("");
  };

  const prompt = makePromptField(state);
  const parameters = makeParameterFields(view, state);
  const references = makeReferences(() => state.values.image_urls, (image_urls) => state.change({ image_urls }), () => state.spec.references_max);
  const sweep = makeSweepField(state);
  const labels = makeLabelFields(state);
  const purchase = makePurchase(view, state, { prompt, problem, say });
  const copies = makeCopies(view, state, say);
  const element = h("section", { class: "apx-form", "aria-label": "Make pictures" },
    prompt.element, parameters.elements, references.element, sweep.element, labels.element, purchase.element, problem, status,
    h("div", { class: "apx-row apx-copies" }, copies.buttons, formButton("Clear", clear)), copies.text);

  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) purchase.buy();
  });

  function clear() {
    state.change({ prompt: "", image_urls: [], name: "", tags: [], note: "", repeat: 1, sweep: "", lists: {} });
    prompt.control.focus();
  }

  function fill() {
    for (const part of [parameters, prompt, sweep, labels, references]) part.fill();
    purchase.draw();
  }

  function showChecked() {
    const found = state.checked.problems ?? {};
    prompt.showProblem(found.prompt);
    parameters.showProblem();
    sweep.showProblem(found.sweep);
    purchase.draw();
    if (state.isChecked) references.showProblems(found);
  }

  function redraw() {
    parameters.draw();
    sweep.draw();
    fill();
  }

  view.on("change:form", fill);
  view.on("change:money", purchase.draw);
  view.on("change:checked", showChecked);
  view.on("change:facts", redraw);
  view.onLate(purchase.draw);
  redraw();
  showChecked();

  return {
    element,
    /** Put all parameters of a past run into the form. */
    put(values) {
      state.change({ ...values, repeat: 1, sweep: "", lists: {} });
      prompt.control.focus();
      prompt.control.setSelectionRange(prompt.control.value.length, prompt.control.value.length);
      say("The form holds that run's request.");
    },
    addReference: (url) => references.add(url),
    stop: () => state.flush(),
  };
}

function formButton(text, onclick) {
  return h("button", { type: "button", class: "apx-button", onclick }, text);
}

/** Write a value into a control, unless somebody is typing there. */
function fillControl(control, value) {
  if (control.value !== value && document.activeElement !== control) control.value = value;
}

// --- what can be filled in ---

function makePromptField(state) {
  const count = h("span", { class: "apx-count" });
  const hint = h("span", {});
  const problem = h("p", { class: "apx-problem", id: newId(), hidden: true });
  const control = h("textarea", {
    rows: "4", class: "apx-input apx-prompt-box", spellcheck: "true", "aria-describedby": problem.id,
    placeholder: "a cozy cyberpunk cafe with neon lights",
    oninput: () => state.change({ prompt: control.value }),
  });
  return {
    element: labelled("Prompt", control, h("div", { class: "apx-under" }, hint, count), problem),
    control,
    fill() {
      const { prompt } = state.values;
      const most = state.spec.prompt_max;
      if (control.value !== prompt) control.value = prompt;
      setText(count, `${[...prompt].length.toLocaleString("en-US")} / ${most.toLocaleString("en-US")}`);
      count.classList.toggle("apx-over", [...prompt].length > most);
      // A name in braces is filled in a cell and in a sweep; here nobody would.
      const [named] = (!state.isSweep && prompt.match(/\{[\p{L}_]\w*\}/u)) || [];
      setText(hint, named ? `${named} is sent as it stands; a sweep, below, fills names.` : "Sent exactly as written. Ctrl+Enter generates.");
    },
    showProblem(text) {
      showText(problem, text);
      control.setAttribute("aria-invalid", String(Boolean(text)));
    },
    /** Refuse a prompt that is empty. */
    demand() {
      showText(problem, "Write a prompt first.");
      control.focus();
    },
  };
}

/** The model, its parameters, and how many draws. */
function makeParameterFields(view, state) {
  const models = h("select", { class: "apx-input", onchange: () => state.chooseModel(models.value) });
  const modelField = labelled("Model", models);
  const row = h("div", { class: "apx-row apx-parameters" });
  const repeat = h("input", {
    type: "number", class: "apx-input apx-number", min: "1", step: "1", inputmode: "numeric",
    oninput: () => state.change({ repeat: Number(repeat.value) }),
  });
  const problem = h("p", { class: "apx-problem", hidden: true });
  const repeatField = labelled("Draws", repeat, problem);
  repeatField.title = "There is no seed: each draw of the same request is another picture, and is paid for";
  let groups = [];

  function drawGroups() {
    groups = state.spec.parameters.map((one) => ({
      wire: one.wire, default: one.default,
      ...radioGroup({
        legend: one.label, values: one.values, draw: shapeOf,
        onpick: (value) => state.change({ parameters: { ...state.values.parameters, [one.wire]: value } }),
      }),
    }));
    row.dataset.model = state.spec.id;
    row.replaceChildren(...groups.map((group) => group.element), repeatField);
  }

  return {
    elements: [modelField, row],
    draw() {
      const facts = view.facts();
      models.replaceChildren(...facts.models.map((one) => h("option", { value: one.id }, one.id)));
      modelField.hidden = facts.models.length < 2;
      repeat.max = facts.most_draws;
      drawGroups();
    },
    fill() {
      if (row.dataset.model !== state.spec.id) drawGroups();
      fillControl(models, state.spec.id);
      fillControl(repeat, String(state.values.repeat));
      for (const group of groups) group.set(state.values.parameters[group.wire] ?? group.default);
      showText(problem, state.drawsProblem);
    },
    showProblem: () => showText(problem, state.drawsProblem),
  };
}

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

/** All combinations of several values: of names in the prompt, and of parameters, which go before the choice above. */
function makeSweepField(state) {
  const control = h("textarea", {
    rows: "2", class: "apx-input", spellcheck: "false", placeholder: "style = oil, ink, \"cut, paper\"",
    oninput: () => state.change({ sweep: control.value }),
  });
  const problem = h("p", { class: "apx-problem", hidden: true });
  const several = h("div", { class: "apx-row apx-parameters" });
  const element = h("details", { class: "apx-more apx-sweep" }, h("summary", {}, "Sweep: all combinations of several values"),
    h("div", { class: "apx-sweep-body" },
      labelled("Values of {names} in the prompt, one name a line", control, problem), several));

  function draw() {
    several.dataset.model = state.spec.id;
    several.replaceChildren(...state.spec.parameters.map((one) => makeCheckboxes(one, (ticked) => tick(one.wire, ticked))));
  }

  function tick(wire, ticked) {
    const lists = { ...state.values.lists };
    delete lists[wire];
    if (ticked.length) lists[wire] = ticked;
    state.change({ lists });
  }

  return {
    element, draw,
    fill() {
      const { sweep, lists } = state.values;
      if (several.dataset.model !== state.spec.id) draw();
      fillControl(control, sweep);
      for (const box of several.querySelectorAll("input")) box.checked = (lists[box.dataset.wire] ?? []).map(String).includes(box.value);
      if (state.isSweep) element.open = true;
    },
    showProblem: (text) => showText(problem, text),
  };
}

/** Boxes to tick for the values of one parameter. */
function makeCheckboxes(parameter, onchange) {
  const inputs = parameter.values.map((value) => h("input", {
    type: "checkbox", id: newId(), "data-wire": parameter.wire, value: String(value),
    onchange: () => onchange(parameter.values.filter((_, index) => inputs[index].checked)),
  }));
  const boxes = inputs.map((input) => h("span", { class: "apx-check" }, input, h("label", { for: input.id }, input.value)));
  return h("fieldset", { class: "apx-choices" }, h("legend", { class: "apx-label" }, `${parameter.label}: all of`), h("div", { class: "apx-options" }, boxes));
}

function makeLabelFields(state) {
  const line = (change) => h("input", { type: "text", class: "apx-input", oninput: (event) => state.change(change(event.target.value)) });
  const name = line((text) => ({ name: text }));
  const tags = line((text) => ({ tags: splitWords(text) }));
  const note = line((text) => ({ note: text }));
  const element = h("details", { class: "apx-more" }, h("summary", {}, "Name, tags and note"),
    h("div", { class: "apx-row apx-labels" }, labelled("Name of the experiment", name),
      labelled("Tags, parted by commas", tags), labelled("Note", note)));
  return {
    element,
    fill() {
      const { values } = state;
      fillControl(name, values.name);
      fillControl(note, values.note);
      fillControl(tags, values.tags.join(", "));
      if (values.name || values.note || values.tags.length) element.open = true;
    },
  };
}

// --- what can be copied ---

/** The form as a cell or as Python, on the clipboard or to be copied by hand. */
function makeCopies(view, state, say) {
  const text = h("textarea", { class: "apx-input apx-copied", rows: "4", readonly: true, hidden: true, "aria-label": "The text to copy" });

  async function copy(kind) {
    state.flush();
    text.hidden = true;
    const texts = state.isChecked ? state.checked : await view.kernel.request("texts", { form: state.values });
    if (!texts[kind]) {
      say("No cell says exactly this (a line break, { } or $ on its first line, or blank lines around the prompt). Copy it as Python.");
      return;
    }
    if (await copyText(texts[kind])) {
      say("Copied: paste it into a cell.");
      return;
    }
    text.hidden = false; // the browser does not let us
    text.value = texts[kind];
    text.select();
    say("Press Ctrl+C to copy it.");
  }

  return { buttons: [formButton("Copy as %%apixo cell", () => copy("cell")), formButton("Copy as Python", () => copy("python"))], text };
}
