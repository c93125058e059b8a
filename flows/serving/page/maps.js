// Score maps in the browser: levels to values, regions above a threshold, colours. No page, no network.

const LEVELS = 65535;

// {size, low, high, data: base64 of unsigned 16-bit levels} to {size, low, high, values: Float32Array(size * size)}.
export function decode({ size, low, high, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = Float32Array.from({ length: size * size }, (_, i) => low + (view.getUint16(2 * i, true) / LEVELS) * (high - low));
  return { size, low, high, values };
}

// What components/outline.py marks: of the 8-connected regions above the threshold of at least minArea pixels, what is
// not the skirt of something stronger within reach; and the pieces that are left, largest first.
export function regions({ size, values }, threshold, minArea, reach = 0) {
  const mask = new Uint8Array(size * size), body = new Uint8Array(size * size);
  const above = Uint8Array.from(values, (value) => value > threshold);
  const found = [];
  for (let start = 0; start < above.length; start++) {
    if (!above[start]) continue;
    const region = taken(above, size, start);
    if (region.length < minArea) continue;
    for (const piece of reach ? trimmed(region, values, size, minArea, reach, body) : [region]) {
      for (const p of piece) mask[p] = 1;
      found.push(described(piece, values, size));
    }
  }
  return { mask, found: found.sort((a, b) => b.area - a.area) };
}

// A region without its skirts, in pieces of at least minArea pixels; where there is none, the one with the highest value.
// `body` is room to work in: zeros, before and after.
function trimmed(region, values, size, minArea, reach, body) {
  const whole = described(region, values, size);
  const peaks = peaksNear(region, whole, values, size, reach);
  region.forEach((p, i) => { if (values[p] >= peaks[i] - Math.abs(peaks[i]) / 2) body[p] = 1; });
  const all = [];
  for (const p of region) if (body[p]) all.push(taken(body, size, p));
  const large = all.filter((piece) => piece.length >= minArea);
  if (large.length) return large;
  const highest = whole.peak.y * size + whole.peak.x;
  return [all.find((piece) => piece.includes(highest))];
}

// For each pixel of the region in this box, its highest value at most `reach` pixels away along either axis.
function peaksNear(region, { x, y, width, height }, values, size, reach) {
  const own = new Float32Array(width * height).fill(-Infinity), rows = own.slice();
  const places = region.map((p) => (Math.floor(p / size) - y) * width + (p % size) - x);
  region.forEach((p, i) => { own[places[i]] = values[p]; });
  for (let at = 0; at < own.length; at++) {
    const row = at - (at % width);
    const last = Math.min(at + reach, row + width - 1);
    for (let near = Math.max(at - reach, row); near <= last; near++) if (own[near] > rows[at]) rows[at] = own[near];
  }
  return places.map((at) => {
    let peak = -Infinity;
    const last = Math.min(at + reach * width, own.length - width + (at % width));
    for (let near = Math.max(at - reach * width, at % width); near <= last; near += width) peak = Math.max(peak, rows[near]);
    return peak;
  });
}

// The 8-connected piece around `start` of the ones in `left`, taken out of it.
function taken(left, size, start) {
  const pixels = [start];
  left[start] = 0;
  for (let at = 0; at < pixels.length; at++) {
    const x = pixels[at] % size, y = Math.floor(pixels[at] / size);
    for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, size - 1); v++) {
      for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, size - 1); u++) {
        const next = v * size + u;
        if (left[next]) {
          left[next] = 0;
          pixels.push(next);
        }
      }
    }
  }
  return pixels;
}

// Box, area, and the highest value with its place.
function described(pixels, values, size) {
  const xs = pixels.map((p) => p % size), ys = pixels.map((p) => Math.floor(p / size));
  const x = xs.reduce((a, b) => Math.min(a, b)), y = ys.reduce((a, b) => Math.min(a, b));
  const peak = pixels.reduce((a, b) => (values[b] > values[a] ? b : a));
  return {
    x, y, area: pixels.length,
    width: xs.reduce((a, b) => Math.max(a, b)) - x + 1,
    height: ys.reduce((a, b) => Math.max(a, b)) - y + 1,
    score: values[peak],
    peak: { x: peak % size, y: Math.floor(peak / size) },
  };
}

// The Turbo colour map for a share in 0..1, as a polynomial (Mikhailov 2019), to [red, green, blue] in 0..255.
export function turbo(share) {
  const t = Math.min(Math.max(share, 0), 1);
  const poly = (c) => 255 * Math.min(Math.max(c.reduceRight((sum, k) => sum * t + k, 0), 0), 1);
  return [
    poly([0.13572138, 4.6153926, -42.66032258, 132.13108234, -152.94239396, 59.28637943]),
    poly([0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604]),
    poly([0.1066733, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973]),
  ];
}

// The map as ImageData; the threshold lies in the middle of the colours, so that a good part looks good.
export function heat({ size, values }, low, middle, alpha) {
  const image = new ImageData(size, size);
  values.forEach((value, i) => {
    const [r, g, b] = turbo((value - low) / Math.max(2 * (middle - low), 1e-9));
    image.data.set([r, g, b, alpha], 4 * i);
  });
  return image;
}
