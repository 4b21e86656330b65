// src/site.ts
var FORMAT = "sdic-web-1";
function isFaceTemplate(template) {
  return template !== null && "rule" in template;
}

// src/engine.ts
var SAME_PICTURE = 1, DownloadError = class extends Error {
}, Helper = class {
  constructor(opened = () => {
  }) {
    this.opened = opened;
    this.worker.onmessage = ({ data }) => {
      if ("opened" in data) return this.opened(data.opened);
      let { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id), "error" in data ? reject(new Error(data.error)) : resolve(data.answer);
    }, this.worker.onerror = (event) => {
      for (let { reject } of this.waiting.values()) reject(new Error(event.message || "the worker could not start"));
      this.waiting.clear();
    };
  }
  opened;
  worker = new Worker(new URL("worker.js", document.baseURI), { type: "module" });
  waiting = /* @__PURE__ */ new Map();
  next = 0;
  ask(kind, ask, transfer = []) {
    let message = { id: this.next++, kind, ask };
    return new Promise((resolve, reject) => {
      this.waiting.set(message.id, { resolve, reject }), this.worker.postMessage(message, transfer);
    });
  }
  stop() {
    this.worker.terminate();
  }
}, Engine = class _Engine {
  constructor(site, files, opened) {
    this.site = site;
    this.files = files;
    this.main = this.networks = new Helper(opened);
  }
  site;
  files;
  main;
  /** The one that runs the networks: `main`, or WebGPU's. */
  networks;
  gpu = null;
  trial = null;
  crop = null;
  inverted = null;
  report = { provider: "wasm", milliseconds: 0, webgpu: null };
  static async load(progress) {
    let site = await (await fetched("site.json")).json();
    if (site.format !== FORMAT) throw new DownloadError("site.json is of another version than the page");
    let wanted = [...Object.values(site.graphs), site.edits, site.runtime.wasm.binary];
    site.detector && wanted.push(site.detector);
    let files = await download(wanted, (done, total) => progress(done, total, "bytes")), count = Object.keys(site.graphs).length, engine = new _Engine(site, files, (opened) => progress(opened, count, "graphs"));
    return await engine.main.ask("open", { site, files, provider: "wasm", pictures: !0 }), engine;
  }
  photo(photo, preview) {
    return this.crop = this.inverted = null, this.main.ask("photo", { photo, preview }, [photo.data.buffer]);
  }
  cut(choice) {
    return this.main.ask("cut", { choice });
  }
  async invert(crop) {
    [this.crop, this.inverted] = [crop, null];
    let answer = await this.withFallback((networks) => networks.ask("invert", { crop }));
    return this.crop === crop && (this.inverted = answer.picture), answer;
  }
  async render(strengths, compensation) {
    let answer = await this.withFallback((networks) => networks.ask("render", { strengths, compensation }));
    return this.report.milliseconds = answer.milliseconds, answer.picture;
  }
  paste(edited, inverted, alignment, full) {
    return this.main.ask("paste", { edited, inverted, alignment, full });
  }
  /**
   * Try WebGPU, once, with the crop that was inverted last; it takes over if its pictures are the same and come sooner.
   *
   * Ends when the trial has ended, whoever began it.
   */
  async tryWebGPU(preference2) {
    let { crop, inverted } = this;
    preference2 !== "wasm" && crop && inverted && (this.trial ??= this.compareWebGPU(preference2, crop, inverted)), await this.trial;
  }
  async compareWebGPU(preference2, crop, inverted) {
    let { site } = this;
    try {
      if (!await hasAdapter()) throw new Error("the browser offers no graphics card");
      Object.assign(this.files, await download([site.runtime.webgpu.binary]));
      let gpu = this.gpu = new Helper();
      await gpu.ask("open", { site, files: this.files, provider: "webgpu", pictures: !1 });
      let found = (await gpu.ask("invert", { crop })).picture, edit = { strengths: Object.fromEntries(site.edits.list.slice(0, 1).map((edit2) => [edit2.name, edit2.default])), compensation: 1 }, [own, other] = [await this.main.ask("render", edit), await gpu.ask("render", edit)], again = [await this.main.ask("render", edit), await gpu.ask("render", edit)], difference = Math.max(meanDifference(found, inverted), meanDifference(other.picture, own.picture));
      this.report.webgpu = { difference, milliseconds: again[1].milliseconds }, this.report.milliseconds = again[0].milliseconds;
      let quicker = again[1].milliseconds < again[0].milliseconds;
      if (difference > SAME_PICTURE || !(quicker || preference2 === "webgpu")) return this.leaveWebGPU();
      for (let known = crop; known !== this.crop; )
        known = this.crop, known && await gpu.ask("invert", { crop: known });
      this.networks = gpu, this.report.provider = "webgpu", this.report.milliseconds = again[1].milliseconds;
    } catch (error) {
      this.report.webgpu = { failed: error instanceof Error ? error.message : String(error) }, this.leaveWebGPU();
    }
  }
  leaveWebGPU() {
    this.gpu?.stop(), this.gpu = null, this.networks = this.main, this.report.provider = "wasm";
  }
  /** Ask again without WebGPU, should it fail: a graphics card can be lost at any time. */
  async withFallback(ask) {
    try {
      return await ask(this.networks);
    } catch (error) {
      if (this.networks === this.main) throw error;
      return this.report.webgpu = { failed: error instanceof Error ? error.message : String(error) }, this.leaveWebGPU(), this.crop && await this.main.ask("invert", { crop: this.crop }), ask(this.main);
    }
  }
};
async function hasAdapter() {
  let { gpu } = navigator;
  return !!(gpu && await gpu.requestAdapter());
}
function meanDifference(first, second) {
  let sum = 0;
  for (let index = 0; index < first.data.length; index++) sum += Math.abs(first.data[index] - second.data[index]);
  return sum / first.data.length;
}
async function fetched(file) {
  let response;
  try {
    response = await fetch(new URL(file, document.baseURI));
  } catch {
    throw new DownloadError(`${file} cannot be reached`);
  }
  if (!response.ok) throw new DownloadError(`the server answered ${response.status} for ${file}`);
  return response;
}
async function download(wanted, progress = () => {
}) {
  let total = wanted.reduce((sum, { bytes }) => sum + bytes, 0), received = /* @__PURE__ */ new Map(), one = async ({ file, bytes }) => {
    let reader = (await fetched(file)).body.getReader(), parts = [];
    for (; ; ) {
      let { done, value } = await reader.read().catch(() => {
        throw new DownloadError(`${file} broke off`);
      });
      if (done) break;
      parts.push(value), received.set(file, Math.min(bytes, (received.get(file) ?? 0) + value.length)), progress([...received.values()].reduce((sum, count) => sum + count, 0), total);
    }
    return [file, await new Blob(parts).arrayBuffer()];
  };
  return Object.fromEntries(await Promise.all(wanted.map(one)));
}

