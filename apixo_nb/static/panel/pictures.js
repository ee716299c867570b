// Pictures as the page has them: object URLs of bytes that came from the kernel, never a network address.

const MOST_FULL = 8; // originals kept; they have megabytes

const keyOf = (picture, size) => `${picture.run_id}/${picture.index}/${size}/${picture.file}`;

class Pictures {
  #link;
  #known = new Map(); // key -> { url, file } or { gone }
  #waiting = new Map(); // key -> { promise, resolve }
  #wanted = [];

  constructor(link) {
    this.#link = link;
    link.addEventListener("picture", (event) => this.#arrived(event.detail));
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
      this.#link.ask("pictures", { wanted }).catch(() => {}); // what does not come stays a kept place
    });
  }

  #arrived({ message, buffers }) {
    const key = keyOf(message, message.size);
    if (!this.#known.has(key)) this.#known.set(key, this.#made(message, buffers[0]));
    this.#waiting.get(key)?.resolve(this.#known.get(key));
    this.#waiting.delete(key);
    this.#forgetOld();
  }

  #made(message, bytes) {
    if (message.gone) return { gone: message.gone };
    const blob = new Blob([bytes], { type: message.mime });
    return { url: URL.createObjectURL(blob), file: message.file };
  }

  #used(key) {
    const found = this.#known.get(key);
    this.#known.delete(key); // to the end of the line
    this.#known.set(key, found);
    return found;
  }

  #forgetOld() {
    const full = [...this.#known.keys()].filter((key) => key.split("/")[2] === "full");
    for (const key of full.slice(0, Math.max(0, full.length - MOST_FULL))) {
      URL.revokeObjectURL(this.#known.get(key).url);
      this.#known.delete(key);
    }
  }
}

/** Thumbnails as buttons; a click or Enter opens the lightbox at that picture. */
function thumbnails(desk, pictures, size) {
  return pictures.map((picture, index) =>
    h("button", { type: "button", class: `apx-thumb apx-thumb-${size}`, onclick: () => desk.lightbox.open(pictures, index) },
      desk.link.pictures.image(picture, size),
      marks(picture),
    ),
  );
}

/** The star and the rating of a picture, over its corner. */
function marks(picture) {
  const said = [picture.starred ? "★" : "", picture.rating ? `${picture.rating}/5` : ""].filter(Boolean).join(" ");
  const spoken = [picture.starred ? "starred" : "", picture.rating ? `rated ${picture.rating} of 5` : ""].filter(Boolean);
  if (!said) return null;
  return h("span", { class: "apx-marks" }, h("span", { "aria-hidden": "true" }, said),
    h("span", { class: "apx-unseen" }, spoken.join(", ")));
}
