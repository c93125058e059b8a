// Painting on canvases. All of them have SCALE canvas pixels for one of the model's, so that outlines are fine lines.

import { heat } from "./maps.js";

const SCALE = 2;

export async function picture(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  return image;
}

function fresh(canvas, size) {
  canvas.width = canvas.height = size * SCALE;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  return context;
}

// A picture, and over it, where given, the outlines of a mask.
export function paint(canvas, image, size, mask) {
  const context = fresh(canvas, size);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (mask) outline(context, mask, size);
}

export function paintHeat(canvas, image, map, low, middle, mask) {
  const context = fresh(canvas, map.size);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  over(context, heat(map, low, middle, 140));
  outline(context, mask, map.size);
}

// Attention over the dimmed image: white where most of it lies, and a frame round the place that was asked about.
export function paintAttention(canvas, image, size, weights, row, column) {
  const context = fresh(canvas, size);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.fillStyle = "rgb(0 0 60 / 70%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const cell = canvas.width / weights.length;
  const most = weights.flat().reduce((a, b) => Math.max(a, b), 1e-9);
  weights.forEach((line, y) => line.forEach((weight, x) => {
    context.fillStyle = `rgb(255 220 80 / ${100 * Math.sqrt(weight / most)}%)`;
    context.fillRect(x * cell, y * cell, cell, cell);
  }));
  context.strokeStyle = "#ff2a3c";
  context.lineWidth = 4;
  context.strokeRect(column * cell, row * cell, cell, cell);
}

function over(context, data) {
  const layer = new OffscreenCanvas(data.width, data.height);
  layer.getContext("2d").putImageData(data, 0, 0);
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
}

// Every side of a pixel where the mask ends: black under white, to be seen on any picture.
function outline(context, mask, size) {
  const at = (x, y) => x >= 0 && y >= 0 && x < size && y < size && mask[y * size + x];
  const path = new Path2D();
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (!at(x, y)) continue;
      for (const [u, v, ax, ay, bx, by] of [[x, y - 1, 0, 0, 1, 0], [x, y + 1, 0, 1, 1, 1], [x - 1, y, 0, 0, 0, 1], [x + 1, y, 1, 0, 1, 1]]) {
        if (at(u, v)) continue;
        path.moveTo((x + ax) * SCALE, (y + ay) * SCALE);
        path.lineTo((x + bx) * SCALE, (y + by) * SCALE);
      }
    }
  }
  stroke(context, path, "#fff");
}

// Lines to the four sides from a frame round one of the cells, of which grid lie in a row.
export function crosshair(canvas, { row, column }, grid) {
  const side = canvas.width, cell = side / grid, x = column * cell, y = row * cell;
  const path = new Path2D();
  path.rect(x, y, cell, cell);
  for (const [ax, ay, bx, by] of [[0, y + cell / 2, x, y + cell / 2], [x + cell, y + cell / 2, side, y + cell / 2],
    [x + cell / 2, 0, x + cell / 2, y], [x + cell / 2, y + cell, x + cell / 2, side]]) {
    path.moveTo(ax, ay);
    path.lineTo(bx, by);
  }
  stroke(canvas.getContext("2d"), path, "#ffdc50");
}

function stroke(context, path, colour) {
  for (const [style, width] of [["#000", 5], [colour, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(path);
  }
}
