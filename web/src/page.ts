/** The page: from a photo to a download. */

import type { Preference } from "./engine";
import { DownloadError, Engine } from "./engine";
import type { Face } from "./faces";
import type { Alignment, Size } from "./geometry";
import { alignFace } from "./geometry";
import { Marks } from "./marks";
import type { Choice, Cut } from "./messages";
import type { Chosen } from "./photos";
import { MAX_MEGAPIXELS, NoPicture, readPhoto, save, show, toPhoto } from "./photos";
import type { Photo, Picture } from "./resampling";
import { isFaceTemplate } from "./site";
import { set, Sliders } from "./sliders";
import * as texts from "./texts";

/** Milliseconds that a slider must rest before its picture is made. */
const REST = 40;

const part = <E extends Element = HTMLElement>(id: string): E => document.getElementById(id) as unknown as E;
const canvas = (id: string): HTMLCanvasElement => part<HTMLCanvasElement>(id);
const field = (id: string): HTMLInputElement => part<HTMLInputElement>(id);

type Kind = "info" | "busy" | "done" | "error";
const SIGNS: Record<Kind, string> = { info: "i", busy: "…", done: "✓", error: "!" };

interface Result {
  crop: Picture;
  alignment: Alignment;
  inverted: Picture;
  edited: Picture;
}

class Page {
  private readonly engine: Promise<Engine>;
  private sliders: Sliders | null = null;
  private readonly marks = new Marks(
    part("photo-view"), [part("mark-left"), part("mark-right")], part<SVGPolygonElement>("frame"),
  );
  private chosen: Chosen | null = null;
  private photoSize: Size = [1, 1];
  private faces: Face[] = [];
  private result: Result | null = null;
  private timer = 0;
  private inversions = 0;
  private isRendering = false;
  private isWaiting = false;
  /** Counts photos and crops, so that answers about earlier ones are left aside. */
  private turn = 0;

  constructor() {
    this.engine = this.load();
    this.engine.catch((error: unknown) => this.say(texts.NOT_LOADED(reasonOf(error)), "error"));
    this.listen();
  }

  // Loading.

  private async load(): Promise<Engine> {
    this.say(texts.LOADING, "busy");
    const [bar, words] = [part<HTMLProgressElement>("progress"), part("progress-words")];
    part("loading").hidden = false;
    try {
      const engine = await Engine.load((done, total, kind) => {
        [bar.max, bar.value] = [total, done];
        words.textContent = kind === "graphs"
          ? `${texts.OPENING} ${done} of ${total}`
          : `${texts.megabytes(done)} of ${texts.megabytes(total)} MB`;
      });
      this.describe(engine);
      if (!this.chosen) this.say(texts.START);
      return engine;
    } finally {
      part("loading").hidden = true;
    }
  }

  private describe({ site }: Engine): void {
    const [height, width] = site.image_size;
    part("model").textContent = `The model ${site.name} draws ${width} × ${height} pixels` +
      (site.license ? `; licence of its generator: ${site.license}.` : ".");
    this.sliders = new Sliders(part("edits"), site.edits.list, () => this.schedule());
    part("edits").hidden = site.edits.list.length === 0;
    document.body.dataset["ready"] = "";
  }

  // The visitor's hands.

