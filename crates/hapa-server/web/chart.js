// A small chart of the last minutes: lines over one time axis, with a reading where the pointer is.
import { el } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TOP] = [300, 64, 6];

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/**
 * A tile: a label, the newest value, a chart. `series` are `{ key, label, tone }`; `format` writes a value; `top` is the
 * top of the axis, or the largest value when absent.
 */
export class Tile {
  constructor({ label, note, series, format, top }) {
    Object.assign(this, { label, series, format, top });
    this.value = el("p", { class: "tile-value", text: "–" });
    this.note = el("p", { class: "tile-note muted", text: note ?? "" });
    this.max = el("span", { class: "axis", "aria-hidden": "true" });
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT });
    this.paths = series.map(({ tone }) => {
      const [area, line] = [svg("path", { class: `area t-${tone}` }), svg("path", { class: `line t-${tone}` })];
      this.plot.append(area, line);
      return { area, line };
    });
    this.plot.append(svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }), this.cursor);
    const frame = el("div", { class: "plot" }, this.max);
    frame.append(this.plot);
    frame.addEventListener("pointermove", (event) => this.hover(event));
    frame.addEventListener("pointerleave", () => this.hover(null));
    const names = el("ul", { class: "legend" });
    if (series.length > 1) {
      for (const { label: name, tone } of series) names.append(el("li", {}, el("span", { class: `swatch t-${tone}` }), name));
    }
    this.node = el("section", { class: "tile panel", role: "group", "aria-label": label }, el("div", { class: "tile-head" }, el("h2", { text: label }), names), this.value, frame, this.note);
  }

  /** Draws points `{ t, [key]: value }`, oldest first, on an axis of `span` seconds. */
  draw(points, span, note) {
    this.points = points;
    this.span = span;
    if (note !== undefined) this.note.textContent = note;
    const values = points.flatMap((point) => this.series.map(({ key }) => point[key])).filter(Number.isFinite);
    this.scale = this.top ?? nice(Math.max(...values, 0));
    this.max.textContent = values.length > 0 ? this.format(this.scale) : "";
    this.series.forEach(({ key }, index) => {
      const { line, area } = this.outline(key);
      this.paths[index].line.setAttribute("d", line);
      this.paths[index].area.setAttribute("d", index === 0 ? area : "");
    });
    if (this.hovered === undefined) this.show(points.at(-1));
    else this.hover();
  }

  x(point) {
    return WIDTH - ((this.points.at(-1).t - point.t) / this.span) * WIDTH;
  }

  y(value) {
    return HEIGHT - 1 - (Math.min(value, this.scale) / (this.scale || 1)) * (HEIGHT - TOP);
  }

  /** Where a value is missing the line has a gap. */
  outline(key) {
    let [line, area, from] = ["", "", null];
    let last = null;
    const close = () => {
      if (from !== null) area += `L${last} ${HEIGHT}L${from} ${HEIGHT}Z`;
      from = null;
    };
    for (const point of this.points) {
      if (!Number.isFinite(point[key])) {
        close();
        continue;
      }
      const [x, y] = [this.x(point).toFixed(1), this.y(point[key]).toFixed(1)];
      const step = `${from === null ? "M" : "L"}${x} ${y}`;
      line += step;
      area += step;
      from ??= x;
      last = x;
    }
    close();
    return { line, area };
  }

  show(point) {
    const shown = this.series.map(({ key }) => (point && Number.isFinite(point[key]) ? this.format(point[key]) : "–"));
    this.value.textContent = shown.every((text) => text === "–") ? "–" : shown.join(" / ");
  }

  hover(event) {
    if (event === null || !this.points?.length) {
      this.hovered = undefined;
      if (this.points?.length) this.show(this.points.at(-1));
      this.node.classList.remove("reading");
      return;
    }
    if (event) {
      const box = this.plot.getBoundingClientRect();
      this.hovered = (event.clientX - box.left) / box.width;
    }
    const t = this.points.at(-1).t - (1 - this.hovered) * this.span;
    const near = this.points.reduce((best, point) => (Math.abs(point.t - t) < Math.abs(best.t - t) ? point : best));
    const x = this.x(near);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.node.classList.add("reading");
    const ago = Math.round(this.points.at(-1).t - near.t);
    this.show(near);
    this.value.append(el("span", { class: "ago", text: ago === 0 ? " now" : ` ${ago} s ago` }));
  }
}

/** The next of 1, 2, 5 times a power of ten. */
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
