// What the canvases of the page have in common: the style's colours, and sharp pixels.

const NAMES = ["accent", "wash", "tick", "line", "soft", "text", "panel", "sunk", "bad", "bad-wash", "good"];

/** The style's colours as they are now for this element: light or dark. */
export function colours(element) {
  const style = getComputedStyle(element);
  return Object.fromEntries(NAMES.map((name) => [name.replace("-w", "W"), style.getPropertyValue(`--${name}`).trim()]));
}

/** Fit a canvas to its box at the screen's resolution; its cleared context and size in CSS pixels, null if it is not shown. */
export function sharp(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return null;
  const scale = devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Call `draw` whenever the size of an element or the colours change; ends with `signal`. */
export function redraw(element, draw, signal) {
  const observer = new ResizeObserver(draw);
  observer.observe(element);
  signal?.addEventListener("abort", () => observer.disconnect());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });
}
