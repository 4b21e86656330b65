/** What site.json holds; `sdic_plugin.conversion.export.web` writes it. */

export interface StoredFile {
  file: string;
  /** Bytes of the file as it is sent, gzip or not. */
  bytes: number;
}

export interface StoredGraph extends StoredFile {
  /** Shapes without the batch. */
  inputs: Record<string, number[]>;
}

export interface Step {
  graph: string;
  /** A name of something known, or a number that fills the whole input. */
  inputs: Record<string, string | number>;
  outputs: Record<string, string>;
}

export interface EditEntry {
  name: string;
  label: string;
  group: string;
  description: string;
  ends: [string, string] | null;
  range: [number, number];
  default: number;
}

export interface EyeTemplate {
  left_eye: [number, number];
  right_eye: [number, number];
}

export interface FaceTemplate {
  rule: "ffhq";
  eye_scale: number;
  mouth_scale: number;
  shift: number;
}

export type Template = EyeTemplate | FaceTemplate;

export interface Runtime {
  version: string;
  /** The module that is imported, and the WebAssembly binary that it is given. */
  wasm: { module: string; binary: StoredFile };
  webgpu: { module: string; binary: StoredFile };
}

export interface Site {
  format: string;
  name: string;
  license: string | null;
  source: string | null;
  /** Height and width of the pictures that the networks see. */
  image_size: [number, number];
  output_rows: [number, number];
  feature_edit: "continuous" | "official";
  alignment: Template | null;
  graphs: Record<string, StoredGraph>;
  invert: Step[];
  render: Step[];
  /** Rows of float32, one direction [num_styles * D] for each entry of `list`. */
  edits: StoredFile & { list: EditEntry[] };
  detector: StoredFile | null;
  runtime: Runtime;
}

export const FORMAT = "sdic-web-1";

export function isFaceTemplate(template: Template | null): template is FaceTemplate {
  return template !== null && "rule" in template;
}
