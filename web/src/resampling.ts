/**
 * Sampling pictures through affine transforms without aliasing: `sdic_plugin.images.resampling`, number for number.
 *
 * The kernels and their borders are Pillow's.
 */

import type { Matrix, Size } from "./geometry";
import { apply, compose, shift, stretch } from "./geometry";

/** Numbers [height, width, channels]. */
export interface Picture {
  width: number;
  height: number;
  channels: number;
  data: Float32Array;
}

/** RGBA pixels, 8 bits each. */
export interface Photo {
  width: number;
  height: number;
  data: Uint8ClampedArray;
}

/** Left, top, right and bottom, in whole pixels. */
export type Box = [number, number, number, number];

export interface Kernel {
  support: number;
  weight: (distance: number) => number;
}

const SUPERSAMPLING = 3;
const MIN_ENLARGEMENT = 2;
const MAX_ENLARGEMENT = 8;

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

export const LANCZOS: Kernel = { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) };
export const TRIANGLE: Kernel = { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) };
export const CUBIC: Kernel = {
  support: 2,
  weight: (x) => {
    const d = Math.abs(x);
    if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
    return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
  },
};

export function picture(width: number, height: number, channels: number): Picture {
  return { width, height, channels, data: new Float32Array(width * height * channels) };
}

/** Part of a photo as RGB, as it looks on white. */
export function photoPart(photo: Photo, [left, top, right, bottom]: Box): Picture {
  const part = picture(right - left, bottom - top, 3);
  let to = 0;
  for (let y = top; y < bottom; y++) {
    for (let from = (y * photo.width + left) * 4, end = from + part.width * 4; from < end; from += 4) {
      const alpha = photo.data[from + 3]!;
      for (let channel = 0; channel < 3; channel++) {
        const value = photo.data[from + channel]!;
        part.data[to++] = alpha === 255 ? value : Math.round(255 + ((value - 255) * alpha) / 255);
      }
    }
  }
  return part;
}

export function picturePart(source: Picture, [left, top, right, bottom]: Box): Picture {
  const part = picture(right - left, bottom - top, source.channels);
  for (let y = 0; y < part.height; y++) {
    const from = ((y + top) * source.width + left) * source.channels;
    part.data.set(source.data.subarray(from, from + part.width * part.channels), y * part.width * part.channels);
  }
  return part;
}

interface Weights {
  first: Int32Array;
  count: Int32Array;
  values: Float64Array;
  longest: number;
}

/** How Pillow resizes pictures of 8 bits: weights are whole multiples of this, and each direction is rounded. */
const FIXED_POINT = 2 ** -22;

interface Resizing {
  kernel: Kernel;
  /** The part of the line that counts, if not all. */
  span?: number;
  isEightBit?: boolean;
}

/** Pillow's weights of the pixels of a line that is resized. */
function resizeWeights(from: number, to: number, { kernel, span = from, isEightBit = false }: Resizing): Weights {
  const scale = span / to;
  const filterScale = Math.max(scale, 1);
  const support = kernel.support * filterScale;
  const longest = Math.ceil(support) * 2 + 1;
  const weights = { first: new Int32Array(to), count: new Int32Array(to), values: new Float64Array(to * longest), longest };
  for (let index = 0; index < to; index++) {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    let sum = 0;
    for (let x = first; x < last; x++) {
      const weight = kernel.weight((x - centre + 0.5) / filterScale);
      weights.values[index * longest + x - first] = weight;
      sum += weight;
    }
    for (let x = 0; x < last - first; x++) {
      const weight = weights.values[index * longest + x]! / (sum || 1);
      const whole = Math.sign(weight) * Math.floor(Math.abs(weight) / FIXED_POINT + 0.5);
      weights.values[index * longest + x] = isEightBit ? whole * FIXED_POINT : weight;
    }
    weights.first[index] = first;
    weights.count[index] = last - first;
  }
  return weights;
}

