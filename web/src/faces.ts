/** Finding faces with YuNet, as `sdic_plugin.images.face_detection` and OpenCV's FaceDetectorYN do. */

import type { Alignment, Landmarks, Point, Size } from "./geometry";
import { alignTwoPoints, apply, invertSimilarity } from "./geometry";
import { cutWindow, GREY } from "./crops";
import type { Photo, Picture } from "./resampling";
import { roundHalfEven, scalePhoto } from "./resampling";
import type { OrtModule, Session } from "./runtime";

export interface Face {
  landmarks: Landmarks;
  /** Side of its box, in pixels of the photo. */
  size: number;
  score: number;
}

interface Found {
  /** Eyes, nose and mouth corners, the viewer's left of each pair first. */
  points: Point[];
  box: [x: number, y: number, width: number, height: number];
  score: number;
}

/** Longer side and quarter turns at which a photo is searched, until a face is found. */
const SEARCHES: [number, number[]][] = [[640, [0, 1, 2, 3]], [1280, [0]], [256, [0]]];
/** How much higher the confidence of a search in a turned photo must be to count. */
const TURN_GAIN = 0.05;
/** Grey border around the photo, as a share of its longer side, so that a face that fills it is found. */
const MARGIN = 0.25;
const MIN_SCORE = 0.6;
const OVERLAP = 0.3;
const STRIDES = [8, 16, 32];
/** Sides of the upright window in which a found face is looked at again, and of the face in it. */
const WINDOW_SIZE = 320;
const WINDOW_FACE = 128;
const LOOKS = 6;
const LOOK_TILT = (20 * Math.PI) / 180;

export class FaceDetector {
  constructor(private readonly ort: OrtModule, private readonly session: Session) {}

  /** The faces in a photo, from the left to the right; none if there is none. */
  async detect(photo: Photo): Promise<Face[]> {
    for (const [side, turns] of SEARCHES) {
      const scale = side / Math.max(photo.width, photo.height);
      const [width, height] = [photo.width, photo.height].map((length) => Math.max(1, roundHalfEven(length * scale))) as Size;
      const small = scalePhoto(photo, width, height);
      const searches: Face[][] = [];
      for (const turn of turns) searches.push(await this.search(small, [photo.width, photo.height], turn));
      const best = (faces: Face[]): number => Math.max(0, ...faces.map(({ score }) => score));
      const turned = searches.reduce((first, second) => (best(second) > best(first) ? second : first));
      const candidates = best(turned) > best(searches[0]!) + TURN_GAIN ? turned : searches[0]!;
      const faces: Face[] = [];
      for (const candidate of candidates) {
        const face = await this.lookAgain(photo, candidate);
        if (face) faces.push(face);
      }
      if (faces.length) {
        const across = ({ landmarks }: Face): number => landmarks.leftEye[0] + landmarks.rightEye[0];
        return faces.sort((first, second) => across(first) - across(second));
      }
    }
    return [];
  }

  /** Search a small copy of the photo, turned counter-clockwise by quarter turns. */
  private async search(small: Picture, photoSize: Size, turns: number): Promise<Face[]> {
    const [stretchX, stretchY] = [photoSize[0] / small.width, photoSize[1] / small.height];
    let turned = small;
    for (let turn = 0; turn < turns; turn++) turned = quarterTurn(turned);
    const border = roundHalfEven(MARGIN * Math.max(small.width, small.height));
    const faces: Face[] = [];
    for (const { points, box, score } of await this.run(withBorder(turned, border))) {
      const back = points.map(([x, y]) => {
        const [u, v] = turnBack([x - border, y - border], [turned.width, turned.height], turns);
        return [u * stretchX, v * stretchY] as Point;
      });
      const middle = [0, 1].map((axis) => (back[0]![axis]! + back[1]![axis]!) / 2) as Point;
      const inside = middle.every((value, axis) => value >= 0 && value <= photoSize[axis]!);
      if (inside) faces.push(face(back, Math.max(box[2], box[3]) * Math.max(stretchX, stretchY), score));
    }
    return faces;
  }

  /** Find a face's landmarks in windows turned until the face is upright; null if it is no face then. */
  private async lookAgain(photo: Photo, found: Face): Promise<Face | null> {
    for (let look = 0; look < LOOKS; look++) {
      const seen: { points: Point[]; size: number; score: number }[] = [];
      for (const tilt of [-LOOK_TILT, LOOK_TILT]) {
        const one = await this.look(photo, found, tilt);
        if (one) seen.push(one);
      }
      if (!seen.length) return null;
      const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
      const points = [0, 1, 2, 3, 4].map((index) =>
        [0, 1].map((axis) => mean(seen.map((each) => each.points[index]![axis]!))) as Point);
      found = face(points, mean(seen.map(({ size }) => size)), Math.max(...seen.map(({ score }) => score)));
    }
    return found;
  }

