/** From a photo to the model's crop, and from an edited crop back into the photo, as `sdic_plugin.images` does it. */

import type { Alignment, Size } from "./geometry";
import { apply, compose, invertSimilarity, quad, shift, stretch } from "./geometry";
import type { Box, Photo, Picture } from "./resampling";
import {
  CUBIC, LANCZOS, photoPart, picture, reduce, reflect, resample, resize, resizeEightBit, rounded, roundHalfEven, Sampler,
  transformInto,
} from "./resampling";

/** Width of the soft border of a crop that is pasted back, a fraction of the crop's width. */
const FEATHER = 0.08;
const TILE = 512;
/** What is seen beyond the photo where faces are sought. */
export const GREY = 127;

/** Cut an aligned crop out of its photo. */
export function takeCrop(photo: Photo, alignment: Alignment): Picture {
  return rounded(resample(photo, invertSimilarity(alignment.matrix), ...alignment.cropSize));
}

/** Cut a window out, a little blurred or aliased, and grey beyond the photo; for detecting only. */
export function cutWindow(photo: Photo, alignment: Alignment): Picture {
  const [[a, , ], [d, , ]] = invertSimilarity(alignment.matrix);
  const step = Math.hypot(a, d);
  const [shrink, grow] = [Math.max(1, Math.trunc(step)), Math.max(1, roundHalfEven(1 / step))];
  const corners = quad(alignment);
  const ends = [photo.width, photo.height].map((length, axis) => {
    const values = corners.map((corner) => corner[axis]!);
    const [low, high] = [Math.floor(Math.min(...values)) - 2 * shrink, Math.ceil(Math.max(...values)) + 2 * shrink];
    return [Math.max(low, 0), Math.min(high, length)] as const;
  });
  const [[left, right], [top, bottom]] = ends as [readonly [number, number], readonly [number, number]];
  const window = picture(...alignment.cropSize, 3);
  window.data.fill(GREY);
  if (left >= right || top >= bottom) return window;
  let part = reduce(photo, shrink, shrink, [left, top, right, bottom]);
  if (grow > 1) part = resizeEightBit(part, part.width * grow, part.height * grow, CUBIC);
  const toPart = compose(stretch(grow / shrink, grow / shrink), shift(-left, -top));
  transformInto(window, part, compose(toPart, invertSimilarity(alignment.matrix)));
  return window;
}

/** The photo's middle, which `alignMiddle` describes. */
export function takeMiddle(photo: Photo, [width, height]: Size): Picture {
  const boxWidth = Math.max(1, Math.min(photo.width, roundHalfEven((photo.height * width) / height)));
  const boxHeight = Math.max(1, Math.min(photo.height, roundHalfEven((photo.width * height) / width)));
  const [left, top] = [Math.floor((photo.width - boxWidth) / 2), Math.floor((photo.height - boxHeight) / 2)];
  const part = photoPart(photo, [left, top, left + boxWidth, top + boxHeight]);
  return resizeEightBit(part, width, height, LANCZOS);
}