/** Resize without aliasing. */
export function resize(source: Picture, width: number, height: number, kernel?: Kernel): Picture {
  if (source.width === width && source.height === height) return source;
  const chosen = kernel ?? (width < source.width ? LANCZOS : CUBIC);
  const wide = source.width === width ? source : resizeAcross(source, width, { kernel: chosen });
  return wide.height === height ? wide : resizeDown(wide, height, { kernel: chosen });
}

/** Resize a picture of whole numbers as Pillow does one of 8 bits. */
export function resizeEightBit(source: Picture, width: number, height: number, kernel: Kernel): Picture {
  return resizeSpan(source, width, height, kernel, source.width, source.height);
}

function resizeSpan(source: Picture, width: number, height: number, kernel: Kernel, spanX: number, spanY: number): Picture {
  const wide = spanX === width ? source : resizeAcross(source, width, { kernel, span: spanX, isEightBit: true });
  return spanY === height ? wide : resizeDown(wide, height, { kernel, span: spanY, isEightBit: true });
}

const eightBit = (value: number): number => Math.min(255, Math.max(0, Math.floor(value + 0.5)));

function resizeAcross(source: Picture, width: number, resizing: Resizing): Picture {
  const { channels } = source;
  const { first, count, values, longest } = resizeWeights(source.width, width, resizing);
  const result = picture(width, source.height, channels);
  for (let y = 0, to = 0; y < source.height; y++) {
    for (let x = 0; x < width; x++) {
      const start = (y * source.width + first[x]!) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let tap = 0; tap < count[x]!; tap++) {
          sum += values[x * longest + tap]! * source.data[start + tap * channels + channel]!;
        }
        result.data[to++] = resizing.isEightBit ? eightBit(sum) : sum;
      }
    }
  }
  return result;
}

function resizeDown(source: Picture, height: number, resizing: Resizing): Picture {
  const { first, count, values, longest } = resizeWeights(source.height, height, resizing);
  const result = picture(source.width, height, source.channels);
  const line = source.width * source.channels;
  const sums = new Float64Array(line);
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    for (let tap = 0; tap < count[y]!; tap++) {
      const weight = values[y * longest + tap]!;
      const start = (first[y]! + tap) * line;
      for (let x = 0; x < line; x++) sums[x]! += weight * source.data[start + x]!;
    }
    result.data.set(resizing.isEightBit ? sums.map(eightBit) : sums, y * line);
  }
  return result;
}

/**
 * A copy of a photo in RGB, as Pillow's `resize(…, BILINEAR, reducing_gap=2.0)` makes it.
 *
 * Every rounding of Pillow's is done here, because the search for faces settles on other places after small changes.
 */
export function scalePhoto(photo: Photo, width: number, height: number): Picture {
  const factor = (from: number, to: number): number => Math.max(1, Math.trunc(from / to / 2));
  const [across, down] = [factor(photo.width, width), factor(photo.height, height)];
  const reduced = reduce(photo, across, down);
  return resizeSpan(reduced, width, height, TRIANGLE, photo.width / across, photo.height / down);
}

/** The rounded means of boxes of pixels of a photo, or of a part of it; those at its right and lower border may be smaller. */
export function reduce(photo: Photo, across: number, down: number, part: Box = [0, 0, photo.width, photo.height]): Picture {
  const [left, first, right, last] = part;
  const reduced = picture(Math.ceil((right - left) / across), Math.ceil((last - first) / down), 3);
  const counts = new Uint32Array(reduced.width * reduced.height);
  const rows = 256;
  for (let top = first; top < last; top += rows) {
    const strip = photoPart(photo, [left, top, right, Math.min(top + rows, last)]);
    for (let y = 0, from = 0; y < strip.height; y++) {
      const line = Math.floor((top - first + y) / down) * reduced.width;
      for (let x = 0; x < strip.width; x++, from += 3) {
        const to = line + Math.floor(x / across);
        counts[to]!++;
        for (let channel = 0; channel < 3; channel++) reduced.data[to * 3 + channel]! += strip.data[from + channel]!;
      }
    }
  }
  for (let index = 0; index < reduced.data.length; index++) {
    const count = counts[Math.floor(index / 3)]!;
    // Pillow divides by multiplying with a whole number of 24 bits.
    reduced.data[index] = Math.floor(((reduced.data[index]! + Math.floor(count / 2)) * Math.floor(2 ** 24 / count)) / 2 ** 24);
  }
  return reduced;
}

