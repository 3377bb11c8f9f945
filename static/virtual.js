// Long lists: only the rows near the screen are elements, however many there are.

const OVER = 8; // rows beyond each edge of what is seen

export class VirtualList {
  #rows = new Map(); // number → element
  #count = 0;
  #pending = false;

  /**
   * `list` (a <ul>) gets the height of all rows; each row is `height` px and stands where it belongs. `row(number)` makes
   * the element of a row, `seen(first, last)` is told which rows are near the screen.
   * It ends with `signal`.
   */
  constructor(list, height, row, { seen = () => {}, signal } = {}) {
    Object.assign(this, { list, height, row, seen });
    const later = () => this.later();
    addEventListener("scroll", later, { capture: true, passive: true, signal });
    addEventListener("resize", later, { signal });
    const observer = new ResizeObserver(later);
    // What stands above the list becomes shorter, in its box or, on small screens, on the page: then other rows are seen.
    for (const one of [document.body, list.parentElement, ...list.parentElement.children]) if (one !== list) observer.observe(one);
    signal?.addEventListener("abort", () => observer.disconnect(), { once: true });
    list.addEventListener("keydown", (event) => this.#key(event));
  }

  get count() {
    return this.#count;
  }

  /**
   * Show so many rows. `find(element, number)` says which number a row's element has from now on; it stays the element it is, with the
   * focus and a press that is under way. Rows that it gives -1 for are made anew.
   */
  show(count, find = () => -1) {
    this.#count = count;
    const before = [...this.#rows];
    this.#rows.clear();
    for (const [number, element] of before) {
      const now = find(element, number);
      if (now >= 0 && now < count && !this.#rows.has(now)) {
        this.#place(element, now);
        continue;
      }
      if (element.contains(document.activeElement)) this.#back = Math.min(number, count - 1);
      element.remove();
    }
    this.list.style.height = `${count * this.height}px`;
    this.update(this.#back);
    this.#back = null;
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
    this.update(number);
    const element = this.#rows.get(number);
    element?.scrollIntoView({ block: "nearest" });
    if (focus) element?.querySelector("a, button")?.focus({ preventScroll: true });
    this.update();
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

  /** Make the rows near the screen, and row `also`. */
  update(also = null) {
    const own = this.list.getBoundingClientRect();
    const { top, bottom } = this.#window();
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
    if (also !== null && also >= 0 && also < this.#count) wanted.add(also);
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
    this.#place(element, number);
    return element;
  }

  #place(element, number) {
    element.style.transform = `translateY(${number * this.height}px)`;
    element.setAttribute("aria-setsize", this.#count);
    element.setAttribute("aria-posinset", number + 1);
    element.dataset.row = number;
    this.#rows.set(number, element);
  }

  /** Which part of the screen the list can be seen in: what its box shows, if that scrolls, and the window. */
  #window() {
    const box = this.list.parentElement;
    if (getComputedStyle(box).overflowY === "visible") return { top: 0, bottom: innerHeight };
    const { top, bottom } = box.getBoundingClientRect();
    return { top: Math.max(0, top), bottom: Math.min(innerHeight, bottom) };
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
