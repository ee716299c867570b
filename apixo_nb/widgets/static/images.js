// Pictures as the page has them: object URLs of bytes that came from the kernel, never a network address.

// How many of each size are kept: originals have megabytes, the others some kilobytes.
const MOST = { full: 8, card: 300, row: 600 };

const keyOf = (picture, size) => `${picture.run_id}/${picture.index}/${size}/${picture.file}`;

class Pictures {
  #kernel;
  #known = new Map(); // key -> { url, file }
  #waiting = new Map(); // key -> { promise, resolve }
  #wanted = [];

  constructor(kernel) {
    this.#kernel = kernel;
    kernel.addEventListener("picture", (event) => this.#arrived(event.detail));
  }

  /** A picture's bytes as { url, file }, or { gone } with the reason. `size`: "row", "card" or "full". */
  get(picture, size) {
    const key = keyOf(picture, size);
    if (this.#known.has(key)) return Promise.resolve(this.#used(key));
    if (!this.#waiting.has(key)) {
      let resolve;
      const promise = new Promise((settle) => (resolve = settle));
      this.#waiting.set(key, { promise, resolve });
      this.#want({ run_id: picture.run_id, index: picture.index, size });
    }
    return this.#waiting.get(key).promise;
  }

  /** An `img` of the picture; until it is there its place is kept. */
  image(picture, size, attributes = {}) {
    const image = h("img", { alt: picture.alt, width: picture.width, height: picture.height, ...attributes });
    image.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this.get(picture, size).then(({ url, gone }) => {
      if (url) image.src = url;
      else image.replaceWith(h("span", { class: "apx-gone", title: gone }, "Not on disk"));
    });
    return image;
  }

  #want(one) {
    if (this.#wanted.push(one) > 1) return;
    queueMicrotask(() => {
      const wanted = this.#wanted;
      this.#wanted = [];
      // What did not come by the time of the reply does not come: it is asked for anew when it is next wanted.
      const left = (why) => wanted.forEach((each) => this.#giveUp(each, why));
      this.#kernel.request("pictures", { wanted }, { patient: true }).then(() => left("It cannot be read"), (problem) => left(problem.text));
    });
  }

  #giveUp({ run_id, index, size }, gone) {
    for (const [key, { resolve }] of this.#waiting) {
      if (!key.startsWith(`${run_id}/${index}/${size}/`)) continue;
      resolve({ gone });
      this.#waiting.delete(key);
    }
  }

  #arrived({ message, buffers }) {
    if (message.gone) {
      this.#giveUp(message, message.gone);
      return;
    }
    const key = keyOf(message, message.size);
    if (!this.#known.has(key)) {
      const blob = new Blob([buffers[0]], { type: message.mime });
      this.#known.set(key, { url: URL.createObjectURL(blob), file: message.file });
    }
    this.#waiting.get(key)?.resolve(this.#known.get(key));
    this.#waiting.delete(key);
    this.#forgetOld(message.size);
  }

  #used(key) {
    const found = this.#known.get(key);
    this.#known.delete(key); // to the end of the line
    this.#known.set(key, found);
    return found;
  }

  #forgetOld(size) {
    const old = [...this.#known.keys()].filter((key) => key.split("/")[2] === size);
    for (const key of old.slice(0, Math.max(0, old.length - MOST[size]))) {
      URL.revokeObjectURL(this.#known.get(key).url);
      this.#known.delete(key);
    }
  }
}

/** Thumbnails as buttons; a click or Enter opens the lightbox at that picture, or does what is given. */
function thumbnails(view, pictures, size, open = (index) => view.lightbox.open(pictures, index)) {
  return pictures.map((picture, index) =>
    h("button", { type: "button", class: `apx-thumb apx-thumb-${size}`, onclick: () => open(index) },
      view.kernel.pictures.image(picture, size),
      marks(picture),
    ),
  );
}

/** The star and the rating of a picture, over its corner. */
function marks(picture) {
  const shown = [picture.starred ? "★" : "", picture.rating ? `${picture.rating}/5` : ""].filter(Boolean).join(" ");
  const spoken = [picture.starred ? "starred" : "", picture.rating ? `rated ${picture.rating} of 5` : ""].filter(Boolean);
  if (!shown) return null;
  return h("span", { class: "apx-marks" }, h("span", { "aria-hidden": "true" }, shown),
    h("span", { class: "apx-unseen" }, spoken.join(", ")));
}
