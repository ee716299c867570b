// What every widget of ours has: the link to the kernel, listeners that end with the view, and good manners.

/** Prompts that are too long for a card, asked for once. */
function makePrompts(link) {
  const known = new Map();
  return {
    get(run_id) {
      if (!known.has(run_id)) {
        const asked = link.ask("whole", { run_id }).then(({ prompt }) => prompt);
        asked.catch(() => known.delete(run_id));
        known.set(run_id, asked);
      }
      return known.get(run_id);
    },
  };
}

/** The desk of one view: its parts find each other and the kernel through it. */
function makeDesk(model, el) {
  const link = linkOf(model);
  const root = h("div", { class: "apx-panel" });
  const endings = [];
  const late = h("p", { class: "apx-late", role: "status" });
  const desk = {
    model, link, root, endings, late,
    prompts: makePrompts(link),
    said: () => {},
    on(event, action) {
      model.on(event, action);
      endings.push(() => model.off(event, action));
    },
    onLate(action) {
      link.addEventListener("late", action);
      endings.push(() => link.removeEventListener("late", action));
    },
    /** Show the view, and say to the kernel that it is there; returns what ends it. */
    begin() {
      el.append(root);
      link.ask("hello").catch(() => {});
      return () => endings.forEach((end) => end());
    },
  };
  desk.onLate(() => setText(late, link.late
    ? "The kernel has not answered yet: it is busy with a cell, or was restarted. A click is kept, and carried out once; after a restart, run this cell again." : ""));
  guardDimmed(root);
  // The notebook's own keys (d d, Shift+Enter, arrows) are not for what is typed here; saving is.
  root.addEventListener("keydown", (event) => {
    const saves = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s";
    if (!saves) event.stopPropagation();
  });
  // The lasting outputs of a widget are for when it is gone; while it is here it shows the same itself.
  const hide = h("style");
  const hideLasting = () => setText(hide, model.get("facts").id ? `.apixo-nb-lasting-${model.get("facts").id} { display: none }` : "");
  desk.on("change:facts", hideLasting);
  hideLasting();
  root.append(hide);
  return desk;
}