/** Sample a picture of whole numbers at a target's pixels, as Pillow's bilinear transform does; what is beyond stays. */
export function transformInto(target: Picture, source: Picture, [[a, b, c], [d, e, f]]: Matrix): void {
  const { width, height, channels, data } = source;
  for (let row = 0, to = 0; row < target.height; row++) {
    for (let column = 0; column < target.width; column++, to += channels) {
      const [x, y] = [a * (column + 0.5) + b * (row + 0.5) + c, d * (column + 0.5) + e * (row + 0.5) + f];
      if (x < 0 || x >= width || y < 0 || y >= height) continue;
      const [left, top] = [Math.floor(x - 0.5), Math.floor(y - 0.5)];
      const [dx, dy] = [x - 0.5 - left, y - 0.5 - top];
      const [x0, x1] = [Math.max(left, 0), Math.min(left + 1, width - 1)];
      const [upper, lower] = [Math.max(top, 0) * width, Math.min(top + 1, height - 1) * width];
      for (let channel = 0; channel < channels; channel++) {
        const at = (line: number, index: number): number => data[(line + index) * channels + channel]!;
        const above = at(upper, x0) + (at(upper, x1) - at(upper, x0)) * dx;
        const below = at(lower, x0) + (at(lower, x1) - at(lower, x0)) * dx;
        target.data[to + channel] = Math.trunc(above + (below - above) * dy);
      }
    }
  }
}

/** Rounded and clipped, as a picture file holds it. */
export function rounded(source: Picture): Picture {
  for (let index = 0; index < source.data.length; index++) {
    source.data[index] = Math.min(255, Math.max(0, Math.round(source.data[index]!)));
  }
  return source;
}

/** Fold a pixel's index into [0, length) by reflection at the border line. */
export function reflect(index: number, length: number): number {
  const folded = ((index % (2 * length)) + 2 * length) % (2 * length);
  return folded < length ? folded : 2 * length - 1 - folded;
}

/** Picture pixels per output pixel. */
function stepOf([[a, b], [c, d]]: Matrix): number {
  return Math.sqrt(Math.abs(a * d - b * c));
}

function isWholeShift([[a, b, c], [d, e, f]]: Matrix): boolean {
  const near = (value: number, wanted: number): boolean => Math.abs(value - wanted) <= 1e-6;
  const whole = (value: number): boolean => near(value, Math.floor(value));
  return near(a, 1) && near(b, 0) && near(d, 0) && near(e, 1) && whole(c) && whole(f);
}

function chooseScale(matrix: Matrix): { shrinks: boolean; scale: number } {
  const step = stepOf(matrix);
  if (step > 1 + 1e-6) return { shrinks: true, scale: Math.min(1, SUPERSAMPLING / step) };
  const scale = isWholeShift(matrix) ? 1 : Math.min(Math.max(1 / step, MIN_ENLARGEMENT), MAX_ENLARGEMENT);
  return { shrinks: false, scale };
}

/** The box of a picture that an output touches, folded into the picture. */
function neededBox([fullWidth, fullHeight]: Size, matrix: Matrix, width: number, height: number): Box {
  const corners = [apply(matrix, [0, 0]), apply(matrix, [width, 0]), apply(matrix, [width, height]), apply(matrix, [0, height])];
  const margin = 4 + Math.ceil(8 * stepOf(matrix));
  const range = (values: number[], length: number): [number, number] => {
    const [low, high] = [Math.floor(Math.min(...values)) - margin, Math.ceil(Math.max(...values)) + margin];
    let [first, last] = [length, -1];
    for (let index = low; index < high; index++) {
      const folded = reflect(index, length);
      first = Math.min(first, folded);
      last = Math.max(last, folded);
    }
    return [first, last + 1];
  };
  const [left, right] = range(corners.map(([x]) => x), fullWidth);
  const [top, bottom] = range(corners.map(([, y]) => y), fullHeight);
  return [left, top, right, bottom];
}

