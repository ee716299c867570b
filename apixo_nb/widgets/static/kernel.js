// The kernel's side of the panel, shared by all views of it in this page: requests, replies, and what is pending.

const LATE_MS = 1500;
const REST_MS = 1000; // after a purchase: a second click, or a key that is held, is no second wish

class KernelConnection extends EventTarget {
  #model;
  #pending = new Map();
  #late = new Set();

  constructor(model) {
    super();
    this.#model = model;
    model.on("msg:custom", (message, buffers) => this.#onMessage(message, buffers ?? []));
  }

  /**
   * Send a request to the kernel; resolves with its reply, rejects with its problem ({ text, advice, field }).
   * A `patient` request may take its time without a word: it reads or writes files.
   */
  request(method, given = {}, { patient = false } = {}) {
    const id = randomToken();
    this.#model.send({ method, id, ...given });
    return new Promise((resolve, reject) => {
      const timer = patient ? null : setTimeout(() => this.#setLate(id, true), LATE_MS);
      this.#pending.set(id, { resolve, reject, timer });
    });
  }

  /** Whether the kernel owes a reply for longer than it should: it is busy with a cell, or gone. */
  get late() {
    return this.#late.size > 0;
  }

  #setLate(id, late) {
    const before = this.late;
    if (late) this.#late.add(id);
    else this.#late.delete(id);
    if (before !== this.late) this.dispatchEvent(new Event("late"));
  }

  #onMessage(message, buffers) {
    if (message.event) {
      this.dispatchEvent(new CustomEvent(message.event, { detail: { message, buffers } }));
      return;
    }
    const pending = this.#pending.get(message.id);
    if (!pending) return; // of a view in another page
    this.#pending.delete(message.id);
    clearTimeout(pending.timer);
    this.#setLate(message.id, false);
    if (message.problem) pending.reject(message.problem);
    else pending.resolve({ ...message, buffers });
  }
}

const connections = new WeakMap();

/** The connection of a model, made on first use. */
function connectionOf(model) {
  if (!connections.has(model)) {
    const connection = new KernelConnection(model);
    connection.pictures = new Pictures(connection);
    connections.set(model, connection);
  }
  return connections.get(model);
}
