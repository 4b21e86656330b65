/** The page's side of its workers: downloads, requests, and which of them runs the networks. */

import type { Face } from "./faces";
import type { Alignment } from "./geometry";
import type { Choice, Cut, Kind, Message, Reply, Requests } from "./messages";
import type { Photo, Picture } from "./resampling";
import type { Provider } from "./runtime";
import type { Site, StoredFile } from "./site";
import { FORMAT } from "./site";

/** Mean difference, in grey levels, up to which WebGPU's picture counts as the same as WebAssembly's. */
const SAME_PICTURE = 1;

export type Progress = (done: number, total: number, kind: "bytes" | "graphs") => void;
/** "auto" takes WebGPU where its picture is the same and it is quicker; "webgpu" also where it is slower. */
export type Preference = "auto" | Provider;

export interface Report {
  provider: Provider;
  /** Milliseconds of one pass of the generator that `provider` needs. */
  milliseconds: number;
  /** What WebGPU answered, where it was tried. */
  webgpu: { difference: number; milliseconds: number } | { failed: string } | null;
}

/** A file could not be had. */
export class DownloadError extends Error {}

class Helper {
  private readonly worker = new Worker(new URL("worker.js", document.baseURI), { type: "module" });
  private readonly waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  private next = 0;

  constructor(private readonly opened: (count: number) => void = () => undefined) {
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      if ("opened" in data) return this.opened(data.opened);
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      if ("error" in data) reject(new Error(data.error));
      else resolve(data.answer);
    };
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || "the worker could not start"));
      this.waiting.clear();
    };
  }

  ask<K extends Kind>(kind: K, ask: Requests[K]["ask"], transfer: Transferable[] = []): Promise<Requests[K]["answer"]> {
    const message: Message<K> = { id: this.next++, kind, ask };
    return new Promise((resolve, reject) => {
      this.waiting.set(message.id, { resolve: resolve as (value: unknown) => void, reject });
      this.worker.postMessage(message, transfer);
    });
  }

  stop(): void {
    this.worker.terminate();
  }
}

export class Engine {
  private readonly main: Helper;
  /** The one that runs the networks: `main`, or WebGPU's. */
  private networks: Helper;
  private gpu: Helper | null = null;
  private trial: Promise<void> | null = null;
  private crop: Picture | null = null;
  private inverted: Picture | null = null;
  readonly report: Report = { provider: "wasm", milliseconds: 0, webgpu: null };

  private constructor(readonly site: Site, private readonly files: Record<string, ArrayBuffer>, opened: (count: number) => void) {
    this.main = this.networks = new Helper(opened);
  }

  static async load(progress: Progress): Promise<Engine> {
    const site = (await (await fetched("site.json")).json()) as Site;
    if (site.format !== FORMAT) throw new DownloadError("site.json is of another version than the page");
    const wanted: StoredFile[] = [...Object.values(site.graphs), site.edits, site.runtime.wasm.binary];
    if (site.detector) wanted.push(site.detector);
    const files = await download(wanted, (done, total) => progress(done, total, "bytes"));
    const count = Object.keys(site.graphs).length;
    const engine = new Engine(site, files, (opened) => progress(opened, count, "graphs"));
    await engine.main.ask("open", { site, files, provider: "wasm", pictures: true });
    return engine;
  }

  photo(photo: Photo, preview: Photo): Promise<Face[]> {
    this.crop = this.inverted = null;
    return this.main.ask("photo", { photo, preview }, [photo.data.buffer as ArrayBuffer]);
  }

  cut(choice: Choice): Promise<Cut | null> {
    return this.main.ask("cut", { choice });
  }

  async invert(crop: Picture): Promise<{ picture: Picture; milliseconds: number }> {
    [this.crop, this.inverted] = [crop, null];
    const answer = await this.withFallback((networks) => networks.ask("invert", { crop }));
    if (this.crop === crop) this.inverted = answer.picture;
    return answer;
  }

  async render(strengths: Record<string, number>, compensation: number): Promise<Picture> {
    const answer = await this.withFallback((networks) => networks.ask("render", { strengths, compensation }));
    this.report.milliseconds = answer.milliseconds;
    return answer.picture;
  }

  paste(edited: Picture, inverted: Picture, alignment: Alignment, full: boolean): Promise<Photo> {
    return this.main.ask("paste", { edited, inverted, alignment, full });
  }