// src/geometry.ts
var MOUTH_DISTANCE = 1.1, MIN_EYE_DISTANCE = 1e-3;
function apply(matrix, [x, y]) {
  let [[a, b, c], [d, e, f]] = matrix;
  return [a * x + b * y + c, d * x + e * y + f];
}
function invertSimilarity([[a, , c], [b, , f]]) {
  let scale = a * a + b * b, [p, q] = [a / scale, b / scale];
  return [[p, q, -p * c - q * f], [-q, p, q * c - p * f]];
}
function quad(alignment) {
  let [width, height] = alignment.cropSize, back = invertSimilarity(alignment.matrix);
  return [[0, 0], [width, 0], [width, height], [0, height]].map((corner) => apply(back, corner));
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

// src/marks.ts
var STEP = 0.01, FINE_STEP = 2e-3, FACE_EYES = [[0.385, 0.48], [0.615, 0.48]], Marks = class {
  constructor(view, handles, frame) {
    this.view = view;
    this.handles = handles;
    this.frame = frame;
    view.addEventListener("pointerdown", (event) => this.press(event)), handles.forEach((handle, index) => handle.addEventListener("keydown", (event) => this.move(index, event)));
  }
  view;
  handles;
  frame;
  photoSize = [1, 1];
  cropSize = [1, 1];
  template = null;
  /** In pixels of the photo. */
  points = [[0, 0], [1, 0]];
  get eyes() {
    return [[...this.points[0]], [...this.points[1]]];
  }
  /** Take a new photo, and put the marks where eyes would be if the photo's middle were a crop. */
  reset(photoSize, cropSize, template) {
    [this.photoSize, this.cropSize, this.template] = [photoSize, cropSize, template];
    let eyes = !template || isFaceTemplate(template) ? FACE_EYES : [template.left_eye, template.right_eye], back = invertSimilarity(alignMiddle(photoSize, cropSize).matrix);
    this.points = eyes.map(([x, y]) => apply(back, [x * cropSize[0], y * cropSize[1]]));
    for (let handle of this.handles) handle.hidden = template === null;
    this.draw();
  }
  /** Show another frame than that of the marks. */
  showFrame(alignment, eyes) {
    eyes && (this.points = eyes), this.draw(alignment);
  }
  draw(alignment) {
    let [width, height] = this.photoSize;
    this.points.forEach(([x, y], index) => {
      let { style } = this.handles[index];
      [style.left, style.top] = [`${100 * x / width}%`, `${100 * y / height}%`];
    }), alignment ??= this.template ? alignEyes(this.points, this.template, this.cropSize, this.photoSize) : null, alignment ??= alignMiddle(this.photoSize, this.cropSize);
    let corners = quad(alignment).map(([x, y]) => `${(1e3 * x / width).toFixed(2)},${(1e3 * y / height).toFixed(2)}`);
    this.frame.setAttribute("points", corners.join(" "));
  }
  press(event) {
    if (!this.template || event.button !== 0) return;
    event.preventDefault();
    let pressed = this.at(event), away = this.points.map(([x, y]) => Math.hypot(x - pressed[0], y - pressed[1])), index = away[0] <= away[1] ? 0 : 1, follow = (moved) => this.place(index, this.at(moved)), end = () => {
      this.view.removeEventListener("pointermove", follow), this.view.removeEventListener("pointerup", end), this.view.removeEventListener("pointercancel", end);
    };
    this.view.setPointerCapture(event.pointerId), this.view.addEventListener("pointermove", follow), this.view.addEventListener("pointerup", end), this.view.addEventListener("pointercancel", end), this.place(index, pressed), this.handles[index].focus({ preventScroll: !0 });
  }
  at(event) {
    let box = this.view.getBoundingClientRect(), [width, height] = this.photoSize;
    return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
  }
  move(index, event) {
    let direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    let step = (event.shiftKey ? FINE_STEP : STEP) * Math.max(...this.photoSize), [x, y] = this.points[index];
    this.place(index, [x + step * direction[0], y + step * direction[1]]);
  }
  place(index, [x, y]) {
    let [width, height] = this.photoSize;
    this.points[index] = [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))], this.draw();
  }
};

