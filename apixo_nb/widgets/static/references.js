// Reference pictures: a list with previews, and a line to add one.

/** `urls()` gives the addresses, `change(urls)` replaces them, `most()` is how many the model takes. */
function makeReferences(urls, change, most) {
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

  function addOne(url) {
    if (urls().length >= most()) return showText(problem, `At most ${most()} reference pictures.`);
    if (urls().includes(url)) return showText(problem, "That picture is in the list already.");
    change([...urls(), url]);
    return showText(problem, "");
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
        const why = showText(item.querySelector(".apx-problem"), found[`image_urls.${index}`]);
        if (!why && !item.dataset.tried) preview(item, index);
        item.dataset.tried = "true";
      });
    },
  };
}
