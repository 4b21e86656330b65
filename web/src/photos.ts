/** Files to pixels and back. */

import type { Size } from "./geometry";
import type { Photo, Picture } from "./resampling";

/** Larger photos are made smaller: some browsers refuse larger canvases. */
export const MAX_MEGAPIXELS = 16;
const PREVIEW_SIDE = 1280;

/** A file is no picture that this browser can read. */
export class NoPicture extends Error {}

/** What is known of a photo that was chosen. */
export interface Chosen {
  name: string;
  photo: Photo;
  preview: Photo;
  wasShrunk: boolean;
}

export async function readPhoto(file: File): Promise<Chosen> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" });
  } catch {
    throw new NoPicture(file.name);
  }
  const scale = Math.min(1, Math.sqrt((MAX_MEGAPIXELS * 1e6) / (bitmap.width * bitmap.height)));
  const size: Size = [Math.max(1, Math.floor(bitmap.width * scale)), Math.max(1, Math.floor(bitmap.height * scale))];
  const photo = draw(bitmap, size);
  const small = Math.min(1, PREVIEW_SIDE / Math.max(...size));
  const previewSize = size.map((length) => Math.max(1, Math.round(length * small))) as Size;
  const preview = small === 1 ? { ...photo, data: photo.data.slice() } : draw(bitmap, previewSize);
  bitmap.close();
  return { name: file.name.replace(/\.[^.]*$/, "") || "photo", photo, preview, wasShrunk: scale < 1 };
}

function draw(bitmap: ImageBitmap, [width, height]: Size): Photo {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, data };
}

export function toPhoto({ width, height, data }: Picture): Photo {
  const pixels = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) pixels[pixel * 4 + channel] = data[pixel * 3 + channel]!;
  }
  return { width, height, data: pixels };
}

export function show(canvas: HTMLCanvasElement, { width, height, data }: Photo): void {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d")!.putImageData(new ImageData(data as Uint8ClampedArray<ArrayBuffer>, width, height), 0, 0);
}

/** Hand a PNG to the visitor, under a name. */
export async function save(photo: Photo, name: string): Promise<void> {
  const canvas = document.createElement("canvas");
  show(canvas, photo);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("the browser could not write the picture");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
