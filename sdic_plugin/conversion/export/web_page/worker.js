// src/site.ts
function isFaceTemplate(template) {
  return template !== null && "rule" in template;
}

// src/geometry.ts
var MOUTH_DISTANCE = 1.1, MIN_EYE_DISTANCE = 1e-3, ALIGNED = 0.1;
function apply(matrix, [x, y]) {
  let [[a, b, c], [d, e, f]] = matrix;
  return [a * x + b * y + c, d * x + e * y + f];
}
function compose(outer, inner) {
  let [[a, b, c], [d, e, f]] = outer, [[g, h, i], [j, k, l]] = inner;
  return [
    [a * g + b * j, a * h + b * k, a * i + b * l + c],
    [d * g + e * j, d * h + e * k, d * i + e * l + f]
  ];
}
var shift = (x, y) => [[1, 0, x], [0, 1, y]], stretch = (x, y) => [[x, 0, 0], [0, y, 0]];
function invertSimilarity([[a, , c], [b, , f]]) {
  let scale = a * a + b * b, [p, q] = [a / scale, b / scale];
  return [[p, q, -p * c - q * f], [-q, p, q * c - p * f]];
}
function quad(alignment) {
  let [width, height] = alignment.cropSize, back = invertSimilarity(alignment.matrix);
  return [[0, 0], [width, 0], [width, height], [0, height]].map((corner) => apply(back, corner));
}
function scaled(alignment, [width, height]) {
  let [oldWidth, oldHeight] = alignment.photoSize, scale = oldWidth >= oldHeight ? width / oldWidth : height / oldHeight;
  return { matrix: compose(alignment.matrix, stretch(1 / scale, 1 / scale)), cropSize: alignment.cropSize, photoSize: [width, height] };
}
function alignMiddle([photoWidth, photoHeight], cropSize) {
  let [width, height] = cropSize, scale = Math.max(width / photoWidth, height / photoHeight), [x, y] = [(width - photoWidth * scale) / 2, (height - photoHeight * scale) / 2];
  return { matrix: [[scale, 0, x], [0, scale, y]], cropSize, photoSize: [photoWidth, photoHeight] };
}
function similarity([real, imaginary], [x, y]) {
  return [[real, -imaginary, x], [imaginary, real, y]];
}
function alignTwoPoints(left, right, template, cropSize, photoSize) {
  let [width, height] = cropSize, toPixels = ([x, y]) => [x * width, y * height], [targetLeft, targetRight] = [toPixels(template.left_eye), toPixels(template.right_eye)], turn = divide(minus(targetRight, targetLeft), minus(right, left)), origin = minus(targetLeft, times(turn, left));
  return { matrix: similarity(turn, origin), cropSize, photoSize };
}
function landmarksFromEyes(leftEye, rightEye) {
  let across = minus(rightEye, leftEye), mouth = [
    (leftEye[0] + rightEye[0]) / 2 - MOUTH_DISTANCE * across[1],
    (leftEye[1] + rightEye[1]) / 2 + MOUTH_DISTANCE * across[0]
  ], half = [0.4 * across[0], 0.4 * across[1]];
  return { leftEye, rightEye, leftMouth: minus(mouth, half), rightMouth: [mouth[0] + half[0], mouth[1] + half[1]] };
}
function alignFace(marks, template, size, photoSize) {
  let middle = (first, second) => [(first[0] + second[0]) / 2, (first[1] + second[1]) / 2], eyes = middle(marks.leftEye, marks.rightEye), across = minus(marks.rightEye, marks.leftEye), down = minus(middle(marks.leftMouth, marks.rightMouth), eyes), direction = [across[0] + down[1], across[1] - down[0]], length = Math.hypot(...direction);
  if (length < MIN_EYE_DISTANCE) return null;
  let reach = Math.max(template.eye_scale * Math.hypot(...across), template.mouth_scale * Math.hypot(...down)), half = [direction[0] / length * reach, direction[1] / length * reach], centre = [eyes[0] + template.shift * down[0], eyes[1] + template.shift * down[1]], turn = divide([size / 2, 0], half), corner = [centre[0] - half[0] + half[1], centre[1] - half[1] - half[0]], [x, y] = times(turn, corner);
  return { matrix: similarity(turn, [-x, -y]), cropSize: [size, size], photoSize };
}
function alignEyes(eyes, template, cropSize, photoSize) {
  let [left, right] = [...eyes].sort((first, second) => first[0] - second[0]);
  return Math.hypot(...minus(left, right)) < MIN_EYE_DISTANCE ? null : isFaceTemplate(template) ? alignFace(landmarksFromEyes(left, right), template, cropSize[0], photoSize) : alignTwoPoints(left, right, template, cropSize, photoSize);
}
function isAligned(alignment) {
  let [width, height] = alignment.photoSize, corners = [[0, 0], [width, 0], [width, height], [0, height]], far = quad(alignment).flatMap((point, index) => minus(point, corners[index]).map(Math.abs));
  return Math.max(...far) <= ALIGNED * Math.max(width, height);
}
function minus(first, second) {
  return [first[0] - second[0], first[1] - second[1]];
}
function times([a, b], [c, d]) {
  return [a * c - b * d, a * d + b * c];
}
function divide([a, b], [c, d]) {
  let length = c * c + d * d;
  return [(a * c + b * d) / length, (b * c - a * d) / length];
}