  /**
   * Try WebGPU, once, with the crop that was inverted last; it takes over if its pictures are the same and come sooner.
   *
   * Ends when the trial has ended, whoever began it.
   */
  async tryWebGPU(preference: Preference): Promise<void> {
    const { crop, inverted } = this;
    if (preference !== "wasm" && crop && inverted) this.trial ??= this.compareWebGPU(preference, crop, inverted);
    await this.trial;
  }

  private async compareWebGPU(preference: Preference, crop: Picture, inverted: Picture): Promise<void> {
    const { site } = this;
    try {
      if (!(await hasAdapter())) throw new Error("the browser offers no graphics card");
      Object.assign(this.files, await download([site.runtime.webgpu.binary]));
      const gpu = (this.gpu = new Helper());
      await gpu.ask("open", { site, files: this.files, provider: "webgpu", pictures: false });
      const found = (await gpu.ask("invert", { crop })).picture;
      const strengths = Object.fromEntries(site.edits.list.slice(0, 1).map((edit) => [edit.name, edit.default]));
      const edit = { strengths, compensation: 1 };
      const [own, other] = [await this.main.ask("render", edit), await gpu.ask("render", edit)];
      const again = [await this.main.ask("render", edit), await gpu.ask("render", edit)]; // warm
      const difference = Math.max(meanDifference(found, inverted), meanDifference(other.picture, own.picture));
      this.report.webgpu = { difference, milliseconds: again[1]!.milliseconds };
      this.report.milliseconds = again[0]!.milliseconds;
      const quicker = again[1]!.milliseconds < again[0]!.milliseconds;
      if (difference > SAME_PICTURE || !(quicker || preference === "webgpu")) return this.leaveWebGPU();
      // The visitor may have gone on to other photos meanwhile.
      for (let known: Picture | null = crop; known !== this.crop;) {
        known = this.crop;
        if (known) await gpu.ask("invert", { crop: known });
      }
      this.networks = gpu;
      this.report.provider = "webgpu";
      this.report.milliseconds = again[1]!.milliseconds;
    } catch (error) {
      this.report.webgpu = { failed: error instanceof Error ? error.message : String(error) };
      this.leaveWebGPU();
    }
  }

  private leaveWebGPU(): void {
    this.gpu?.stop();
    this.gpu = null;
    this.networks = this.main;
    this.report.provider = "wasm";
  }

  /** Ask again without WebGPU, should it fail: a graphics card can be lost at any time. */
  private async withFallback<Answer>(ask: (networks: Helper) => Promise<Answer>): Promise<Answer> {
    try {
      return await ask(this.networks);
    } catch (error) {
      if (this.networks === this.main) throw error;
      this.report.webgpu = { failed: error instanceof Error ? error.message : String(error) };
      this.leaveWebGPU();
      if (this.crop) await this.main.ask("invert", { crop: this.crop });
      return ask(this.main);
    }
  }
}

async function hasAdapter(): Promise<boolean> {
  const { gpu } = navigator as unknown as { gpu?: { requestAdapter: () => Promise<unknown> } };
  return Boolean(gpu && (await gpu.requestAdapter()));
}

export function meanDifference(first: Picture, second: Picture): number {
  let sum = 0;
  for (let index = 0; index < first.data.length; index++) sum += Math.abs(first.data[index]! - second.data[index]!);
  return sum / first.data.length;
}

async function fetched(file: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(new URL(file, document.baseURI));
  } catch {
    throw new DownloadError(`${file} cannot be reached`);
  }
  if (!response.ok) throw new DownloadError(`the server answered ${response.status} for ${file}`);
  return response;
}

async function download(
  wanted: StoredFile[], progress: (done: number, total: number) => void = () => undefined,
): Promise<Record<string, ArrayBuffer>> {
  const total = wanted.reduce((sum, { bytes }) => sum + bytes, 0);
  const received = new Map<string, number>();
  const one = async ({ file, bytes }: StoredFile): Promise<[string, ArrayBuffer]> => {
    const response = await fetched(file);
    const reader = response.body!.getReader();
    const parts: Uint8Array<ArrayBuffer>[] = [];
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new DownloadError(`${file} broke off`);
      });
      if (done) break;
      parts.push(value as Uint8Array<ArrayBuffer>);
      // A server that says "Content-Encoding: gzip" has the browser unpack, and more bytes arrive than were sent.
      received.set(file, Math.min(bytes, (received.get(file) ?? 0) + value.length));
      progress([...received.values()].reduce((sum, count) => sum + count, 0), total);
    }
    return [file, await new Blob(parts).arrayBuffer()];
  };
  return Object.fromEntries(await Promise.all(wanted.map(one)));
}