  private async look(photo: Photo, found: Face, tilt: number): Promise<{ points: Point[]; size: number; score: number } | null> {
    const alignment = windowAbout(found, [photo.width, photo.height], tilt);
    const rows = await this.run(cutWindow(photo, alignment));
    if (!rows.length) return null;
    const off = ({ points }: Found): number =>
      Math.hypot(...[0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis]!, 0) / 5 - WINDOW_SIZE / 2));
    const nearest = rows.reduce((first, second) => (off(second) < off(first) ? second : first));
    const back = invertSimilarity(alignment.matrix);
    const size = (Math.max(nearest.box[2], nearest.box[3]) * found.size) / WINDOW_FACE;
    return { points: nearest.points.map((point) => apply(back, point)), size, score: nearest.score };
  }

  /** Run YuNet on RGB pixels in [0, 255]. */
  private async run(pixels: Picture): Promise<Found[]> {
    const [width, height] = [Math.ceil(pixels.width / 32) * 32, Math.ceil(pixels.height / 32) * 32];
    const input = new Float32Array(3 * width * height);
    for (let y = 0, from = 0; y < pixels.height; y++) {
      for (let x = 0; x < pixels.width; x++, from += 3) {
        for (let channel = 0; channel < 3; channel++) {
          input[((2 - channel) * height + y) * width + x] = pixels.data[from + channel]!; // blue first
        }
      }
    }
    const results = await this.session.run({ input: new this.ort.Tensor("float32", input, [1, 3, height, width]) });
    const found: Found[] = [];
    for (const stride of STRIDES) {
      const [cls, obj, bbox, kps] = ["cls", "obj", "bbox", "kps"].map((name) => results[`${name}_${stride}`]!.data as Float32Array);
      const columns = width / stride;
      const unit = (value: number): number => Math.min(1, Math.max(0, value));
      for (let cell = 0; cell < cls!.length; cell++) {
        const score = Math.sqrt(unit(cls![cell]!) * unit(obj![cell]!));
        if (score < MIN_SCORE) continue;
        const [column, row] = [cell % columns, Math.floor(cell / columns)];
        const [x, y] = [(column + bbox![cell * 4]!) * stride, (row + bbox![cell * 4 + 1]!) * stride];
        const [w, h] = [Math.exp(bbox![cell * 4 + 2]!) * stride, Math.exp(bbox![cell * 4 + 3]!) * stride];
        const points = [0, 1, 2, 3, 4].map((index): Point =>
          [(kps![cell * 10 + 2 * index]! + column) * stride, (kps![cell * 10 + 2 * index + 1]! + row) * stride]);
        found.push({ points, box: [x - w / 2, y - h / 2, w, h], score });
      }
    }
    return withoutOverlaps(found);
  }
}

/** Of boxes that overlap much, the surest. */
function withoutOverlaps(found: Found[]): Found[] {
  const kept: Found[] = [];
  for (const each of found.sort((first, second) => second.score - first.score)) {
    if (kept.every((other) => overlap(each.box, other.box) <= OVERLAP)) kept.push(each);
  }
  return kept;
}

function overlap(first: Found["box"], second: Found["box"]): number {
  const [x1, y1, w1, h1] = first.map(Math.trunc) as Found["box"];
  const [x2, y2, w2, h2] = second.map(Math.trunc) as Found["box"];
  const width = Math.max(0, Math.min(x1 + w1, x2 + w2) - Math.max(x1, x2));
  const height = Math.max(0, Math.min(y1 + h1, y2 + h2) - Math.max(y1, y2));
  return (width * height) / (w1 * h1 + w2 * h2 - width * height);
}

function face(points: Point[], size: number, score: number): Face {
  const [leftEye, rightEye, , leftMouth, rightMouth] = points as [Point, Point, Point, Point, Point];
  return { landmarks: { leftEye, rightEye, leftMouth, rightMouth }, size, score };
}

/** A window about the face, in which it is upright but for `tilt`, in radians. */
function windowAbout({ landmarks, size }: Face, photoSize: Size, tilt: number): Alignment {
  const { leftEye, rightEye, leftMouth, rightMouth } = landmarks;
  const middle = [0, 1].map((axis) => (leftEye[axis]! + rightEye[axis]! + leftMouth[axis]! + rightMouth[axis]!) / 4);
  const angle = Math.atan2(rightEye[1] - leftEye[1], rightEye[0] - leftEye[0]) + tilt;
  const half = ((size / WINDOW_FACE) * WINDOW_SIZE) / 2;
  const [dx, dy] = [Math.cos(angle) * half, Math.sin(angle) * half];
  const edges = { left_eye: [0, 0.5] as Point, right_eye: [1, 0.5] as Point }; // the window's own left and right edge
  const [left, right]: [Point, Point] = [[middle[0]! - dx, middle[1]! - dy], [middle[0]! + dx, middle[1]! + dy]];
  return alignTwoPoints(left, right, edges, [WINDOW_SIZE, WINDOW_SIZE], photoSize);
}

/** Turn counter-clockwise. */
function quarterTurn({ width, height, channels, data }: Picture): Picture {
  const turned = { width: height, height: width, channels, data: new Float32Array(data.length) };
  for (let y = 0, to = 0; y < width; y++) {
    for (let x = 0; x < height; x++) {
      const from = (x * width + (width - 1 - y)) * channels;
      for (let channel = 0; channel < channels; channel++) turned.data[to++] = data[from + channel]!;
    }
  }
  return turned;
}

function turnBack(point: Point, [width, height]: Size, turns: number): Point {
  for (let turn = 0; turn < turns; turn++) {
    point = [height - point[1], point[0]];
    [width, height] = [height, width];
  }
  return point;
}

function withBorder({ width, height, channels, data }: Picture, border: number): Picture {
  const padded = { width: width + 2 * border, height: height + 2 * border, channels, data: new Float32Array() };
  padded.data = new Float32Array(padded.width * padded.height * channels).fill(GREY);
  for (let y = 0; y < height; y++) {
    const line = data.subarray(y * width * channels, (y + 1) * width * channels);
    padded.data.set(line, ((y + border) * padded.width + border) * channels);
  }
  return padded;
}