// src/resampling.ts
var SUPERSAMPLING = 3, MIN_ENLARGEMENT = 2, MAX_ENLARGEMENT = 8, sinc = (x) => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x), LANCZOS = { support: 3, weight: (x) => x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0 }, TRIANGLE = { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) }, CUBIC = {
  support: 2,
  weight: (x) => {
    let d = Math.abs(x);
    return d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
  }
};
function picture(width, height, channels) {
  return { width, height, channels, data: new Float32Array(width * height * channels) };
}
function photoPart(photo2, [left, top, right, bottom]) {
  let part = picture(right - left, bottom - top, 3), to = 0;
  for (let y = top; y < bottom; y++)
    for (let from = (y * photo2.width + left) * 4, end = from + part.width * 4; from < end; from += 4) {
      let alpha = photo2.data[from + 3];
      for (let channel = 0; channel < 3; channel++) {
        let value = photo2.data[from + channel];
        part.data[to++] = alpha === 255 ? value : Math.round(255 + (value - 255) * alpha / 255);
      }
    }
  return part;
}
function picturePart(source, [left, top, right, bottom]) {
  let part = picture(right - left, bottom - top, source.channels);
  for (let y = 0; y < part.height; y++) {
    let from = ((y + top) * source.width + left) * source.channels;
    part.data.set(source.data.subarray(from, from + part.width * part.channels), y * part.width * part.channels);
  }
  return part;
}
var FIXED_POINT = 2 ** -22;
function resizeWeights(from, to, { kernel, span = from, isEightBit = !1 }) {
  let scale = span / to, filterScale = Math.max(scale, 1), support = kernel.support * filterScale, longest = Math.ceil(support) * 2 + 1, weights = { first: new Int32Array(to), count: new Int32Array(to), values: new Float64Array(to * longest), longest };
  for (let index = 0; index < to; index++) {
    let centre = (index + 0.5) * scale, first = Math.max(0, Math.trunc(centre - support + 0.5)), last2 = Math.min(from, Math.trunc(centre + support + 0.5)), sum = 0;
    for (let x = first; x < last2; x++) {
      let weight = kernel.weight((x - centre + 0.5) / filterScale);
      weights.values[index * longest + x - first] = weight, sum += weight;
    }
    for (let x = 0; x < last2 - first; x++) {
      let weight = weights.values[index * longest + x] / (sum || 1), whole = Math.sign(weight) * Math.floor(Math.abs(weight) / FIXED_POINT + 0.5);
      weights.values[index * longest + x] = isEightBit ? whole * FIXED_POINT : weight;
    }
    weights.first[index] = first, weights.count[index] = last2 - first;
  }
  return weights;
}
function resize(source, width, height, kernel) {
  if (source.width === width && source.height === height) return source;
  let chosen = kernel ?? (width < source.width ? LANCZOS : CUBIC), wide = source.width === width ? source : resizeAcross(source, width, { kernel: chosen });
  return wide.height === height ? wide : resizeDown(wide, height, { kernel: chosen });
}
function resizeEightBit(source, width, height, kernel) {
  return resizeSpan(source, width, height, kernel, source.width, source.height);
}
function resizeSpan(source, width, height, kernel, spanX, spanY) {
  let wide = spanX === width ? source : resizeAcross(source, width, { kernel, span: spanX, isEightBit: !0 });
  return spanY === height ? wide : resizeDown(wide, height, { kernel, span: spanY, isEightBit: !0 });
}
var eightBit = (value) => Math.min(255, Math.max(0, Math.floor(value + 0.5)));
function resizeAcross(source, width, resizing) {
  let { channels } = source, { first, count, values, longest } = resizeWeights(source.width, width, resizing), result = picture(width, source.height, channels);
  for (let y = 0, to = 0; y < source.height; y++)
    for (let x = 0; x < width; x++) {
      let start = (y * source.width + first[x]) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let tap = 0; tap < count[x]; tap++)
          sum += values[x * longest + tap] * source.data[start + tap * channels + channel];
        result.data[to++] = resizing.isEightBit ? eightBit(sum) : sum;
      }
    }
  return result;
}
function resizeDown(source, height, resizing) {
  let { first, count, values, longest } = resizeWeights(source.height, height, resizing), result = picture(source.width, height, source.channels), line = source.width * source.channels, sums = new Float64Array(line);
  for (let y = 0; y < height; y++) {
    sums.fill(0);
    for (let tap = 0; tap < count[y]; tap++) {
      let weight = values[y * longest + tap], start = (first[y] + tap) * line;
      for (let x = 0; x < line; x++) sums[x] += weight * source.data[start + x];
    }
    result.data.set(resizing.isEightBit ? sums.map(eightBit) : sums, y * line);
  }
  return result;
}
function scalePhoto(photo2, width, height) {
  let factor = (from, to) => Math.max(1, Math.trunc(from / to / 2)), [across, down] = [factor(photo2.width, width), factor(photo2.height, height)], reduced = reduce(photo2, across, down);
  return resizeSpan(reduced, width, height, TRIANGLE, photo2.width / across, photo2.height / down);
}
function reduce(photo2, across, down, part = [0, 0, photo2.width, photo2.height]) {
  let [left, first, right, last2] = part, reduced = picture(Math.ceil((right - left) / across), Math.ceil((last2 - first) / down), 3), counts = new Uint32Array(reduced.width * reduced.height), rows = 256;
  for (let top = first; top < last2; top += rows) {
    let strip = photoPart(photo2, [left, top, right, Math.min(top + rows, last2)]);
    for (let y = 0, from = 0; y < strip.height; y++) {
      let line = Math.floor((top - first + y) / down) * reduced.width;
      for (let x = 0; x < strip.width; x++, from += 3) {
        let to = line + Math.floor(x / across);
        counts[to]++;
        for (let channel = 0; channel < 3; channel++) reduced.data[to * 3 + channel] += strip.data[from + channel];
      }
    }
  }
  for (let index = 0; index < reduced.data.length; index++) {
    let count = counts[Math.floor(index / 3)];
    reduced.data[index] = Math.floor((reduced.data[index] + Math.floor(count / 2)) * Math.floor(2 ** 24 / count) / 2 ** 24);
  }
  return reduced;
}
function transformInto(target, source, [[a, b, c], [d, e, f]]) {
  let { width, height, channels, data } = source;
  for (let row = 0, to = 0; row < target.height; row++)
    for (let column = 0; column < target.width; column++, to += channels) {
      let [x, y] = [a * (column + 0.5) + b * (row + 0.5) + c, d * (column + 0.5) + e * (row + 0.5) + f];
      if (x < 0 || x >= width || y < 0 || y >= height) continue;
      let [left, top] = [Math.floor(x - 0.5), Math.floor(y - 0.5)], [dx, dy] = [x - 0.5 - left, y - 0.5 - top], [x0, x1] = [Math.max(left, 0), Math.min(left + 1, width - 1)], [upper, lower] = [Math.max(top, 0) * width, Math.min(top + 1, height - 1) * width];
      for (let channel = 0; channel < channels; channel++) {
        let at = (line, index) => data[(line + index) * channels + channel], above = at(upper, x0) + (at(upper, x1) - at(upper, x0)) * dx, below = at(lower, x0) + (at(lower, x1) - at(lower, x0)) * dx;
        target.data[to + channel] = Math.trunc(above + (below - above) * dy);
      }
    }
}
function rounded(source) {
  for (let index = 0; index < source.data.length; index++)
    source.data[index] = Math.min(255, Math.max(0, Math.round(source.data[index])));
  return source;
}
function reflect(index, length) {
  let folded = (index % (2 * length) + 2 * length) % (2 * length);
  return folded < length ? folded : 2 * length - 1 - folded;
}
function stepOf([[a, b], [c, d]]) {
  return Math.sqrt(Math.abs(a * d - b * c));
}
function isWholeShift([[a, b, c], [d, e, f]]) {
  let near = (value, wanted) => Math.abs(value - wanted) <= 1e-6, whole = (value) => near(value, Math.floor(value));
  return near(a, 1) && near(b, 0) && near(d, 0) && near(e, 1) && whole(c) && whole(f);
}
function chooseScale(matrix) {
  let step = stepOf(matrix);
  return step > 1 + 1e-6 ? { shrinks: !0, scale: Math.min(1, SUPERSAMPLING / step) } : { shrinks: !1, scale: isWholeShift(matrix) ? 1 : Math.min(Math.max(1 / step, MIN_ENLARGEMENT), MAX_ENLARGEMENT) };
}
function neededBox([fullWidth, fullHeight], matrix, width, height) {
  let corners = [apply(matrix, [0, 0]), apply(matrix, [width, 0]), apply(matrix, [width, height]), apply(matrix, [0, height])], margin = 4 + Math.ceil(8 * stepOf(matrix)), range = (values, length) => {
    let [low, high] = [Math.floor(Math.min(...values)) - margin, Math.ceil(Math.max(...values)) + margin], [first, last2] = [length, -1];
    for (let index = low; index < high; index++) {
      let folded = reflect(index, length);
      first = Math.min(first, folded), last2 = Math.max(last2, folded);
    }
    return [first, last2 + 1];
  }, [left, right] = range(corners.map(([x]) => x), fullWidth), [top, bottom] = range(corners.map(([, y]) => y), fullHeight);
  return [left, top, right, bottom];
}
function rescale(source, matrix, scale) {
  let width = Math.max(1, roundHalfEven(source.width * scale)), height = Math.max(1, roundHalfEven(source.height * scale));
  return [resize(source, width, height), compose(stretch(width / source.width, height / source.height), matrix)];
}
function roundHalfEven(value) {
  let low = Math.floor(value);
  return value - low !== 0.5 ? Math.round(value) : low % 2 === 0 ? low : low + 1;
}
var Sampler = class {
  source;
  matrix;
  shrinks;
  /** `matrix` takes coordinates of the output, width x height, to those of the picture. */
  constructor(source, matrix, width, height) {
    let { shrinks, scale } = chooseScale(matrix), box = neededBox([source.width, source.height], matrix, width, height), part = "channels" in source ? picturePart(source, box) : photoPart(source, box);
    [this.source, this.matrix] = rescale(part, compose(shift(-box[0], -box[1]), matrix), scale), this.shrinks = shrinks;
  }
  sample([left, top, right, bottom]) {
    let matrix = compose(this.matrix, shift(left, top)), [width, height] = [right - left, bottom - top];
    return this.shrinks ? average(this.source, matrix, width, height) : warp(this.source, matrix, width, height);
  }
};
function resample(source, matrix, width, height) {
  return new Sampler(source, matrix, width, height).sample([0, 0, width, height]);
}
function average(source, matrix, width, height) {
  let dense = compose(matrix, [[1 / SUPERSAMPLING, 0, -3], [0, 1 / SUPERSAMPLING, -3]]), [wide, high] = [width + 6, height + 6], sampled = resize(warp(source, dense, wide * SUPERSAMPLING, high * SUPERSAMPLING), wide, high);
  return picturePart(sampled, [3, 3, 3 + width, 3 + height]);
}
function warp(source, [[a, b, c], [d, e, f]], width, height) {
  let { channels, data } = source, result = picture(width, height, channels), columns = new Int32Array(4), rows = new Float64Array(4 * channels);
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0; x < width; x++, to += channels) {
      let [left, top] = [a * (x + 0.5) + b * (y + 0.5) + c - 0.5, d * (x + 0.5) + e * (y + 0.5) + f - 0.5], [column, row] = [Math.floor(left), Math.floor(top)];
      for (let tap = 0; tap < 4; tap++) columns[tap] = reflect(column - 1 + tap, source.width) * channels;
      for (let tap = 0; tap < 4; tap++) {
        let line = reflect(row - 1 + tap, source.height) * source.width * channels, [first, second, third, fourth] = [line + columns[0], line + columns[1], line + columns[2], line + columns[3]];
        for (let channel = 0; channel < channels; channel++)
          rows[channel * 4 + tap] = cubic(
            data[first + channel],
            data[second + channel],
            data[third + channel],
            data[fourth + channel],
            left - column
          );
      }
      for (let channel = 0; channel < channels; channel++) {
        let at = channel * 4;
        result.data[to + channel] = cubic(rows[at], rows[at + 1], rows[at + 2], rows[at + 3], top - row);
      }
    }
  return result;
}
function cubic(first, second, third, fourth, t) {
  let linear = -first + third, square = 2 * (first - second) + third - fourth, cube = -first + second - third + fourth;
  return second + t * (linear + t * (square + t * cube));
}

