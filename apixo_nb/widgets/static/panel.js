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
function makeHead(desk) {
  const sandbox = h("span", { class: "apx-mark", title: "An imitation of APIXO on this machine: nothing is paid" }, "SANDBOX");
  const problem = h("p", { class: "apx-problem" });
  const unfinished = h("span", {});
  const resume = h("button", {
    type: "button", class: "apx-button apx-small",
    onclick: async () => {
      dim(resume, true);
      await desk.link.ask("resume").catch((refused) => setText(unfinished, refused.text));
      dim(resume, false);
    },
  }, "Resume · free");
  const left = h("div", { class: "apx-row apx-unfinished" }, unfinished, resume);
  function draw() {
    const facts = desk.facts();
    sandbox.hidden = !facts.sandbox;
    setText(problem, [facts.problem?.text, facts.problem?.advice].filter(Boolean).join(": "));
    problem.hidden = !problem.textContent;
    setText(unfinished, facts.unfinished);
    resume.hidden = !/not finished/.test(facts.unfinished);
    left.hidden = !facts.unfinished;
  }

  desk.on("change:facts", draw);
  draw();
  return { mark: sandbox, element: h("div", { class: "apx-above" }, problem, left, desk.late) };
}

/** Draw one view of the panel; returns what ends it. */
function drawPanel(model, el) {
  const desk = makeDesk(model, el);
  const { root } = desk;
  desk.facts = () => model.get("facts");
  // The head of the panel says it for all; a card says it where it is an exception.
  desk.mark = (card) => (card.sandbox && !desk.facts().sandbox ? h("span", { class: "apx-mark" }, "SANDBOX") : null);
  desk.sendToForm = async (run_id) => {
    const { form } = await desk.link.ask("form", { run_id });
    tabs.open(0);
    desk.form.put(form);
  };
  desk.said = (row) => desk.history.renew(row);
  desk.compare = makeCompare(desk);
  desk.form = makeForm(desk);
  desk.lightbox = makeLightbox(desk);
  const cards = makeCards(desk);
  desk.history = makeHistory(desk);
  const head = makeHead(desk);
  const make = h("div", { class: "apx-make" }, desk.form.element, cards.element);
  const past = h("div", {}, desk.history.element);
  const tabs = makeTabs([
    { text: "Make", panel: make },
    { text: "History", panel: past, show: desk.history.show, hide: desk.history.hide },
  ]);
  desk.endings.push(cards.stop, desk.history.stop, desk.form.stop);
  root.append(h("div", { class: "apx-row apx-top" }, tabs.element, h("span", { class: "apx-grow" }), head.mark), head.element, make, past);
  return desk.begin();
}

export default {
  initialize({ model }) {
    linkOf(model);
  },
  render({ model, el }) {
    return drawPanel(model, el);
  },
};
