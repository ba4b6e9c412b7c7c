/** A small curve of the last values, drawn by hand as SVG. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;
const LENGTH = 60;

/** Keeps and draws the last minute of one number. */
export class Sparkline {
  /**
   * @param {string} name for screen readers
   * @param {number} [top] the value at the upper edge; without it the largest one that is kept
   */
  constructor(name, top) {
    this.name = name;
    this.top = top;
    /** @type {number[]} */
    this.values = [];
    this.line = document.createElementNS(SVG, "polyline");
    this.element = document.createElementNS(SVG, "svg");
    this.element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.element.setAttribute("class", "sparkline");
    this.element.setAttribute("role", "img");
    this.element.append(this.line);
    this.draw();
  }

  /** @param {number | null} value null: not known, and not drawn */
  add(value) {
    if (value !== null) this.values = [...this.values, value].slice(-LENGTH);
    this.draw();
  }

  draw() {
    const most = Math.max(0, ...this.values);
    const top = Math.max(this.top ?? most, 1e-9);
    const first = LENGTH - this.values.length;
    const points = this.values.map((value, index) => {
      const x = ((first + index) / (LENGTH - 1)) * WIDTH;
      const y = HEIGHT - 2 - (Math.min(value, top) / top) * (HEIGHT - 4);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    this.line.setAttribute("points", points.join(" "));
    const now = this.values.at(-1) ?? 0;
    const told = `${this.name}, last minute: now ${now.toFixed(2)}, most ${most.toFixed(2)}`;
    this.element.setAttribute("aria-label", told);
  }
}