// src/crops.ts
var FEATHER = 0.08, TILE = 512, GREY = 127;
function takeCrop(photo2, alignment) {
  return rounded(resample(photo2, invertSimilarity(alignment.matrix), ...alignment.cropSize));
}
function cutWindow(photo2, alignment) {
  let [[a, ,], [d, ,]] = invertSimilarity(alignment.matrix), step = Math.hypot(a, d), [shrink, grow] = [Math.max(1, Math.trunc(step)), Math.max(1, roundHalfEven(1 / step))], corners = quad(alignment), ends = [photo2.width, photo2.height].map((length, axis) => {
    let values = corners.map((corner) => corner[axis]), [low, high] = [Math.floor(Math.min(...values)) - 2 * shrink, Math.ceil(Math.max(...values)) + 2 * shrink];
    return [Math.max(low, 0), Math.min(high, length)];
  }), [[left, right], [top, bottom]] = ends, window = picture(...alignment.cropSize, 3);
  if (window.data.fill(GREY), left >= right || top >= bottom) return window;
  let part = reduce(photo2, shrink, shrink, [left, top, right, bottom]);
  grow > 1 && (part = resizeEightBit(part, part.width * grow, part.height * grow, CUBIC));
  let toPart = compose(stretch(grow / shrink, grow / shrink), shift(-left, -top));
  return transformInto(window, part, compose(toPart, invertSimilarity(alignment.matrix))), window;
}
function takeMiddle(photo2, [width, height]) {
  let boxWidth = Math.max(1, Math.min(photo2.width, roundHalfEven(photo2.height * width / height))), boxHeight = Math.max(1, Math.min(photo2.height, roundHalfEven(photo2.width * height / width))), [left, top] = [Math.floor((photo2.width - boxWidth) / 2), Math.floor((photo2.height - boxHeight) / 2)], part = photoPart(photo2, [left, top, left + boxWidth, top + boxHeight]);
  return resizeEightBit(part, width, height, LANCZOS);
}
function takeFaceCrop(photo2, alignment) {
  let size = alignment.cropSize[0], corners = quad(alignment), side = Math.hypot(corners[1][0] - corners[0][0], corners[1][1] - corners[0][1]), first = Math.max(roundHalfEven(0.1 * side), 3), [xs, ys] = [corners.map(([x]) => x), corners.map(([, y]) => y)], [left, top] = [Math.floor(Math.min(...xs)) - first, Math.floor(Math.min(...ys)) - first], [right, bottom] = [Math.ceil(Math.max(...xs)) + first, Math.ceil(Math.max(...ys)) + first], pads = [-left, -top, right - photo2.width, bottom - photo2.height].map((pad) => Math.max(pad, 0)), clip = (value, low, high) => Math.min(Math.max(value, low), high), box = [
    clip(left, 0, photo2.width - 1),
    clip(top, 0, photo2.height - 1),
    clip(right, 1, photo2.width),
    clip(bottom, 1, photo2.height)
  ], matrix = compose(shift(-box[0], -box[1]), invertSimilarity(alignment.matrix)), part = photoPart(photo2, box), shrink = Math.floor(side / size * 0.5);
  if (shrink > 1) {
    let width = Math.max(1, roundHalfEven(part.width / shrink)), height = Math.max(1, roundHalfEven(part.height / shrink));
    matrix = compose(stretch(width / part.width, height / part.height), matrix), part = resize(part, width, height), pads = pads.map((pad) => pad / shrink), side /= shrink;
  }
  let border = Math.max(roundHalfEven(0.1 * side), 3);
  return Math.max(...pads) > border - 4 && (pads = pads.map((pad) => Math.max(roundHalfEven(pad), roundHalfEven(0.3 * side))), part = fadeToMedian(padByReflection(part, pads), pads, 0.02 * side), matrix = compose(shift(pads[0], pads[1]), matrix)), rounded(resample(part, matrix, size, size));
}
function padByReflection(source, [left, top, right, bottom]) {
  let padded = picture(source.width + left + right, source.height + top + bottom, 3);
  for (let y = 0, to = 0; y < padded.height; y++) {
    let line = reflect(y - top, source.height) * source.width;
    for (let x = 0; x < padded.width; x++) {
      let from = (line + reflect(x - left, source.width)) * 3;
      for (let channel = 0; channel < 3; channel++) padded.data[to++] = source.data[from + channel];
    }
  }
  return padded;
}
function fadeToMedian(source, pads, sigma) {
  let [left, top, right, bottom] = pads.map((pad) => Math.max(pad, 1)), { width, height, data } = source, blurred = gaussianBlur(source, sigma).data, outward = (x, y) => Math.max(1 - Math.min(x / left, (width - 1 - x) / right), 1 - Math.min(y / top, (height - 1 - y) / bottom)), unit = (value) => Math.min(1, Math.max(0, value));
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at += 3) {
      let share = unit(3 * outward(x, y) + 1);
      if (share !== 0)
        for (let channel = at; channel < at + 3; channel++) data[channel] += (blurred[channel] - data[channel]) * share;
    }
  let median = [0, 1, 2].map((channel) => medianOf(source, channel));
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at += 3) {
      let share = unit(outward(x, y));
      if (share !== 0)
        for (let channel = 0; channel < 3; channel++) data[at + channel] += (median[channel] - data[at + channel]) * share;
    }
  return source;
}
function medianOf(source, channel) {
  let values = new Float32Array(source.width * source.height);
  for (let index = 0; index < values.length; index++) values[index] = source.data[index * 3 + channel];
  values.sort();
  let middle = values.length >> 1;
  return values.length % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}
