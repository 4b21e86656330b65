/** ONNX Runtime Web, imported from the site's own folder when it is needed. */

import type * as Ort from "onnxruntime-common";
import type { Runtime } from "./site";

export type Provider = "wasm" | "webgpu";
export type OrtModule = typeof Ort;
export type Session = Ort.InferenceSession;

/** More threads than this gain nothing for networks of this size. */
const MAX_THREADS = 4;

export async function loadRuntime(runtime: Runtime, provider: Provider, binary: ArrayBuffer): Promise<OrtModule> {
  const ort = (await import(new URL(runtime[provider].module, self.location.href).href)) as OrtModule;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = binary;
  // Threads need memory that workers share, which browsers give to isolated pages only.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  return ort;
}

export function openSession(ort: OrtModule, graph: ArrayBuffer, provider: Provider): Promise<Session> {
  const options: Ort.InferenceSession.SessionOptions = {
    executionProviders: [provider],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3, // errors
  };
  return ort.InferenceSession.create(new Uint8Array(graph), options);
}

/** Take gzip off, unless the server has sent the file so that the browser did it already. */
export async function unpack(content: ArrayBuffer): Promise<ArrayBuffer> {
  const [first, second] = new Uint8Array(content, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return content;
  const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
