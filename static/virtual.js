// Long lists: only the rows near the screen are elements, however many there are.

const OVER = 8; // rows beyond each edge of what is seen

export class VirtualList {
  #rows = new Map(); // number → element
  #count = 0;
  #pending = false;

  /**
   * `list` (a <ul>) gets the height of all rows; each row is `height` px and stands where it belongs. `row(number)` makes
   * the element of a row, `seen(first, last)` is told which rows are near the screen.
   */
  constructor(list, height, row, seen = () => {}) {
    Object.assign(this, { list, height, row, seen });
    const later = () => this.later();
    addEventListener("scroll", later, { capture: true, passive: true });
    addEventListener("resize", later);
    new ResizeObserver(later).observe(list.parentElement);
    list.addEventListener("keydown", (event) => this.#key(event));
  }

  get count() {
    return this.#count;
  }

  /** Show so many rows, all made anew. */
  show(count) {
    this.#count = count;
    for (const element of this.#rows.values()) element.remove();
    this.#rows.clear();
    this.list.style.height = `${count * this.height}px`;
    this.update();
  }

  /** Make rows `first` to `last` (exclusive) anew, as far as they are elements. */
  renew(first, last) {
    for (const [number, element] of this.#rows) {
      if (number < first || number >= last) continue;
      const focused = element.contains(document.activeElement);
      element.remove();
      this.#rows.delete(number);
      if (focused) this.#back = number;
    }
    this.update();
  }
  #back = null;

  /** Bring a row into view. */
  reveal(number, focus = false) {
    const scroller = this.#scroller();
    const own = this.list.getBoundingClientRect();
    const { top, bottom } = this.#window(scroller, own);
    const at = own.top + number * this.height;
    const by = at < top ? at - top : at + this.height > bottom ? at + this.height - bottom : 0;
    if (by) (scroller ?? document.scrollingElement).scrollTop += by;
    this.update();
    if (focus) this.#rows.get(number)?.querySelector("a, button")?.focus({ preventScroll: true });
  }

  /** Update with the next frame. */
  later() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      this.update();
    });
  }

  update() {
    const own = this.list.getBoundingClientRect();
    const { top, bottom } = this.#window(this.#scroller(), own);
    const first = Math.max(0, Math.floor((top - own.top) / this.height) - OVER);
    const last = Math.min(this.#count, Math.ceil((bottom - own.top) / this.height) + OVER);
    for (const [number, element] of this.#rows) {
      // What has the focus stays, else the keyboard would be lost.
      if ((number < first || number >= last) && !element.contains(document.activeElement)) {
        element.remove();
        this.#rows.delete(number);
      }
    }
    const wanted = new Set(this.#rows.keys());
    for (let number = first; number < last; number += 1) wanted.add(number);
    let at = this.list.firstElementChild;
    for (const number of [...wanted].sort((a, b) => a - b)) {
      const element = this.#rows.get(number) ?? this.#make(number);
      if (element === at) at = at.nextElementSibling;
      else this.list.insertBefore(element, at);
      if (number === this.#back) {
        this.#back = null;
        element.querySelector("a, button")?.focus({ preventScroll: true });
      }
    }
    if (last > first) this.seen(first, last);
  }

  #make(number) {
    const element = this.row(number);
    element.style.transform = `translateY(${number * this.height}px)`;
    element.setAttribute("aria-setsize", this.#count);
    element.setAttribute("aria-posinset", number + 1);
    element.dataset.row = number;
    this.#rows.set(number, element);
    return element;
  }

  /** The element that scrolls, null where the page itself does. */
  #scroller() {
    const box = this.list.parentElement;
    return box.scrollHeight > box.clientHeight && getComputedStyle(box).overflowY !== "visible" ? box : null;
  }

  #window(scroller) {
    const box = scroller?.getBoundingClientRect();
    return { top: Math.max(0, box?.top ?? 0), bottom: Math.min(innerHeight, box?.bottom ?? innerHeight) };
  }

  #key(event) {
    const row = event.target.closest("li");
    const steps = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };
    if (!row || !(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.reveal(Math.max(0, Math.min(this.#count - 1, Number(row.dataset.row) + steps[event.key])), true);
  }
}