// src/photos.ts
var NoPicture = class extends Error {
};
async function readPhoto(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" });
  } catch {
    throw new NoPicture(file.name);
  }
  let scale = Math.min(1, Math.sqrt(16 * 1e6 / (bitmap.width * bitmap.height))), size = [Math.max(1, Math.floor(bitmap.width * scale)), Math.max(1, Math.floor(bitmap.height * scale))], photo = draw(bitmap, size), small = Math.min(1, 1280 / Math.max(...size)), previewSize = size.map((length) => Math.max(1, Math.round(length * small))), preview = small === 1 ? { ...photo, data: photo.data.slice() } : draw(bitmap, previewSize);
  return bitmap.close(), { name: file.name.replace(/\.[^.]*$/, "") || "photo", photo, preview, wasShrunk: scale < 1 };
}
function draw(bitmap, [width, height]) {
  let canvas2 = document.createElement("canvas");
  [canvas2.width, canvas2.height] = [width, height];
  let context = canvas2.getContext("2d", { willReadFrequently: !0 });
  context.imageSmoothingQuality = "high", context.drawImage(bitmap, 0, 0, width, height);
  let { data } = context.getImageData(0, 0, width, height);
  return { width, height, data };
}
function toPhoto({ width, height, data }) {
  let pixels = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let pixel = 0; pixel < width * height; pixel++)
    for (let channel = 0; channel < 3; channel++) pixels[pixel * 4 + channel] = data[pixel * 3 + channel];
  return { width, height, data: pixels };
}
function show(canvas2, { width, height, data }) {
  (canvas2.width !== width || canvas2.height !== height) && ([canvas2.width, canvas2.height] = [width, height]), canvas2.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}
