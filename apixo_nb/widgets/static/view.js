// What every widget of ours has: the connection to the kernel, listeners that end with the view, and good manners.

/** Prompts that are too long for a card, asked for once. */
function makePrompts(kernel) {
  const known = new Map();
  return {
    get(run_id) {
      if (!known.has(run_id)) {
        const request = kernel.request("prompt", { run_id }).then(({ prompt }) => prompt);
        request.catch(() => known.delete(run_id));
        known.set(run_id, request);
      }
      return known.get(run_id);
    },
  };
}

/** One view of a widget: its parts find each other and the kernel through it. */
function makeView(model, el) {
  const kernel = connectionOf(model);
  const root = h("div", { class: "apx-panel" });
  const cleanups = [];
  const late = h("p", { class: "apx-late", role: "status" });
  const view = {
    model, kernel, root, cleanups, late,
    prompts: makePrompts(kernel),
    onReview: () => {},
    on(event, action) {
      model.on(event, action);
      cleanups.push(() => model.off(event, action));
    },
    onLate(action) {
      kernel.addEventListener("late", action);
      cleanups.push(() => kernel.removeEventListener("late", action));
    },
    /** Show the view, and say to the kernel that it is there; returns what ends it. */
    attach() {
      el.append(root);
      kernel.request("hello").catch(() => {});
      return () => cleanups.forEach((cleanup) => cleanup());
    },
  };
  view.onLate(() => setText(late, kernel.late
    ? "The kernel has not answered yet: it is busy with a cell, or was restarted. A click is kept, and carried out once; after a restart, run this cell again." : ""));
  ignoreDisabledClicks(root);
  // The notebook's own keys (d d, Shift+Enter, arrows) are not for what is typed here; saving is.
  root.addEventListener("keydown", (event) => {
    const saves = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s";
    if (!saves) event.stopPropagation();
  });
  // The lasting outputs of a widget are for when it is gone; while it is here it shows the same itself.
  const hide = h("style");
  const hideLasting = () => setText(hide, model.get("facts").id ? `.apixo-nb-lasting-${model.get("facts").id} { display: none }` : "");
  view.on("change:facts", hideLasting);
  hideLasting();
  root.append(hide);
  return view;
}
