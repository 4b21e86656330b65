/** The networks: an inversion once per crop, then one pass of the generator per edit. */

import type { OrtModule, Provider, Session } from "./runtime";
import { openSession, unpack } from "./runtime";
import type { Picture } from "./resampling";
import { picture } from "./resampling";
import type { Site, Step } from "./site";

type Feeds = Parameters<Session["run"]>[0];

interface Tensor {
  data: Float32Array;
  dims: readonly number[];
}

export class Networks {
  private readonly sessions = new Map<string, Session>();
  private packed: Record<string, ArrayBuffer> = {};
  /** Graphs that WebGPU cannot run, such as DIPN's with convolutions of volumes; WebAssembly runs them. */
  private readonly fallen = new Set<string>();
  private directions = new Float32Array();
  private known = new Map<string, Tensor>();

  constructor(private readonly ort: OrtModule, private readonly site: Site, private readonly provider: Provider) {}

  /** Open every graph; `packed` holds the contents of the files. */
  async open(packed: Record<string, ArrayBuffer>, opened: () => void): Promise<void> {
    if (this.provider === "webgpu") this.packed = packed;
    for (const [name, { file }] of Object.entries(this.site.graphs)) {
      this.sessions.set(name, await openSession(this.ort, await unpack(packed[file]!), this.provider));
      opened();
    }
    this.directions = new Float32Array(await unpack(packed[this.site.edits.file]!));
  }

  /** Invert a crop; edits start from what this finds. */
  async invert(crop: Picture): Promise<void> {
    const { width, height, data } = crop;
    const image = new Float32Array(3 * width * height);
    for (let pixel = 0; pixel < width * height; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        image[channel * width * height + pixel] = data[pixel * 3 + channel]! / 127.5 - 1;
      }
    }
    const known = new Map<string, Tensor>([["image", { data: image, dims: [1, 3, height, width] }]]);
    await this.follow(this.site.invert, known);
    this.known = known;
  }

  /** Render the inversion with edits, in pixels [0, 255], rounded. */
  async render(strengths: Record<string, number>, compensation: number): Promise<Picture> {
    const known = new Map(this.known);
    const latents = known.get("compensated_latents")!;
    known.set("edited_latents", { data: this.edited(latents.data, strengths), dims: latents.dims });
    // Without an edit there is nothing to follow: both rules are then the inversion.
    const isEdited = Object.values(strengths).some((strength) => strength !== 0);
    if (this.site.feature_edit === "official" && isEdited) known.set("reference_features", known.get("features")!);
    known.set("weight", filled(compensation, this.site.graphs["generator"]!.inputs["weight"]!));
    await this.follow(this.site.render, known);
    return toPicture(known.get("output")!, this.site.output_rows);
  }

  private edited(latents: Float32Array, strengths: Record<string, number>): Float32Array {
    const edited = latents.slice();
    this.site.edits.list.forEach(({ name }, row) => {
      const strength = strengths[name] ?? 0;
      if (strength === 0) return;
      for (let i = 0; i < edited.length; i++) edited[i]! += strength * this.directions[row * edited.length + i]!;
    });
    return edited;
  }

  private async follow(steps: Step[], known: Map<string, Tensor>): Promise<void> {
    for (const { graph, inputs, outputs } of steps) {
      const shapes = this.site.graphs[graph]!.inputs;
      const feeds = Object.fromEntries(Object.entries(inputs).map(([name, value]) => {
        const { data, dims } = typeof value === "string" ? known.get(value)! : filled(value, shapes[name]!);
        return [name, new this.ort.Tensor("float32", data, dims)];
      }));
      const results = await this.run(graph, feeds, Object.keys(outputs));
      for (const [name, own] of Object.entries(outputs)) {
        const { data, dims } = results[name]!;
        known.set(own, { data: data as Float32Array, dims });
      }
    }
  }

  private async run(graph: string, feeds: Feeds, outputs: string[]): ReturnType<Session["run"]> {
    const session = this.sessions.get(graph)!;
    try {
      return await session.run(feeds, outputs);
    } catch (error) {
      if (this.provider === "wasm" || this.fallen.has(graph)) throw error;
      this.fallen.add(graph);
      await session.release();
      const opened = await openSession(this.ort, await unpack(this.packed[this.site.graphs[graph]!.file]!), "wasm");
      this.sessions.set(graph, opened);
      return opened.run(feeds, outputs);
    }
  }
}

function filled(value: number, shape: number[]): Tensor {
  const count = shape.reduce((product, length) => product * length, 1);
  return { data: new Float32Array(count).fill(value), dims: [1, ...shape] };
}

function toPicture({ data, dims }: Tensor, [first, last]: [number, number]): Picture {
  const [height, width] = [dims[2]!, dims[3]!];
  const result = picture(width, last - first, 3);
  for (let channel = 0; channel < 3; channel++) {
    for (let pixel = 0; pixel < width * (last - first); pixel++) {
      const value = data[(channel * height + first) * width + pixel]!;
      // A NaN, should a graphics card compute one, shows as black and fails the comparison with WebAssembly.
      result.data[pixel * 3 + channel] = Math.round(Math.min(1, Math.max(0, value / 2 + 0.5 || 0)) * 255);
    }
  }
  return result;
}