async function save(photo, name) {
  let canvas2 = document.createElement("canvas");
  show(canvas2, photo);
  let blob = await new Promise((resolve) => canvas2.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("the browser could not write the picture");
  let link = document.createElement("a");
  link.href = URL.createObjectURL(blob), link.download = name, link.click(), setTimeout(() => URL.revokeObjectURL(link.href), 6e4);
}

// src/sliders.ts
var Sliders = class {
  inputs = /* @__PURE__ */ new Map();
  constructor(place, edits, changed) {
    let groups = /* @__PURE__ */ new Map();
    edits.forEach((edit, index) => {
      let group = groups.get(edit.group);
      group || (group = element("fieldset", ""), group.append(element("legend", edit.group)), groups.set(edit.group, group), place.append(group)), group.append(this.slider(edit, `edit-${index}`, changed));
    });
  }
  /** Strengths that are not 0. */
  get strengths() {
    let values = [...this.inputs].map(([name, input]) => [name, Number(input.value)]);
    return Object.fromEntries(values.filter(([, value]) => value !== 0));
  }
  reset() {
    for (let input of this.inputs.values()) set(input, 0);
  }
  slider(edit, id, changed) {
    let row = element("div", "");
    row.className = "edit";
    let label = element("label", edit.label);
    label.htmlFor = id;
    let value = element("output", "0"), input = element("input", "");
    if (Object.assign(input, { type: "range", id, ...limits(edit.range), value: "0" }), input.dataset.edit = edit.name, input.addEventListener("input", () => {
      value.textContent = written(Number(input.value)), changed();
    }), this.inputs.set(edit.name, input), row.append(label, value, input), edit.ends) {
      let ends = element("div", "");
      ends.className = "ends", ends.id = `${id}-ends`, ends.append(...edit.ends.map((end) => element("span", end))), input.setAttribute("aria-describedby", ends.id), row.append(ends);
    } else edit.description && (row.title = edit.description);
    return row;
  }
};
function limits([low, high]) {
  let size = Math.floor(Math.log10(Math.max(-low, high))), step = 10 ** size / 20, end = (value, round) => (round(value / step) * step).toFixed(Math.max(0, 2 - size));
  return { min: end(Math.min(low, 0), Math.ceil), max: end(Math.max(high, 0), Math.floor), step: String(+step.toPrecision(6)) };
}
function set(input, value) {
  input.value = String(value);
  let shown = input.parentElement.querySelector("output");
  shown && (shown.textContent = written(Number(input.value)));
}
function written(value) {
  return value === 0 ? "0" : value.toFixed(2).replace(/\.?0+$/, "").replace("-", "−");
}
function element(name, text) {
  let made = document.createElement(name);
  return text && (made.textContent = text), made;
}

// src/texts.ts
var LOADING = "You can choose a photo already; the model is being fetched meanwhile.", STILL_LOADING = "The photo is here; the model is still being fetched.", OPENING = "Opening the networks …", START = "Choose a photo. It stays in this browser: nothing is sent anywhere.", READING = "Reading the photo …", SEARCHING = "Looking for faces …", INVERTING = "Looking at the photo closely. This happens once per photo …", PASTING = "Putting the edit into the whole photo …", DONE = "Done. Move the sliders, and drag the line across the picture to compare.", DONE_ALIGNED = "Done. The photo was taken as it is, as the face in it is placed already.", MARKS = "Put the two marks on the centres of the eyes: drag them, click the eyes, or use the arrow keys. Then start editing. If the face already fills the picture, use the middle instead.", NO_FACE = `No face was found in the photo. ${MARKS}`, MIDDLE = "The frame shows what the model will see.", SAME_PLACE = "Both marks are at one place: put them on two different eyes.", NO_PICTURE = "This file cannot be read as a picture by this browser: choose a JPEG, PNG or WebP file (photos in HEIC open in Safari only).", TOO_LARGE_HERE = "The photo is too large for this browser: make it smaller first.", NOT_LOADED = (reason) => `The model could not be loaded (${reason}): check the connection, then reload the page.`, FAILED = (reason) => `Something went wrong (${reason}). Try again, or choose a smaller photo; if the device is short of memory, close other pages.`, SHRUNK = (megapixels) => ` The photo has more than ${megapixels} megapixels and was made smaller, so the file you save is smaller, too.`, SEVERAL = (count) => `${count} faces were found; the largest was taken. Choose another one below.`, FACE = (number) => `Face ${number}`, SAVED = (name) => `${name} is being saved by the browser.`, PROVIDERS = { wasm: "WebAssembly", webgpu: "the graphics card (WebGPU)" };
function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}

