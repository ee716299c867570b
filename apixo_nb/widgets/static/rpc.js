// The kernel's side of the panel, shared by all views of it in this page: asks and answers, and what is pending.

const LATE_MS = 1500;
const REST_MS = 1000; // after a purchase: a second click, or a key that is held, is no second wish

class Link extends EventTarget {
  #model;
  #calls = new Map();
  #late = new Set();

  constructor(model) {
    super();
    this.#model = model;
    model.on("msg:custom", (message, buffers) => this.#hear(message, buffers ?? []));
  }

  /**
   * Ask the kernel; resolves with its answer, rejects with its problem ({ text, advice, field }).
   * A `patient` ask may take its time without a word: it reads or writes files.
   */
  ask(name, given = {}, { patient = false } = {}) {
    const call = token();
    this.#model.send({ ask: name, call, ...given });
    return new Promise((resolve, reject) => {
      const timer = patient ? null : setTimeout(() => this.#setLate(call, true), LATE_MS);
      this.#calls.set(call, { resolve, reject, timer });
    });
  }

  /** Whether the kernel owes an answer for longer than it should: it is busy with a cell, or gone. */
  get late() {
    return this.#late.size > 0;
  }

  #setLate(call, late) {
    const before = this.late;
    if (late) this.#late.add(call);
    else this.#late.delete(call);
    if (before !== this.late) this.dispatchEvent(new Event("late"));
  }

  #hear(message, buffers) {
    if (message.push) {
      this.dispatchEvent(new CustomEvent(message.push, { detail: { message, buffers } }));
      return;
    }
    const pending = this.#calls.get(message.answer);
    if (!pending) return; // of a view in another page
    this.#calls.delete(message.answer);
    clearTimeout(pending.timer);
    this.#setLate(message.answer, false);
    if (message.problem) pending.reject(message.problem);
    else pending.resolve({ ...message, buffers });
  }
}

const links = new WeakMap();

/** The link of a model, made on first use. */
function linkOf(model) {
  if (!links.has(model)) {
    const link = new Link(model);
    link.pictures = new Pictures(link);
    links.set(model, link);
  }
  return links.get(model);
}
