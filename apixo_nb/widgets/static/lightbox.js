// One picture at full size, with its neighbours, and everything that can be said of it or done with it.

function makeLightbox(view) {
  const dialog = makeDialog(view.root, "Picture", "apx-lightbox");
  let pictures = [];
  let at = 0;
  let whole = false; // at its own size, not fitted

  const image = h("img", { class: "apx-full", alt: "" });
  const stage = h("div", { class: "apx-stage", tabindex: "0", role: "group", "aria-label": "The picture" }, image);
  const place = h("span", { class: "apx-place" });
  const facts = h("p", { class: "apx-facts" });
  const prompt = h("p", { class: "apx-prompt" });
  const status = h("p", { class: "apx-note", role: "status" });
  const rating = radioGroup({
    legend: "Rating", values: [1, 2, 3, 4, 5], text: (value) => `${value} of 5`,
    onpick: (value) => say({ rating: value }, `Rated ${value} of 5.`),
  });
  rating.element.classList.add("apx-rating");
  const stars = [...rating.element.querySelectorAll("label")];
  for (const star_ of stars) star_.append(h("span", { class: "apx-star", "aria-hidden": "true" }));
  const unrate = button("No rating", () => say({ rating: null }, "Rating removed."));
  rating.element.lastChild.append(unrate);
  const star = button("Star", () => say({ starred: !now().starred }, now().starred ? "Star removed." : "Starred."));
  const note = h("textarea", { rows: "2", class: "apx-input", onchange: () => say({ note: note.value }, "Note saved.") });
  const tags = h("input", { type: "text", class: "apx-input", onchange: () => say({ tags: splitWords(tags.value) }, "Tags saved.") });
  const previous = button("‹", () => show(at - 1), "Previous picture");
  const next = button("›", () => show(at + 1), "Next picture");
  const size = button("Actual size", () => fit(!whole));
  const download = button("Download", saveOriginal);
  const reference = button("Use as reference", useAsReference);
  const form = button("Send to form", () => view.sendToForm(now().run_id).then(() => dialog.close(), failed));

  dialog.element.append(
    h("div", { class: "apx-bar" }, previous, place, next, h("span", { class: "apx-grow" }), star, size, button("Close", dialog.close)),
    h("div", { class: "apx-lightbox-body" }, stage,
      h("div", { class: "apx-side" },
        prompt, facts,
        rating.element,
        labelled("Note on this picture", note),
        labelled("Tags of this picture, parted by commas", tags),
        h("div", { class: "apx-row" }, download, view.form ? [reference, form] : null),
        status)),
  );
  dialog.element.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (typing || !step || whole) return;
    event.preventDefault();
    show(at + step);
  });

  function button(text, onclick, label) {
    return h("button", { type: "button", class: "apx-button", onclick, "aria-label": label, title: label }, text);
  }

  function now() {
    return pictures[at];
  }

  function fit(actual) {
    whole = actual;
    stage.classList.toggle("apx-actual", whole);
    setText(size, whole ? "Fit" : "Actual size");
  }

  function show(index) {
    if (index < 0 || index >= pictures.length) return;
    at = index;
    fit(false);
    setText(status, "");
    fill();
    const shown = now();
    view.prompts.get(shown.run_id).then((text) => shown === now() && setText(prompt, text));
    image.removeAttribute("src");
    image.width = shown.width;
    image.height = shown.height;
    for (const quality of ["card", "full"]) {
      view.kernel.pictures.get(shown, quality).then(({ url, gone }) => {
        if (shown !== now()) return;
        if (gone) setText(status, gone);
        else if (quality === "full" || !image.hasAttribute("src")) image.src = url;
      });
    }
  }

  function fill() {
    const shown = now();
    image.alt = shown.alt;
    setText(place, `${at + 1} of ${pictures.length}`);
    setDisabled(previous, at === 0);
    setDisabled(next, at === pictures.length - 1);
    setText(facts, [shown.size, shown.file].filter(Boolean).join(" · "));
    rating.set(shown.rating);
    stars.forEach((star_, index) => setText(star_.lastChild, index < (shown.rating ?? 0) ? "★" : "☆"));
    setDisabled(unrate, shown.rating === null);
    star.setAttribute("aria-pressed", String(shown.starred));
    setText(star, shown.starred ? "★ Starred" : "☆ Star");
    if (document.activeElement !== note) note.value = shown.note;
    if (document.activeElement !== tags) tags.value = shown.tags.join(", ");
    setDisabled(download, !shown.file);
    setDisabled(reference, !shown.alive);
    reference.title = shown.alive ? "" : "The address of this picture at APIXO has expired";
  }

  async function say(what, done) {
    const { run_id, index } = now();
    try {
      const { row } = await view.kernel.request("review", { run_id, index, ...what });
      pictures = pictures.map((known) => row.pictures.find((one) => one.run_id === known.run_id && one.index === known.index) ?? known);
      fill();
      setText(status, done);
      view.onReview(row);
    } catch (problem) {
      failed(problem);
    }
  }

  function failed(problem) {
    setText(status, errorText(problem));
  }

  async function saveOriginal() {
    const { url, file, gone } = await view.kernel.pictures.get(now(), "full");
    if (gone) setText(status, gone);
    else saveFile(url, file);
  }

  async function useAsReference() {
    try {
      const { url } = await view.kernel.request("reference", { run_id: now().run_id, index: now().index });
      setText(status, view.form.addReference(url) || "Added to the references of the form. Its address lives some 15 days.");
    } catch (problem) {
      failed(problem);
    }
  }

  return {
    open(list, index) {
      pictures = [...list];
      dialog.open();
      show(index);
      stage.focus();
    },
  };
}
