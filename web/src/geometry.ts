/**
 * Where a crop lies in its photo, as `sdic_plugin.images.alignment` and `face_alignment` say it.
 *
 * Coordinates are continuous: pixel (0, 0) covers [0, 1) x [0, 1). "Left" is the viewer's.
 */

import type { EyeTemplate, FaceTemplate, Template } from "./site";
import { isFaceTemplate } from "./site";

export type Point = [number, number];
export type Size = [width: number, height: number];
/** x' = a x + b y + c, y' = d x + e y + f. */
export type Matrix = [[number, number, number], [number, number, number]];

export interface Alignment {
  /** Photo to crop, in pixels of both. */
  matrix: Matrix;
  cropSize: Size;
  photoSize: Size;
}

export interface Landmarks {
  leftEye: Point;
  rightEye: Point;
  leftMouth: Point;
  rightMouth: Point;
}

/** Assumed distance from eyes to mouth, in distances between the eyes, where only the eyes are known. */
const MOUTH_DISTANCE = 1.1;
/** Points that are nearer to each other count as one. */
const MIN_EYE_DISTANCE = 1e-3;
/** A crop of a face whose corners are no further from the photo's, as a share of its side, is the photo itself. */
const ALIGNED = 0.1;

export function apply(matrix: Matrix, [x, y]: Point): Point {
  const [[a, b, c], [d, e, f]] = matrix;
  return [a * x + b * y + c, d * x + e * y + f];
}

/** The transform that applies `inner` first. */
export function compose(outer: Matrix, inner: Matrix): Matrix {
  const [[a, b, c], [d, e, f]] = outer;
  const [[g, h, i], [j, k, l]] = inner;
  return [
    [a * g + b * j, a * h + b * k, a * i + b * l + c],
    [d * g + e * j, d * h + e * k, d * i + e * l + f],
  ];
}

export const shift = (x: number, y: number): Matrix => [[1, 0, x], [0, 1, y]];
export const stretch = (x: number, y: number): Matrix => [[x, 0, 0], [0, y, 0]];

export function invertSimilarity([[a, , c], [b, , f]]: Matrix): Matrix {
  const scale = a * a + b * b;
  const [p, q] = [a / scale, b / scale];
  return [[p, q, -p * c - q * f], [-q, p, q * c - p * f]];
}

/** The crop's corners in the photo: top left, top right, bottom right, bottom left. */
export function quad(alignment: Alignment): Point[] {
  const [width, height] = alignment.cropSize;
  const back = invertSimilarity(alignment.matrix);
  return ([[0, 0], [width, 0], [width, height], [0, height]] as Point[]).map((corner) => apply(back, corner));
}

/** The same crop in a smaller or larger copy of the photo. */
export function scaled(alignment: Alignment, [width, height]: Size): Alignment {
  const [oldWidth, oldHeight] = alignment.photoSize;
  const scale = oldWidth >= oldHeight ? width / oldWidth : height / oldHeight; // the shorter is rounded more
  const matrix = compose(alignment.matrix, stretch(1 / scale, 1 / scale));
  return { matrix, cropSize: alignment.cropSize, photoSize: [width, height] };
}

/** The largest part of the photo about its middle. */
export function alignMiddle([photoWidth, photoHeight]: Size, cropSize: Size): Alignment {
  const [width, height] = cropSize;
  const scale = Math.max(width / photoWidth, height / photoHeight);
  const [x, y] = [(width - photoWidth * scale) / 2, (height - photoHeight * scale) / 2];
  return { matrix: [[scale, 0, x], [0, scale, y]], cropSize, photoSize: [photoWidth, photoHeight] };
}

/** The similarity that takes (x, y) to turn * (x, y) + shift, as complex numbers. */
function similarity([real, imaginary]: Point, [x, y]: Point): Matrix {
  return [[real, -imaginary, x], [imaginary, real, y]];
}