/** Cut a face's crop out by FFHQ's rules of shrinking and padding. */
export function takeFaceCrop(photo: Photo, alignment: Alignment): Picture {
  const size = alignment.cropSize[0];
  const corners = quad(alignment);
  let side = Math.hypot(corners[1]![0] - corners[0]![0], corners[1]![1] - corners[0]![1]);
  const first = Math.max(roundHalfEven(0.1 * side), 3);
  const [xs, ys] = [corners.map(([x]) => x), corners.map(([, y]) => y)];
  const [left, top] = [Math.floor(Math.min(...xs)) - first, Math.floor(Math.min(...ys)) - first];
  const [right, bottom] = [Math.ceil(Math.max(...xs)) + first, Math.ceil(Math.max(...ys)) + first];
  let pads = [-left, -top, right - photo.width, bottom - photo.height].map((pad) => Math.max(pad, 0));
  const clip = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);
  const box: Box = [
    clip(left, 0, photo.width - 1), clip(top, 0, photo.height - 1), clip(right, 1, photo.width), clip(bottom, 1, photo.height),
  ];
  let matrix = compose(shift(-box[0], -box[1]), invertSimilarity(alignment.matrix));
  let part = photoPart(photo, box);
  const shrink = Math.floor((side / size) * 0.5);
  if (shrink > 1) {
    const width = Math.max(1, roundHalfEven(part.width / shrink));
    const height = Math.max(1, roundHalfEven(part.height / shrink));
    matrix = compose(stretch(width / part.width, height / part.height), matrix);
    part = resize(part, width, height);
    pads = pads.map((pad) => pad / shrink);
    side /= shrink;
  }
  const border = Math.max(roundHalfEven(0.1 * side), 3);
  if (Math.max(...pads) > border - 4) {
    pads = pads.map((pad) => Math.max(roundHalfEven(pad), roundHalfEven(0.3 * side)));
    part = fadeToMedian(padByReflection(part, pads), pads, 0.02 * side);
    matrix = compose(shift(pads[0]!, pads[1]!), matrix);
  }
  return rounded(resample(part, matrix, size, size));
}

function padByReflection(source: Picture, [left, top, right, bottom]: number[]): Picture {
  const padded = picture(source.width + left! + right!, source.height + top! + bottom!, 3);
  for (let y = 0, to = 0; y < padded.height; y++) {
    const line = reflect(y - top!, source.height) * source.width;
    for (let x = 0; x < padded.width; x++) {
      const from = (line + reflect(x - left!, source.width)) * 3;
      for (let channel = 0; channel < 3; channel++) padded.data[to++] = source.data[from + channel]!;
    }
  }
  return padded;
}

/** Blur the padding, and a third of its width inside, and fade it to the median colour at the outer border. */
function fadeToMedian(source: Picture, pads: number[], sigma: number): Picture {
  const [left, top, right, bottom] = pads.map((pad) => Math.max(pad, 1)) as Box;
  const { width, height, data } = source;
  const blurred = gaussianBlur(source, sigma).data;
  const outward = (x: number, y: number): number =>
    Math.max(1 - Math.min(x / left, (width - 1 - x) / right), 1 - Math.min(y / top, (height - 1 - y) / bottom));
  const unit = (value: number): number => Math.min(1, Math.max(0, value));
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 3) {
      const share = unit(3 * outward(x, y) + 1);
      if (share === 0) continue;
      for (let channel = at; channel < at + 3; channel++) data[channel]! += (blurred[channel]! - data[channel]!) * share;
    }
  }
  const median = [0, 1, 2].map((channel) => medianOf(source, channel));
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 3) {
      const share = unit(outward(x, y));
      if (share === 0) continue;
      for (let channel = 0; channel < 3; channel++) data[at + channel]! += (median[channel]! - data[at + channel]!) * share;
    }
  }
  return source;
}

function medianOf(source: Picture, channel: number): number {
  const values = new Float32Array(source.width * source.height);
  for (let index = 0; index < values.length; index++) values[index] = source.data[index * 3 + channel]!;
  values.sort();
  const middle = values.length >> 1;
  return values.length % 2 ? values[middle]! : (values[middle - 1]! + values[middle]!) / 2;
}

function gaussianBlur(source: Picture, sigma: number): Picture {
  const radius = Math.max(1, Math.ceil(4 * sigma));
  const kernel = Float64Array.from({ length: 2 * radius + 1 }, (_, index) =>
    Math.exp(-0.5 * ((index - radius) / Math.max(sigma, 1e-6)) ** 2));
  const sum = kernel.reduce((total, value) => total + value, 0);
  const { width, height, data } = source;
  const [wide, result] = [picture(width, height, 3), picture(width, height, 3)];
  for (let tap = -radius; tap <= radius; tap++) {
    const weight = kernel[tap + radius]! / sum;
    for (let x = 0; x < width; x++) {
      const from = reflect(x + tap, width);
      for (let y = 0; y < height; y++) {
        const [to, at] = [(y * width + x) * 3, (y * width + from) * 3];
        for (let channel = 0; channel < 3; channel++) wide.data[to + channel]! += weight * data[at + channel]!;
      }
    }
  }
  const line = width * 3;
  for (let tap = -radius; tap <= radius; tap++) {
    const weight = kernel[tap + radius]! / sum;
    for (let y = 0; y < height; y++) {
      const [to, at] = [y * line, reflect(y + tap, height) * line];
      for (let x = 0; x < line; x++) result.data[to + x]! += weight * wide.data[at + x]!;
    }
  }
  return result;
}