  private listen(): void {
    const input = field("file");
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      if (file) void this.open(file);
      input.value = "";
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer?.files[0];
      if (file) void this.open(file);
    });
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (file) void this.open(file);
    });
    part("start-editing").addEventListener("click", () => void this.take({ eyes: this.marks.eyes }));
    part("use-middle").addEventListener("click", () => void this.take("middle"));
    part("move-marks").addEventListener("click", () => this.place());
    for (const id of ["another", "another-photo"]) part(id).addEventListener("click", () => input.click());
    part("reset").addEventListener("click", () => {
      this.sliders?.reset();
      set(field("compensation"), 1);
      this.schedule();
    });
    field("compensation").addEventListener("input", () => {
      set(field("compensation"), Number(field("compensation").value));
      this.schedule();
    });
    for (const radio of document.querySelectorAll<HTMLInputElement>("#view input")) {
      radio.addEventListener("change", () => void this.guard(() => this.showResult()));
    }
    const split = field("split");
    split.addEventListener("input", () => part("compare").style.setProperty("--split", `${split.value}%`));
    part("download").addEventListener("click", () => void this.download(true));
    part("download-crop").addEventListener("click", () => void this.download(false));
  }

  private async open(file: File): Promise<void> {
    await this.guard(async () => {
      this.say(texts.READING, "busy");
      let chosen: Chosen;
      try {
        chosen = await readPhoto(file);
      } catch (error) {
        if (error instanceof NoPicture) return this.say(texts.NO_PICTURE, "error");
        return this.say(texts.TOO_LARGE_HERE, "error");
      }
      const turn = ++this.turn;
      this.chosen = chosen;
      this.photoSize = [chosen.photo.width, chosen.photo.height];
      this.result = null;
      this.faces = [];
      show(canvas("photo"), chosen.preview);
      this.step("place");
      part("place-buttons").hidden = true;
      part("photo-view").classList.add("bare");
      if (!("ready" in document.body.dataset)) this.say(texts.STILL_LOADING, "busy");
      const engine = await this.engine;
      if (turn !== this.turn) return;
      const { site } = engine;
      if (isFaceTemplate(site.alignment)) this.say(texts.SEARCHING, "busy");
      const { photo, preview } = chosen;
      // The page keeps the preview; the photo itself moves to the worker.
      this.faces = await engine.photo(photo, { ...preview, data: preview.data.slice() });
      if (turn !== this.turn) return;
      this.marks.reset(this.photoSize, this.cropSize(engine), site.alignment);
      this.listFaces(engine);
      const sizes = this.faces.map(({ size }) => size);
      if (sizes.length) return this.take({ face: sizes.indexOf(Math.max(...sizes)) });
      if (!site.alignment) return this.take("middle");
      this.place();
      if (isFaceTemplate(site.alignment)) this.say(texts.NO_FACE + this.note(), "error");
    });
  }

  /** Ask for the eyes. */
  private place(): void {
    this.step("place");
    part("place-buttons").hidden = false;
    part("photo-view").classList.remove("bare");
    void this.engine.then(({ site }) => {
      part("start-editing").hidden = site.alignment === null;
      if (!part("status").classList.contains("error")) this.say((site.alignment ? texts.MARKS : texts.MIDDLE) + this.note());
    });
  }

  private listFaces({ site }: Engine): void {
    const [place, template] = [part("faces"), site.alignment];
    place.querySelectorAll("label").forEach((label) => label.remove());
    place.hidden = this.faces.length < 2;
    if (place.hidden || !isFaceTemplate(template)) return;
    this.faces.forEach((face, index) => {
      const [label, radio, small] = [document.createElement("label"), document.createElement("input"), document.createElement("canvas")];
      Object.assign(radio, { type: "radio", name: "face", value: String(index) });
      radio.addEventListener("change", () => void this.take({ face: index }));
      const alignment = alignFace(face.landmarks, template, 64, this.photoSize);
      if (alignment) this.drawSmall(small, alignment);
      label.append(radio, small, texts.FACE(index + 1));
      place.append(label);
    });
  }

  /** Draw an upright little picture of a face from the preview. */
  private drawSmall(small: HTMLCanvasElement, { matrix: [[a, b, c], [d, e, f]] }: Alignment): void {
    [small.width, small.height] = [64, 64];
    const context = small.getContext("2d")!;
    const scale = this.photoSize[0] / this.chosen!.preview.width;
    context.setTransform(a * scale, d * scale, b * scale, e * scale, c, f);
    context.drawImage(canvas("photo"), 0, 0);
  }

  // Inversion and edits.

  private async take(choice: Choice): Promise<void> {
    const turn = ++this.turn;
    await this.guard(async () => {
      const engine = await this.engine;
      const cut = await engine.cut(choice);
      if (turn !== this.turn) return;
      if (!cut) {
        this.place();
        return this.say(texts.SAME_PLACE, "error");
      }
      this.showCut(choice, cut);
      this.say(texts.INVERTING, "busy");
      const { picture } = await engine.invert(cut.crop);
      if (turn !== this.turn) return;
      this.result = { crop: cut.crop, alignment: cut.alignment, inverted: picture, edited: picture };
      this.sliders?.reset();
      set(field("compensation"), 1);
      this.step("result");
      await this.showResult();
      this.say(this.summary(choice, cut) + this.note(), "done");
      document.body.dataset["inversions"] = String(++this.inversions);
      await engine.tryWebGPU(preference());
      this.showReport(engine);
    });
  }

  private showCut(choice: Choice, { alignment }: Cut): void {
    if (typeof choice === "object" && "face" in choice) {
      const { leftEye, rightEye } = this.faces[choice.face]!.landmarks;
      this.marks.showFrame(alignment, [leftEye, rightEye]);
      const radio = part("faces").querySelector<HTMLInputElement>(`input[value="${choice.face}"]`);
      if (radio) radio.checked = true;
    } else {
      this.marks.showFrame(alignment);
    }
  }

  private summary(choice: Choice, { wasAligned }: Cut): string {
    if (wasAligned) return texts.DONE_ALIGNED;
    const sizes = this.faces.map(({ size }) => size);
    const isLargest = typeof choice === "object" && "face" in choice && sizes[choice.face] === Math.max(...sizes);
    return isLargest && this.faces.length > 1 ? `${texts.DONE} ${texts.SEVERAL(this.faces.length)}` : texts.DONE;
  }

  private showReport({ report }: Engine): void {
    const { provider, webgpu } = report;
    document.body.dataset["provider"] = provider;
    let words = `Computed by ${texts.PROVIDERS[provider]}.`;
    if (webgpu && "failed" in webgpu) words += ` WebGPU was not used: ${webgpu.failed}.`;
    if (webgpu && "difference" in webgpu) {
      words += ` A picture takes ${report.milliseconds.toFixed(0)} ms; WebGPU's differs by ` +
        `${webgpu.difference.toFixed(3)} grey levels and takes ${webgpu.milliseconds.toFixed(0)} ms.`;
    }
    part("report").textContent = words;
  }

  /** Render once the sliders rest; while a picture is made, only the newest wish is kept. */
  private schedule(): void {
    clearTimeout(this.timer);
    part("compare").setAttribute("aria-busy", "true");
    this.timer = window.setTimeout(() => {
      if (this.isRendering) this.isWaiting = true;
      else void this.render();
    }, REST);
  }

  private async render(): Promise<void> {
    const result = this.result;
    if (!result) return;
    this.isRendering = true;
    await this.guard(async () => {
      const engine = await this.engine;
      result.edited = await engine.render(this.sliders?.strengths ?? {}, Number(field("compensation").value));
      if (result === this.result) await this.showResult();
    });
    this.isRendering = false;
    if (this.isWaiting) {
      this.isWaiting = false;
      return this.render();
    }
    part("compare").removeAttribute("aria-busy");
  }

  private async showResult(): Promise<void> {
    const result = this.result;
    if (!result || !this.chosen) return;
    let [before, after]: Photo[] = [toPhoto(result.crop), toPhoto(result.edited)];
    if (field("view-whole").checked) {
      const engine = await this.engine;
      before = this.chosen.preview;
      after = await engine.paste(result.edited, result.inverted, result.alignment, false);
      if (result !== this.result || !field("view-whole").checked) return;
    }
    show(canvas("before"), before!);
    show(canvas("after"), after!);
    part("compare").style.setProperty("--aspect", String(before!.width / before!.height));
    part("compare").dataset["view"] = before === this.chosen.preview ? "whole" : "crop";
    part("compare").classList.toggle("small", before!.width < 400);
  }

  private async download(whole: boolean): Promise<void> {
    const { result, chosen } = this;
    if (!result || !chosen) return;
    await this.guard(async () => {
      const engine = await this.engine;
      this.say(texts.PASTING, "busy");
      const { edited, inverted, alignment } = result;
      const picture = whole ? await engine.paste(edited, inverted, alignment, true) : toPhoto(edited);
      const name = `${chosen.name}_${whole ? "edited" : "close-up"}.png`;
      await save(picture, name);
      this.say(texts.SAVED(name), "done");
    });
  }

  // What is shown.

  private step(name: "start" | "place" | "result"): void {
    for (const each of ["start", "place", "result"]) part(each).hidden = each !== name;
    part("faces").hidden = name === "start" || this.faces.length < 2;
  }

  private say(text: string, kind: Kind = "info"): void {
    const status = part("status");
    status.className = `status ${kind}`;
    part("sign").textContent = SIGNS[kind];
    part("words").textContent = text;
  }

  private note(): string {
    return this.chosen?.wasShrunk ? texts.SHRUNK(MAX_MEGAPIXELS) : "";
  }

  private cropSize({ site }: Engine): Size {
    return [site.image_size[1], site.image_size[0]];
  }

  private async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.say(error instanceof DownloadError ? texts.NOT_LOADED(error.message) : texts.FAILED(reasonOf(error)), "error");
    }
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What the address says: ?backend=wasm or ?backend=webgpu. */
function preference(): Preference {
  const asked = new URLSearchParams(location.search).get("backend");
  return asked === "wasm" || asked === "webgpu" ? asked : "auto";
}

if (!document.documentElement.hasAttribute("data-unsupported")) {
  part("app").hidden = false;
  new Page();
}