export function alignTwoPoints(
  left: Point, right: Point, template: EyeTemplate, cropSize: Size, photoSize: Size,
): Alignment {
  const [width, height] = cropSize;
  const toPixels = ([x, y]: Point): Point => [x * width, y * height];
  const [targetLeft, targetRight] = [toPixels(template.left_eye), toPixels(template.right_eye)];
  const turn = divide(minus(targetRight, targetLeft), minus(right, left));
  const origin = minus(targetLeft, times(turn, left));
  return { matrix: similarity(turn, origin), cropSize, photoSize };
}

/** Guess the mouth of a face seen from the front. */
export function landmarksFromEyes(leftEye: Point, rightEye: Point): Landmarks {
  const across = minus(rightEye, leftEye);
  const mouth: Point = [
    (leftEye[0] + rightEye[0]) / 2 - MOUTH_DISTANCE * across[1],
    (leftEye[1] + rightEye[1]) / 2 + MOUTH_DISTANCE * across[0],
  ];
  const half: Point = [0.4 * across[0], 0.4 * across[1]];
  return { leftEye, rightEye, leftMouth: minus(mouth, half), rightMouth: [mouth[0] + half[0], mouth[1] + half[1]] };
}

/** FFHQ's rule; null of landmarks that are no face. */
export function alignFace(
  marks: Landmarks, template: FaceTemplate, size: number, photoSize: Size,
): Alignment | null {
  const middle = (first: Point, second: Point): Point => [(first[0] + second[0]) / 2, (first[1] + second[1]) / 2];
  const eyes = middle(marks.leftEye, marks.rightEye);
  const across = minus(marks.rightEye, marks.leftEye);
  const down = minus(middle(marks.leftMouth, marks.rightMouth), eyes);
  const direction: Point = [across[0] + down[1], across[1] - down[0]];
  const length = Math.hypot(...direction);
  if (length < MIN_EYE_DISTANCE) return null;
  const reach = Math.max(template.eye_scale * Math.hypot(...across), template.mouth_scale * Math.hypot(...down));
  const half: Point = [(direction[0] / length) * reach, (direction[1] / length) * reach];
  const centre: Point = [eyes[0] + template.shift * down[0], eyes[1] + template.shift * down[1]];
  const turn = divide([size / 2, 0], half);
  const corner: Point = [centre[0] - half[0] + half[1], centre[1] - half[1] - half[0]];
  const [x, y] = times(turn, corner);
  return { matrix: similarity(turn, [-x, -y]), cropSize: [size, size], photoSize };
}

/** Align by the eyes alone, whichever kind of template; null if both are at one place. */
export function alignEyes(eyes: [Point, Point], template: Template, cropSize: Size, photoSize: Size): Alignment | null {
  const [left, right] = [...eyes].sort((first, second) => first[0] - second[0]) as [Point, Point];
  if (Math.hypot(...minus(left, right)) < MIN_EYE_DISTANCE) return null;
  if (!isFaceTemplate(template)) return alignTwoPoints(left, right, template, cropSize, photoSize);
  return alignFace(landmarksFromEyes(left, right), template, cropSize[0], photoSize);
}

/** Whether a face's crop is the photo itself, which was aligned before. */
export function isAligned(alignment: Alignment): boolean {
  const [width, height] = alignment.photoSize;
  const corners: Point[] = [[0, 0], [width, 0], [width, height], [0, height]];
  const far = quad(alignment).flatMap((point, index) => minus(point, corners[index]!).map(Math.abs));
  return Math.max(...far) <= ALIGNED * Math.max(width, height);
}

function minus(first: Point, second: Point): Point {
  return [first[0] - second[0], first[1] - second[1]];
}

function times([a, b]: Point, [c, d]: Point): Point {
  return [a * c - b * d, a * d + b * c];
}

function divide([a, b]: Point, [c, d]: Point): Point {
  const length = c * c + d * d;
  return [(a * c + b * d) / length, (b * c - a * d) / length];
}