/** The photo with `crop - reference` added, smoothly enlarged, within a soft border. */
export function pasteDifference(photo: Photo, crop: Picture, reference: Picture, alignment: Alignment): Photo {
  const pasted = { width: photo.width, height: photo.height, data: photo.data.slice() };
  const corners = quad(alignment);
  const low = [0, 1].map((axis) => Math.max(0, Math.floor(Math.min(...corners.map((corner) => corner[axis]!)))));
  const high = [0, 1].map((axis) =>
    Math.min(alignment.photoSize[axis]!, Math.ceil(Math.max(...corners.map((corner) => corner[axis]!)))));
  const [left, top, right, bottom] = [...low, ...high] as Box;
  if (left >= right || top >= bottom) return pasted;
  const change = picture(crop.width, crop.height, 3);
  for (let index = 0; index < change.data.length; index++) change.data[index] = crop.data[index]! - reference.data[index]!;
  if (change.data.every((value) => value === 0)) return pasted;
  const matrix = compose(
    stretch(crop.width / alignment.cropSize[0], crop.height / alignment.cropSize[1]),
    compose(alignment.matrix, shift(left, top)),
  );
  const sampler = new Sampler(change, matrix, right - left, bottom - top);
  for (let y = top; y < bottom; y += TILE) {
    for (let x = left; x < right; x += TILE) {
      const tile: Box = [x, y, Math.min(x + TILE, right), Math.min(y + TILE, bottom)];
      if (isOutside(alignment, tile)) continue;
      addTile(pasted, sampler.sample([tile[0] - left, tile[1] - top, tile[2] - left, tile[3] - top]), alignment, tile);
    }
  }
  return pasted;
}

/** Whether no pixel of a box lies in the crop. */
function isOutside(alignment: Alignment, [left, top, right, bottom]: Box): boolean {
  const corners = [left + 0.5, right - 0.5].flatMap((x) => [top + 0.5, bottom - 0.5].map((y) => apply(alignment.matrix, [x, y])));
  return [0, 1].some((axis) =>
    corners.every((corner) => corner[axis]! <= 0) || corners.every((corner) => corner[axis]! >= alignment.cropSize[axis]!));
}

function addTile(photo: Photo, change: Picture, alignment: Alignment, [left, top, right, bottom]: Box): void {
  const border = FEATHER * alignment.cropSize[0];
  const [[a, b, c], [d, e, f]] = alignment.matrix;
  const [width, height] = alignment.cropSize;
  const smooth = (position: number, length: number): number => {
    const ramp = Math.min(1, Math.max(0, Math.min(position, length - position) / border));
    return ramp * ramp * (3 - 2 * ramp);
  };
  for (let y = top, from = 0; y < bottom; y++) {
    for (let x = left; x < right; x++, from += 3) {
      const weight = smooth(a * (x + 0.5) + b * (y + 0.5) + c, width) * smooth(d * (x + 0.5) + e * (y + 0.5) + f, height);
      const to = (y * photo.width + x) * 4;
      // On white, a colour shows in proportion to its opacity.
      const opacity = photo.data[to + 3]! / 255;
      if (weight === 0 || opacity === 0) continue;
      for (let channel = 0; channel < 3; channel++) {
        photo.data[to + channel] = photo.data[to + channel]! + (change.data[from + channel]! * weight) / opacity; // rounded and clipped by its array
      }
    }
  }
}
