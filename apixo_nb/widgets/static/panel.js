// The panel itself: two tabs, what the kernel has to say, and the parts above joined.

function makeTabs(tabs) {
  const buttons = tabs.map((tab, index) => {
    tab.panel.id = newId();
    tab.panel.setAttribute("role", "tabpanel");
    return h("button", {
      type: "button", role: "tab", class: "apx-tab", id: newId(), "aria-controls": tab.panel.id,
      onclick: () => open(index),
      onkeydown: (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const next = (index + step + tabs.length) % tabs.length;
        open(next);
        buttons[next].focus();
      },
    }, tab.text);
  });
  tabs.forEach((tab, index) => tab.panel.setAttribute("aria-labelledby", buttons[index].id));

  function open(index) {
    tabs.forEach((tab, other) => {
      tab.panel.hidden = other !== index;
      buttons[other].setAttribute("aria-selected", String(other === index));
      buttons[other].tabIndex = other === index ? 0 : -1;
      if (other === index) tab.show?.();
      else tab.hide?.();
    });
  }

  open(0);
  return { element: h("div", { role: "tablist", class: "apx-tabs", "aria-label": "Parts of the panel" }, buttons), open };
}

/** What stands above the tabs: the sandbox's mark, what keeps the panel from working, what is unfinished. */
function makeHead(view) {
  const sandbox = h("span", { class: "apx-mark", title: "An imitation of APIXO on this machine: nothing is paid" }, "SANDBOX");
  const problem = h("p", { class: "apx-problem" });
  const unfinished = h("span", {});
  const resume = h("button", {
    type: "button", class: "apx-button apx-small",
    onclick: async () => {
      setDisabled(resume, true);
      await view.kernel.request("resume").catch((error) => setText(unfinished, error.text));
      setDisabled(resume, false);
    },
  }, "Resume · free");
  const left = h("div", { class: "apx-row apx-unfinished" }, unfinished, resume);
  function draw() {
    const facts = view.facts();
    sandbox.hidden = !facts.sandbox;
    showText(problem, [facts.problem?.text, facts.problem?.advice].filter(Boolean).join(": "));
    setText(unfinished, facts.unfinished);
    resume.hidden = !/not finished/.test(facts.unfinished);
    left.hidden = !facts.unfinished;
  }

  view.on("change:facts", draw);
  draw();
  return { mark: sandbox, element: h("div", { class: "apx-above" }, problem, left, view.late) };
}

/** Draw one view of the panel; returns what ends it. */
function drawPanel(model, el) {
  const view = makeView(model, el);
  const { root } = view;
  view.facts = () => model.get("facts");
  // The head of the panel says it for all; a card says it where it is an exception.
  view.sandboxBadge = (card) => (card.sandbox && !view.facts().sandbox ? h("span", { class: "apx-mark" }, "SANDBOX") : null);
  view.sendToForm = async (run_id) => {
    const { form } = await view.kernel.request("form", { run_id });
    tabs.open(0);
    view.form.put(form);
  };
  view.onReview = (row) => view.history.renew(row);
  view.compare = makeComparison(view);
  view.form = makeForm(view);
  view.lightbox = makeLightbox(view);
  const cards = makeCards(view);
  view.history = makeHistory(view);
  const head = makeHead(view);
  const make = h("div", { class: "apx-make" }, view.form.element, cards.element);
  const past = h("div", {}, view.history.element);
  const tabs = makeTabs([
    { text: "Make", panel: make },
    { text: "History", panel: past, show: view.history.show, hide: view.history.hide },
  ]);
  view.cleanups.push(cards.stop, view.history.stop, view.form.stop);
  root.append(h("div", { class: "apx-row apx-top" }, tabs.element, h("span", { class: "apx-grow" }), head.mark), head.element, make, past);
  return view.attach();
}

export default {
  initialize({ model }) {
    connectionOf(model);
  },
  render({ model, el }) {
    return drawPanel(model, el);
  },
};