function gaussianBlur(source, sigma) {
  let radius = Math.max(1, Math.ceil(4 * sigma)), kernel = Float64Array.from({ length: 2 * radius + 1 }, (_, index) => Math.exp(-0.5 * ((index - radius) / Math.max(sigma, 1e-6)) ** 2)), sum = kernel.reduce((total, value) => total + value, 0), { width, height, data } = source, [wide, result] = [picture(width, height, 3), picture(width, height, 3)];
  for (let tap = -radius; tap <= radius; tap++) {
    let weight = kernel[tap + radius] / sum;
    for (let x = 0; x < width; x++) {
      let from = reflect(x + tap, width);
      for (let y = 0; y < height; y++) {
        let [to, at] = [(y * width + x) * 3, (y * width + from) * 3];
        for (let channel = 0; channel < 3; channel++) wide.data[to + channel] += weight * data[at + channel];
      }
    }
  }
  let line = width * 3;
  for (let tap = -radius; tap <= radius; tap++) {
    let weight = kernel[tap + radius] / sum;
    for (let y = 0; y < height; y++) {
      let [to, at] = [y * line, reflect(y + tap, height) * line];
      for (let x = 0; x < line; x++) result.data[to + x] += weight * wide.data[at + x];
    }
  }
  return result;
}
function pasteDifference(photo2, crop, reference, alignment) {
  let pasted = { width: photo2.width, height: photo2.height, data: photo2.data.slice() }, corners = quad(alignment), low = [0, 1].map((axis) => Math.max(0, Math.floor(Math.min(...corners.map((corner) => corner[axis]))))), high = [0, 1].map((axis) => Math.min(alignment.photoSize[axis], Math.ceil(Math.max(...corners.map((corner) => corner[axis]))))), [left, top, right, bottom] = [...low, ...high];
  if (left >= right || top >= bottom) return pasted;
  let change = picture(crop.width, crop.height, 3);
  for (let index = 0; index < change.data.length; index++) change.data[index] = crop.data[index] - reference.data[index];
  if (change.data.every((value) => value === 0)) return pasted;
  let matrix = compose(
    stretch(crop.width / alignment.cropSize[0], crop.height / alignment.cropSize[1]),
    compose(alignment.matrix, shift(left, top))
  ), sampler = new Sampler(change, matrix, right - left, bottom - top);
  for (let y = top; y < bottom; y += TILE)
    for (let x = left; x < right; x += TILE) {
      let tile = [x, y, Math.min(x + TILE, right), Math.min(y + TILE, bottom)];
      isOutside(alignment, tile) || addTile(pasted, sampler.sample([tile[0] - left, tile[1] - top, tile[2] - left, tile[3] - top]), alignment, tile);
    }
  return pasted;
}
function isOutside(alignment, [left, top, right, bottom]) {
  let corners = [left + 0.5, right - 0.5].flatMap((x) => [top + 0.5, bottom - 0.5].map((y) => apply(alignment.matrix, [x, y])));
  return [0, 1].some((axis) => corners.every((corner) => corner[axis] <= 0) || corners.every((corner) => corner[axis] >= alignment.cropSize[axis]));
}
function addTile(photo2, change, alignment, [left, top, right, bottom]) {
  let border = FEATHER * alignment.cropSize[0], [[a, b, c], [d, e, f]] = alignment.matrix, [width, height] = alignment.cropSize, smooth = (position, length) => {
    let ramp = Math.min(1, Math.max(0, Math.min(position, length - position) / border));
    return ramp * ramp * (3 - 2 * ramp);
  };
  for (let y = top, from = 0; y < bottom; y++)
    for (let x = left; x < right; x++, from += 3) {
      let weight = smooth(a * (x + 0.5) + b * (y + 0.5) + c, width) * smooth(d * (x + 0.5) + e * (y + 0.5) + f, height), to = (y * photo2.width + x) * 4, opacity = photo2.data[to + 3] / 255;
      if (!(weight === 0 || opacity === 0))
        for (let channel = 0; channel < 3; channel++)
          photo2.data[to + channel] = photo2.data[to + channel] + change.data[from + channel] * weight / opacity;
    }
}