function rescale(source: Picture, matrix: Matrix, scale: number): [Picture, Matrix] {
  const width = Math.max(1, roundHalfEven(source.width * scale));
  const height = Math.max(1, roundHalfEven(source.height * scale));
  const resized = resize(source, width, height);
  return [resized, compose(stretch(width / source.width, height / source.height), matrix)];
}

/** As Python rounds. */
export function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** Samples a picture at every pixel of an output, of which any part can be asked for. */
export class Sampler {
  private readonly source: Picture;
  private readonly matrix: Matrix;
  private readonly shrinks: boolean;

  /** `matrix` takes coordinates of the output, width x height, to those of the picture. */
  constructor(source: Picture | Photo, matrix: Matrix, width: number, height: number) {
    const { shrinks, scale } = chooseScale(matrix);
    const box = neededBox([source.width, source.height], matrix, width, height);
    const part = "channels" in source ? picturePart(source, box) : photoPart(source, box);
    [this.source, this.matrix] = rescale(part, compose(shift(-box[0], -box[1]), matrix), scale);
    this.shrinks = shrinks;
  }

  sample([left, top, right, bottom]: Box): Picture {
    const matrix = compose(this.matrix, shift(left, top));
    const [width, height] = [right - left, bottom - top];
    return this.shrinks ? average(this.source, matrix, width, height) : warp(this.source, matrix, width, height);
  }
}

export function resample(source: Picture | Photo, matrix: Matrix, width: number, height: number): Picture {
  return new Sampler(source, matrix, width, height).sample([0, 0, width, height]);
}

/** Sample more densely than the output, and average. */
function average(source: Picture, matrix: Matrix, width: number, height: number): Picture {
  const border = 3;
  const dense = compose(matrix, [[1 / SUPERSAMPLING, 0, -border], [0, 1 / SUPERSAMPLING, -border]]);
  const [wide, high] = [width + 2 * border, height + 2 * border];
  const sampled = resize(warp(source, dense, wide * SUPERSAMPLING, high * SUPERSAMPLING), wide, high);
  return picturePart(sampled, [border, border, border + width, border + height]);
}

/** Sample bicubically at output pixel centres, reflected beyond the border. */
function warp(source: Picture, [[a, b, c], [d, e, f]]: Matrix, width: number, height: number): Picture {
  const { channels, data } = source;
  const result = picture(width, height, channels);
  const columns = new Int32Array(4);
  const rows = new Float64Array(4 * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += channels) {
      const [left, top] = [a * (x + 0.5) + b * (y + 0.5) + c - 0.5, d * (x + 0.5) + e * (y + 0.5) + f - 0.5];
      const [column, row] = [Math.floor(left), Math.floor(top)];
      for (let tap = 0; tap < 4; tap++) columns[tap] = reflect(column - 1 + tap, source.width) * channels;
      for (let tap = 0; tap < 4; tap++) {
        const line = reflect(row - 1 + tap, source.height) * source.width * channels;
        const [first, second, third, fourth] = [line + columns[0]!, line + columns[1]!, line + columns[2]!, line + columns[3]!];
        for (let channel = 0; channel < channels; channel++) {
          rows[channel * 4 + tap] = cubic(
            data[first + channel]!, data[second + channel]!, data[third + channel]!, data[fourth + channel]!, left - column,
          );
        }
      }
      for (let channel = 0; channel < channels; channel++) {
        const at = channel * 4;
        result.data[to + channel] = cubic(rows[at]!, rows[at + 1]!, rows[at + 2]!, rows[at + 3]!, top - row);
      }
    }
  }
  return result;
}

/** Between the second and the third of four values, as Pillow's transforms compute it, to the last bit. */
function cubic(first: number, second: number, third: number, fourth: number, t: number): number {
  const linear = -first + third;
  const square = 2 * (first - second) + third - fourth;
  const cube = -first + second - third + fourth;
  return second + t * (linear + t * (square + t * cube));
}
