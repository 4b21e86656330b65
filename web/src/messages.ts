/** What the page asks of its workers. */

import type { Face } from "./faces";
import type { Alignment, Point } from "./geometry";
import type { Photo, Picture } from "./resampling";
import type { Provider } from "./runtime";
import type { Site } from "./site";

/** How a photo is cut out: by a face that was found (its place in the list), by two eyes, or its middle. */
export type Choice = { face: number } | { eyes: [Point, Point] } | "middle";

export interface Cut {
  crop: Picture;
  alignment: Alignment;
  /** Whether the photo was taken as it is, although a face was found in it: it is an aligned crop already. */
  wasAligned: boolean;
}

export interface Requests {
  /** Open the networks, and the face detector unless `pictures` is off. */
  open: { ask: { site: Site; files: Record<string, ArrayBuffer>; provider: Provider; pictures: boolean }; answer: void };
  /** Take a photo, and find its faces where the model is of faces. */
  photo: { ask: { photo: Photo; preview: Photo }; answer: Face[] };
  /** Cut the photo out; null where both eyes are at one place. */
  cut: { ask: { choice: Choice }; answer: Cut | null };
  invert: { ask: { crop: Picture }; answer: { picture: Picture; milliseconds: number } };
  render: {
    ask: { strengths: Record<string, number>; compensation: number };
    answer: { picture: Picture; milliseconds: number };
  };
  /** Paste an edit back into the photo, or into its preview. */
  paste: { ask: { edited: Picture; inverted: Picture; alignment: Alignment; full: boolean }; answer: Photo };
}

export type Kind = keyof Requests;

export interface Message<K extends Kind = Kind> {
  id: number;
  kind: K;
  ask: Requests[K]["ask"];
}

/** `opened` counts networks that were opened; an answer or an error ends a request. */
export type Reply = { id: number; answer: unknown } | { id: number; error: string } | { opened: number };