// src/faces.ts
var SEARCHES = [[640, [0, 1, 2, 3]], [1280, [0]], [256, [0]]], TURN_GAIN = 0.05, MARGIN = 0.25, MIN_SCORE = 0.6, OVERLAP = 0.3, STRIDES = [8, 16, 32], WINDOW_SIZE = 320, WINDOW_FACE = 128, LOOKS = 6, LOOK_TILT = 20 * Math.PI / 180, FaceDetector = class {
  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
  }
  ort;
  session;
  /** The faces in a photo, from the left to the right; none if there is none. */
  async detect(photo2) {
    for (let [side, turns] of SEARCHES) {
      let scale = side / Math.max(photo2.width, photo2.height), [width, height] = [photo2.width, photo2.height].map((length) => Math.max(1, roundHalfEven(length * scale))), small = scalePhoto(photo2, width, height), searches = [];
      for (let turn of turns) searches.push(await this.search(small, [photo2.width, photo2.height], turn));
      let best = (faces3) => Math.max(0, ...faces3.map(({ score }) => score)), turned = searches.reduce((first, second) => best(second) > best(first) ? second : first), candidates = best(turned) > best(searches[0]) + TURN_GAIN ? turned : searches[0], faces2 = [];
      for (let candidate of candidates) {
        let face2 = await this.lookAgain(photo2, candidate);
        face2 && faces2.push(face2);
      }
      if (faces2.length) {
        let across = ({ landmarks }) => landmarks.leftEye[0] + landmarks.rightEye[0];
        return faces2.sort((first, second) => across(first) - across(second));
      }
    }
    return [];
  }
  /** Search a small copy of the photo, turned counter-clockwise by quarter turns. */
  async search(small, photoSize, turns) {
    let [stretchX, stretchY] = [photoSize[0] / small.width, photoSize[1] / small.height], turned = small;
    for (let turn = 0; turn < turns; turn++) turned = quarterTurn(turned);
    let border = roundHalfEven(MARGIN * Math.max(small.width, small.height)), faces2 = [];
    for (let { points, box, score } of await this.run(withBorder(turned, border))) {
      let back = points.map(([x, y]) => {
        let [u, v] = turnBack([x - border, y - border], [turned.width, turned.height], turns);
        return [u * stretchX, v * stretchY];
      });
      [0, 1].map((axis) => (back[0][axis] + back[1][axis]) / 2).every((value, axis) => value >= 0 && value <= photoSize[axis]) && faces2.push(face(back, Math.max(box[2], box[3]) * Math.max(stretchX, stretchY), score));
    }
    return faces2;
  }
  /** Find a face's landmarks in windows turned until the face is upright; null if it is no face then. */
  async lookAgain(photo2, found) {
    for (let look = 0; look < LOOKS; look++) {
      let seen = [];
      for (let tilt of [-LOOK_TILT, LOOK_TILT]) {
        let one = await this.look(photo2, found, tilt);
        one && seen.push(one);
      }
      if (!seen.length) return null;
      let mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length, points = [0, 1, 2, 3, 4].map((index) => [0, 1].map((axis) => mean(seen.map((each) => each.points[index][axis]))));
      found = face(points, mean(seen.map(({ size }) => size)), Math.max(...seen.map(({ score }) => score)));
    }
    return found;
  }
  async look(photo2, found, tilt) {
    let alignment = windowAbout(found, [photo2.width, photo2.height], tilt), rows = await this.run(cutWindow(photo2, alignment));
    if (!rows.length) return null;
    let off = ({ points }) => Math.hypot(...[0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / 5 - WINDOW_SIZE / 2)), nearest = rows.reduce((first, second) => off(second) < off(first) ? second : first), back = invertSimilarity(alignment.matrix), size = Math.max(nearest.box[2], nearest.box[3]) * found.size / WINDOW_FACE;
    return { points: nearest.points.map((point) => apply(back, point)), size, score: nearest.score };
  }
  /** Run YuNet on RGB pixels in [0, 255]. */
  async run(pixels) {
    let [width, height] = [Math.ceil(pixels.width / 32) * 32, Math.ceil(pixels.height / 32) * 32], input = new Float32Array(3 * width * height);
    for (let y = 0, from = 0; y < pixels.height; y++)
      for (let x = 0; x < pixels.width; x++, from += 3)
        for (let channel = 0; channel < 3; channel++)
          input[((2 - channel) * height + y) * width + x] = pixels.data[from + channel];
    let results = await this.session.run({ input: new this.ort.Tensor("float32", input, [1, 3, height, width]) }), found = [];
    for (let stride of STRIDES) {
      let [cls, obj, bbox, kps] = ["cls", "obj", "bbox", "kps"].map((name) => results[`${name}_${stride}`].data), columns = width / stride, unit = (value) => Math.min(1, Math.max(0, value));
      for (let cell = 0; cell < cls.length; cell++) {
        let score = Math.sqrt(unit(cls[cell]) * unit(obj[cell]));
        if (score < MIN_SCORE) continue;
        let [column, row] = [cell % columns, Math.floor(cell / columns)], [x, y] = [(column + bbox[cell * 4]) * stride, (row + bbox[cell * 4 + 1]) * stride], [w, h] = [Math.exp(bbox[cell * 4 + 2]) * stride, Math.exp(bbox[cell * 4 + 3]) * stride], points = [0, 1, 2, 3, 4].map((index) => [(kps[cell * 10 + 2 * index] + column) * stride, (kps[cell * 10 + 2 * index + 1] + row) * stride]);
        found.push({ points, box: [x - w / 2, y - h / 2, w, h], score });
      }
    }
    return withoutOverlaps(found);
  }
};
function withoutOverlaps(found) {
  let kept = [];
  for (let each of found.sort((first, second) => second.score - first.score))
    kept.every((other) => overlap(each.box, other.box) <= OVERLAP) && kept.push(each);
  return kept;
}
function overlap(first, second) {
  let [x1, y1, w1, h1] = first.map(Math.trunc), [x2, y2, w2, h2] = second.map(Math.trunc), width = Math.max(0, Math.min(x1 + w1, x2 + w2) - Math.max(x1, x2)), height = Math.max(0, Math.min(y1 + h1, y2 + h2) - Math.max(y1, y2));
  return width * height / (w1 * h1 + w2 * h2 - width * height);
}
function face(points, size, score) {
  let [leftEye, rightEye, , leftMouth, rightMouth] = points;
  return { landmarks: { leftEye, rightEye, leftMouth, rightMouth }, size, score };
}
function windowAbout({ landmarks, size }, photoSize, tilt) {
  let { leftEye, rightEye, leftMouth, rightMouth } = landmarks, middle = [0, 1].map((axis) => (leftEye[axis] + rightEye[axis] + leftMouth[axis] + rightMouth[axis]) / 4), angle = Math.atan2(rightEye[1] - leftEye[1], rightEye[0] - leftEye[0]) + tilt, half = size / WINDOW_FACE * WINDOW_SIZE / 2, [dx, dy] = [Math.cos(angle) * half, Math.sin(angle) * half], edges = { left_eye: [0, 0.5], right_eye: [1, 0.5] }, [left, right] = [[middle[0] - dx, middle[1] - dy], [middle[0] + dx, middle[1] + dy]];
  return alignTwoPoints(left, right, edges, [WINDOW_SIZE, WINDOW_SIZE], photoSize);
}
function quarterTurn({ width, height, channels, data }) {
  let turned = { width: height, height: width, channels, data: new Float32Array(data.length) };
  for (let y = 0, to = 0; y < width; y++)
    for (let x = 0; x < height; x++) {
      let from = (x * width + (width - 1 - y)) * channels;
      for (let channel = 0; channel < channels; channel++) turned.data[to++] = data[from + channel];
    }
  return turned;
}
function turnBack(point, [width, height], turns) {
  for (let turn = 0; turn < turns; turn++)
    point = [height - point[1], point[0]], [width, height] = [height, width];
  return point;
}
function withBorder({ width, height, channels, data }, border) {
  let padded = { width: width + 2 * border, height: height + 2 * border, channels, data: new Float32Array() };
  padded.data = new Float32Array(padded.width * padded.height * channels).fill(GREY);
  for (let y = 0; y < height; y++) {
    let line = data.subarray(y * width * channels, (y + 1) * width * channels);
    padded.data.set(line, ((y + border) * padded.width + border) * channels);
  }
  return padded;
}

