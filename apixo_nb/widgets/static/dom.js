// Small tools for building the page. Texts become text nodes: nothing here, or after it, sets HTML from a string.

/** An element: `h("button", { class: "x", onclick: f, hidden: true }, "text", child)`. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

let lastId = 0;

/** An id that no other element of the page has: labels point with it. */
function newId() {
  lastId += 1;
  return `apx-${randomToken().slice(0, 8)}-${lastId}`;
}

/** A random word. `crypto.randomUUID` is missing where the page came over plain http. */
function randomToken() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Write a text only where it differs, so that a selection and a screen reader are left in peace. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Write a text into an element that is hidden while it has none; returns the text. */
function showText(element, text) {
  setText(element, text ?? "");
  element.hidden = !text;
  return text ?? "";
}

/** What the kernel, or the browser, says of an error: what happened and what to do. */
function errorText(error) {
  return [error.text ?? String(error), error.advice].filter(Boolean).join(" ");
}

/** The words of a line that are parted by commas. */
function splitWords(text) {
  return text.split(",").map((word) => word.trim()).filter(Boolean);
}

/**
 * Make a button that does nothing just now. It keeps the focus, which `disabled` would take from it: whoever
 * works by keyboard would be thrown back to the top of the page.
 */
function setDisabled(button, disabled) {
  button.setAttribute("aria-disabled", String(disabled));
}

const isDisabled = (button) => button.getAttribute("aria-disabled") === "true";

/** Clicks on disabled buttons go nowhere, wherever in `root` they are. */
function ignoreDisabledClicks(root) {
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && isDisabled(button)) event.stopImmediatePropagation();
  }, true);
}

/** A label over its control. */
function labelled(text, control, ...more) {
  control.id ||= newId();
  return h("div", { class: "apx-field" }, h("label", { class: "apx-label", for: control.id }, text), control, ...more);
}

/** A group of radio buttons that look like buttons; `draw(value)` may put something before the text. */
function radioGroup({ legend, values, onpick, draw = () => null, text = String }) {
  const name = newId();
  const inputs = values.map((value) =>
    h("input", { type: "radio", name, value: String(value), class: "apx-radio", onchange: () => onpick(value) }),
  );
  const options = inputs.map((input, index) => {
    input.id = newId();
    return h("span", { class: "apx-option" }, input,
      h("label", { for: input.id }, draw(values[index]), h("span", {}, text(values[index]))));
  });
  const element = h("fieldset", { class: "apx-choices" }, h("legend", { class: "apx-label" }, legend),
    h("div", { class: "apx-options" }, options));
  return {
    element,
    set: (value) => inputs.forEach((input, index) => (input.checked = values[index] === value)),
  };
}

/** $0.35; more digits where the sum has them. */
function dollars(micros) {
  const cents = (micros / 1e6).toFixed(2);
  if (Math.round(Number(cents) * 1e6) === micros) return `$${cents}`;
  return `$${(micros / 1e6).toFixed(6).replace(/0+$/, "")}`;
}

function plural(count, word) {
  return `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;
}

/** A moment of the past, in the reader's own time zone: 2026-11-25 18:05. */
function localTime(ms) {
  const when = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ${two(when.getHours())}:${two(when.getMinutes())}`;
}

/** A function that runs once things have been quiet for a while; `.flush()` runs it at once if it is due. */
function debounce(ms, action) {
  let timer = null;
  const run = () => {
    timer = null;
    action();
  };
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(run, ms);
  };
  later.flush = () => {
    if (timer === null) return;
    clearTimeout(timer);
    run();
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Put a text on the clipboard; false where the browser does not let us. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no clipboard over plain http, or not allowed
  }
}

/** Have the browser save bytes as a file. */
function saveFile(blobUrl, name) {
  const link = h("a", { href: blobUrl, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

/** A dialog over the page. Escape and a click beside it close it; the focus goes back to where it was. */
function makeDialog(root, label, className) {
  const dialog = h("dialog", { class: `apx-dialog ${className}`, "aria-label": label });
  let before = null;
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => before?.isConnected && before.focus());
  root.append(dialog);
  return {
    element: dialog,
    open() {
      if (dialog.open) return;
      before = document.activeElement;
      dialog.showModal();
    },
    close: () => dialog.close(),
  };
}