// src/page.ts
var REST = 40, part = (id) => document.getElementById(id), canvas = (id) => part(id), field = (id) => part(id), SIGNS = { info: "i", busy: "…", done: "✓", error: "!" }, Page = class {
  engine;
  sliders = null;
  marks = new Marks(
    part("photo-view"),
    [part("mark-left"), part("mark-right")],
    part("frame")
  );
  chosen = null;
  photoSize = [1, 1];
  faces = [];
  result = null;
  timer = 0;
  inversions = 0;
  isRendering = !1;
  isWaiting = !1;
  /** Counts photos and crops, so that answers about earlier ones are left aside. */
  turn = 0;
  constructor() {
    this.engine = this.load(), this.engine.catch((error) => this.say(NOT_LOADED(reasonOf(error)), "error")), this.listen();
  }
  // Loading.
  async load() {
    this.say(LOADING, "busy");
    let [bar, words] = [part("progress"), part("progress-words")];
    part("loading").hidden = !1;
    try {
      let engine = await Engine.load((done, total, kind) => {
        [bar.max, bar.value] = [total, done], words.textContent = kind === "graphs" ? `${OPENING} ${done} of ${total}` : `${megabytes(done)} of ${megabytes(total)} MB`;
      });
      return this.describe(engine), this.chosen || this.say(START), engine;
    } finally {
      part("loading").hidden = !0;
    }
  }
  describe({ site }) {
    let [height, width] = site.image_size;
    part("model").textContent = `The model ${site.name} draws ${width} × ${height} pixels` + (site.license ? `; licence of its generator: ${site.license}.` : "."), this.sliders = new Sliders(part("edits"), site.edits.list, () => this.schedule()), part("edits").hidden = site.edits.list.length === 0, document.body.dataset.ready = "";
  }
  // The visitor's hands.
  listen() {
    let input = field("file");
    input.addEventListener("change", () => {
      let file = input.files?.[0];
      file && this.open(file), input.value = "";
    }), document.addEventListener("dragover", (event) => event.preventDefault()), document.addEventListener("drop", (event) => {
      event.preventDefault();
      let file = event.dataTransfer?.files[0];
      file && this.open(file);
    }), document.addEventListener("paste", (event) => {
      let file = event.clipboardData?.files[0];
      file && this.open(file);
    }), part("start-editing").addEventListener("click", () => {
      this.take({ eyes: this.marks.eyes });
    }), part("use-middle").addEventListener("click", () => {
      this.take("middle");
    }), part("move-marks").addEventListener("click", () => this.place());
    for (let id of ["another", "another-photo"]) part(id).addEventListener("click", () => input.click());
    part("reset").addEventListener("click", () => {
      this.sliders?.reset(), set(field("compensation"), 1), this.schedule();
    }), field("compensation").addEventListener("input", () => {
      set(field("compensation"), Number(field("compensation").value)), this.schedule();
    });
    for (let radio of document.querySelectorAll("#view input"))
      radio.addEventListener("change", () => {
        this.guard(() => this.showResult());
      });
    let split = field("split");
    split.addEventListener("input", () => part("compare").style.setProperty("--split", `${split.value}%`)), part("download").addEventListener("click", () => {
      this.download(!0);
    }), part("download-crop").addEventListener("click", () => {
      this.download(!1);
    });
  }
  async open(file) {
    await this.guard(async () => {
      this.say(READING, "busy");
      let chosen;
      try {
        chosen = await readPhoto(file);
      } catch (error) {
        return error instanceof NoPicture ? this.say(NO_PICTURE, "error") : this.say(TOO_LARGE_HERE, "error");
      }
      let turn = ++this.turn;
      this.chosen = chosen, this.photoSize = [chosen.photo.width, chosen.photo.height], this.result = null, this.faces = [], show(canvas("photo"), chosen.preview), this.step("place"), part("place-buttons").hidden = !0, part("photo-view").classList.add("bare"), "ready" in document.body.dataset || this.say(STILL_LOADING, "busy");
      let engine = await this.engine;
      if (turn !== this.turn) return;
      let { site } = engine;
      isFaceTemplate(site.alignment) && this.say(SEARCHING, "busy");
      let { photo, preview } = chosen;
      if (this.faces = await engine.photo(photo, { ...preview, data: preview.data.slice() }), turn !== this.turn) return;
      this.marks.reset(this.photoSize, this.cropSize(engine), site.alignment), this.listFaces(engine);
      let sizes = this.faces.map(({ size }) => size);
      if (sizes.length) return this.take({ face: sizes.indexOf(Math.max(...sizes)) });
      if (!site.alignment) return this.take("middle");
      this.place(), isFaceTemplate(site.alignment) && this.say(NO_FACE + this.note(), "error");
    });
  }
  /** Ask for the eyes. */
  place() {
    this.step("place"), part("place-buttons").hidden = !1, part("photo-view").classList.remove("bare"), this.engine.then(({ site }) => {
      part("start-editing").hidden = site.alignment === null, part("status").classList.contains("error") || this.say((site.alignment ? MARKS : MIDDLE) + this.note());
    });
  }
  listFaces({ site }) {
    let [place, template] = [part("faces"), site.alignment];
    place.querySelectorAll("label").forEach((label) => label.remove()), place.hidden = this.faces.length < 2, !(place.hidden || !isFaceTemplate(template)) && this.faces.forEach((face, index) => {
      let [label, radio, small] = [document.createElement("label"), document.createElement("input"), document.createElement("canvas")];
      Object.assign(radio, { type: "radio", name: "face", value: String(index) }), radio.addEventListener("change", () => {
        this.take({ face: index });
      });
      let alignment = alignFace(face.landmarks, template, 64, this.photoSize);
      alignment && this.drawSmall(small, alignment), label.append(radio, small, FACE(index + 1)), place.append(label);
    });
  }
  /** Draw an upright little picture of a face from the preview. */
  drawSmall(small, { matrix: [[a, b, c], [d, e, f]] }) {
    [small.width, small.height] = [64, 64];
    let context = small.getContext("2d"), scale = this.photoSize[0] / this.chosen.preview.width;
    context.setTransform(a * scale, d * scale, b * scale, e * scale, c, f), context.drawImage(canvas("photo"), 0, 0);
  }
  // Inversion and edits.
  async take(choice) {
    let turn = ++this.turn;
    await this.guard(async () => {
      let engine = await this.engine, cut = await engine.cut(choice);
      if (turn !== this.turn) return;
      if (!cut)
        return this.place(), this.say(SAME_PLACE, "error");
      this.showCut(choice, cut), this.say(INVERTING, "busy");
      let { picture } = await engine.invert(cut.crop);
      turn === this.turn && (this.result = { crop: cut.crop, alignment: cut.alignment, inverted: picture, edited: picture }, this.sliders?.reset(), set(field("compensation"), 1), this.step("result"), await this.showResult(), this.say(this.summary(choice, cut) + this.note(), "done"), document.body.dataset.inversions = String(++this.inversions), await engine.tryWebGPU(preference()), this.showReport(engine));
    });
  }
  showCut(choice, { alignment }) {
    if (typeof choice == "object" && "face" in choice) {
      let { leftEye, rightEye } = this.faces[choice.face].landmarks;
      this.marks.showFrame(alignment, [leftEye, rightEye]);
      let radio = part("faces").querySelector(`input[value="${choice.face}"]`);
      radio && (radio.checked = !0);
    } else
      this.marks.showFrame(alignment);
  }
  summary(choice, { wasAligned }) {
    if (wasAligned) return DONE_ALIGNED;
    let sizes = this.faces.map(({ size }) => size);
    return typeof choice == "object" && "face" in choice && sizes[choice.face] === Math.max(...sizes) && this.faces.length > 1 ? `${DONE} ${SEVERAL(this.faces.length)}` : DONE;
  }
  showReport({ report }) {
    let { provider, webgpu } = report;
    document.body.dataset.provider = provider;
    let words = `Computed by ${PROVIDERS[provider]}.`;
    webgpu && "failed" in webgpu && (words += ` WebGPU was not used: ${webgpu.failed}.`), webgpu && "difference" in webgpu && (words += ` A picture takes ${report.milliseconds.toFixed(0)} ms; WebGPU's differs by ${webgpu.difference.toFixed(3)} grey levels and takes ${webgpu.milliseconds.toFixed(0)} ms.`), part("report").textContent = words;
  }
  /** Render once the sliders rest; while a picture is made, only the newest wish is kept. */
  schedule() {
    clearTimeout(this.timer), part("compare").setAttribute("aria-busy", "true"), this.timer = window.setTimeout(() => {
      this.isRendering ? this.isWaiting = !0 : this.render();
    }, REST);
  }
  async render() {
    let result = this.result;
    if (result) {
      if (this.isRendering = !0, await this.guard(async () => {
        let engine = await this.engine;
        result.edited = await engine.render(this.sliders?.strengths ?? {}, Number(field("compensation").value)), result === this.result && await this.showResult();
      }), this.isRendering = !1, this.isWaiting)
        return this.isWaiting = !1, this.render();
      part("compare").removeAttribute("aria-busy");
    }
  }
  async showResult() {
    let result = this.result;
    if (!result || !this.chosen) return;
    let [before, after] = [toPhoto(result.crop), toPhoto(result.edited)];
    if (field("view-whole").checked) {
      let engine = await this.engine;
      if (before = this.chosen.preview, after = await engine.paste(result.edited, result.inverted, result.alignment, !1), result !== this.result || !field("view-whole").checked) return;
    }
    show(canvas("before"), before), show(canvas("after"), after), part("compare").style.setProperty("--aspect", String(before.width / before.height)), part("compare").dataset.view = before === this.chosen.preview ? "whole" : "crop", part("compare").classList.toggle("small", before.width < 400);
  }
  async download(whole) {
    let { result, chosen } = this;
    !result || !chosen || await this.guard(async () => {
      let engine = await this.engine;
      this.say(PASTING, "busy");
      let { edited, inverted, alignment } = result, picture = whole ? await engine.paste(edited, inverted, alignment, !0) : toPhoto(edited), name = `${chosen.name}_${whole ? "edited" : "close-up"}.png`;
      await save(picture, name), this.say(SAVED(name), "done");
    });
  }
  // What is shown.
  step(name) {
    for (let each of ["start", "place", "result"]) part(each).hidden = each !== name;
    part("faces").hidden = name === "start" || this.faces.length < 2;
  }
  say(text, kind = "info") {
    let status = part("status");
    status.className = `status ${kind}`, part("sign").textContent = SIGNS[kind], part("words").textContent = text;
  }
  note() {
    return this.chosen?.wasShrunk ? SHRUNK(16) : "";
  }
  cropSize({ site }) {
    return [site.image_size[1], site.image_size[0]];
  }
  async guard(work) {
    try {
      await work();
    } catch (error) {
      this.say(error instanceof DownloadError ? NOT_LOADED(error.message) : FAILED(reasonOf(error)), "error");
    }
  }
};
function reasonOf(error) {
  return error instanceof Error ? error.message : String(error);
}
function preference() {
  let asked = new URLSearchParams(location.search).get("backend");
  return asked === "wasm" || asked === "webgpu" ? asked : "auto";
}
document.documentElement.hasAttribute("data-unsupported") || (part("app").hidden = !1, new Page());