// src/runtime.ts
async function loadRuntime(runtime, provider, binary) {
  let ort = await import(new URL(runtime[provider].module, self.location.href).href);
  return ort.env.logLevel = "error", ort.env.wasm.wasmBinary = binary, ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1, ort;
}
function openSession(ort, graph, provider) {
  let options = {
    executionProviders: [provider],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3
    // errors
  };
  return ort.InferenceSession.create(new Uint8Array(graph), options);
}
async function unpack(content) {
  let [first, second] = new Uint8Array(content, 0, 2);
  if (first !== 31 || second !== 139) return content;
  let stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// src/networks.ts
var Networks = class {
  constructor(ort, site2, provider) {
    this.ort = ort;
    this.site = site2;
    this.provider = provider;
  }
  ort;
  site;
  provider;
  sessions = /* @__PURE__ */ new Map();
  packed = {};
  /** Graphs that WebGPU cannot run, such as DIPN's with convolutions of volumes; WebAssembly runs them. */
  fallen = /* @__PURE__ */ new Set();
  directions = new Float32Array();
  known = /* @__PURE__ */ new Map();
  /** Open every graph; `packed` holds the contents of the files. */
  async open(packed, opened) {
    this.provider === "webgpu" && (this.packed = packed);
    for (let [name, { file }] of Object.entries(this.site.graphs))
      this.sessions.set(name, await openSession(this.ort, await unpack(packed[file]), this.provider)), opened();
    this.directions = new Float32Array(await unpack(packed[this.site.edits.file]));
  }
  /** Invert a crop; edits start from what this finds. */
  async invert(crop) {
    let { width, height, data } = crop, image = new Float32Array(3 * width * height);
    for (let pixel = 0; pixel < width * height; pixel++)
      for (let channel = 0; channel < 3; channel++)
        image[channel * width * height + pixel] = data[pixel * 3 + channel] / 127.5 - 1;
    let known = /* @__PURE__ */ new Map([["image", { data: image, dims: [1, 3, height, width] }]]);
    await this.follow(this.site.invert, known), this.known = known;
  }
  /** Render the inversion with edits, in pixels [0, 255], rounded. */
  async render(strengths, compensation) {
    let known = new Map(this.known), latents = known.get("compensated_latents");
    known.set("edited_latents", { data: this.edited(latents.data, strengths), dims: latents.dims });
    let isEdited = Object.values(strengths).some((strength) => strength !== 0);
    return this.site.feature_edit === "official" && isEdited && known.set("reference_features", known.get("features")), known.set("weight", filled(compensation, this.site.graphs.generator.inputs.weight)), await this.follow(this.site.render, known), toPicture(known.get("output"), this.site.output_rows);
  }
  edited(latents, strengths) {
    let edited = latents.slice();
    return this.site.edits.list.forEach(({ name }, row) => {
      let strength = strengths[name] ?? 0;
      if (strength !== 0)
        for (let i = 0; i < edited.length; i++) edited[i] += strength * this.directions[row * edited.length + i];
    }), edited;
  }
  async follow(steps, known) {
    for (let { graph, inputs, outputs } of steps) {
      let shapes = this.site.graphs[graph].inputs, feeds = Object.fromEntries(Object.entries(inputs).map(([name, value]) => {
        let { data, dims } = typeof value == "string" ? known.get(value) : filled(value, shapes[name]);
        return [name, new this.ort.Tensor("float32", data, dims)];
      })), results = await this.run(graph, feeds, Object.keys(outputs));
      for (let [name, own] of Object.entries(outputs)) {
        let { data, dims } = results[name];
        known.set(own, { data, dims });
      }
    }
  }
  async run(graph, feeds, outputs) {
    let session = this.sessions.get(graph);
    try {
      return await session.run(feeds, outputs);
    } catch (error) {
      if (this.provider === "wasm" || this.fallen.has(graph)) throw error;
      this.fallen.add(graph), await session.release();
      let opened = await openSession(this.ort, await unpack(this.packed[this.site.graphs[graph].file]), "wasm");
      return this.sessions.set(graph, opened), opened.run(feeds, outputs);
    }
  }
};
function filled(value, shape) {
  let count = shape.reduce((product, length) => product * length, 1);
  return { data: new Float32Array(count).fill(value), dims: [1, ...shape] };
}
function toPicture({ data, dims }, [first, last2]) {
  let [height, width] = [dims[2], dims[3]], result = picture(width, last2 - first, 3);
  for (let channel = 0; channel < 3; channel++)
    for (let pixel = 0; pixel < width * (last2 - first); pixel++) {
      let value = data[(channel * height + first) * width + pixel];
      result.data[pixel * 3 + channel] = Math.round(Math.min(1, Math.max(0, value / 2 + 0.5 || 0)) * 255);
    }
  return result;
}

// src/worker.ts
var site, networks, detector = null, photo, preview, faces = [], handlers = {
  async open({ site: given, files, provider, pictures }) {
    site = given;
    let binary = await unpack(files[site.runtime[provider].binary.file]), ort = await loadRuntime(site.runtime, provider, binary), opened = 0;
    networks = new Networks(ort, site, provider), await networks.open(files, () => self.postMessage({ opened: ++opened })), pictures && site.detector && (detector = new FaceDetector(ort, await openSession(ort, await unpack(files[site.detector.file]), "wasm")));
  },
  async photo(given) {
    return { photo, preview } = given, faces = detector ? await detector.detect(photo) : [], faces;
  },
  async cut({ choice }) {
    return cut(choice);
  },
  async invert({ crop }) {
    let start = performance.now();
    return await networks.invert(crop), { picture: await networks.render({}, 1), milliseconds: performance.now() - start };
  },
  async render({ strengths, compensation }) {
    let start = performance.now();
    return { picture: await networks.render(strengths, compensation), milliseconds: performance.now() - start };
  },
  async paste({ edited, inverted, alignment, full }) {
    let whole = full ? photo : preview;
    return pasteDifference(whole, edited, inverted, scaled(alignment, [whole.width, whole.height]));
  }
};
function cut(choice) {
  let [height, width] = site.image_size, [cropSize, photoSize] = [[width, height], [photo.width, photo.height]], middle = (wasAligned) => ({ crop: takeMiddle(photo, cropSize), alignment: alignMiddle(photoSize, cropSize), wasAligned }), { alignment: template } = site;
  if (choice === "middle" || template === null) return middle(!1);
  if (!("face" in choice)) {
    let alignment2 = alignEyes(choice.eyes, template, cropSize, photoSize);
    return alignment2 && { crop: take(alignment2), alignment: alignment2, wasAligned: !1 };
  }
  if (!isFaceTemplate(template)) return null;
  let alignment = alignFace(faces[choice.face].landmarks, template, width, photoSize);
  return alignment && isAligned(alignment) ? middle(!0) : alignment && { crop: take(alignment), alignment, wasAligned: !1 };
}
function take(alignment) {
  return isFaceTemplate(site.alignment) ? takeFaceCrop(photo, alignment) : takeCrop(photo, alignment);
}
var last = Promise.resolve();
self.onmessage = ({ data: { id, kind, ask } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, answer: await handlers[kind](ask) });
    } catch (error) {
      self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
};
