// The place that is asked about: by mouse anywhere, from the keyboard where a crosshair is that goes from code to code.

import { crosshair } from "./draw.js";

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }; // rows, columns
let at = { row: 0, column: 0 };

function nearest(row, column, grid) {
  const within = (index) => Math.min(Math.max(Math.floor(index), 0), grid - 1);
  return { row: within(row), column: within(column) };
}

// The row and column of codes under x, y of a map of size pixels and grid codes in a row.
export const place = ({ x, y }, { size, grid }) => nearest((y * grid) / size, (x * grid) / size, grid);

// Over the canvas that has the focus, for nobody else needs it.
export function mark(canvases, grid) {
  at = nearest(at.row, at.column, grid); // another model may have fewer
  if (canvases.includes(document.activeElement)) crosshair(document.activeElement, at, grid);
}

// view() is the size and grid of what is shown, or nothing; moved(place) and asked(place) hear what people do.
export function pointing(canvases, { view, moved, asked }) {
  const go = (to) => moved((at = to));
  for (const canvas of canvases) {
    const on = (kind, heard) => canvas.addEventListener(kind, (event) => { if (view()) heard(event, view()); });
    on("click", ({ offsetX, offsetY }, { grid }) => {
      go(place({ x: offsetX, y: offsetY }, { size: canvas.clientWidth, grid }));
      asked(at);
    });
    on("keydown", (event, { grid }) => {
      const step = STEPS[event.key];
      if (!step && event.key !== "Enter") return;
      event.preventDefault(); // or the page would scroll
      if (step) go(nearest(at.row + step[0], at.column + step[1], grid));
      else asked(at);
    });
    for (const kind of ["focus", "blur"]) on(kind, () => moved(at));
  }
}
