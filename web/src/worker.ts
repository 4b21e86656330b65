/** All that computes, beside the page so that it never stands still. */

import { pasteDifference, takeCrop, takeFaceCrop, takeMiddle } from "./crops";
import type { Face } from "./faces";
import { FaceDetector } from "./faces";
import type { Size } from "./geometry";
import { alignEyes, alignFace, alignMiddle, isAligned, scaled } from "./geometry";
import type { Choice, Cut, Kind, Message, Requests } from "./messages";
import { Networks } from "./networks";
import type { Photo, Picture } from "./resampling";
import { loadRuntime, openSession, unpack } from "./runtime";
import type { Site } from "./site";
import { isFaceTemplate } from "./site";

let site: Site;
let networks: Networks;
let detector: FaceDetector | null = null;
let photo: Photo;
let preview: Photo;
let faces: Face[] = [];

type Handlers = { [K in Kind]: (ask: Requests[K]["ask"]) => Promise<Requests[K]["answer"]> };

const handlers: Handlers = {
  async open({ site: given, files, provider, pictures }) {
    site = given;
    const binary = await unpack(files[site.runtime[provider].binary.file]!);
    const ort = await loadRuntime(site.runtime, provider, binary);
    let opened = 0;
    networks = new Networks(ort, site, provider);
    await networks.open(files, () => self.postMessage({ opened: ++opened }));
    if (pictures && site.detector) {
      detector = new FaceDetector(ort, await openSession(ort, await unpack(files[site.detector.file]!), "wasm"));
    }
  },

  async photo(given) {
    ({ photo, preview } = given);
    faces = detector ? await detector.detect(photo) : [];
    return faces;
  },

  async cut({ choice }) {
    return cut(choice);
  },

  async invert({ crop }) {
    const start = performance.now();
    await networks.invert(crop);
    const picture = await networks.render({}, 1);
    return { picture, milliseconds: performance.now() - start };
  },

  async render({ strengths, compensation }) {
    const start = performance.now();
    const picture = await networks.render(strengths, compensation);
    return { picture, milliseconds: performance.now() - start };
  },

  async paste({ edited, inverted, alignment, full }) {
    const whole = full ? photo : preview;
    return pasteDifference(whole, edited, inverted, scaled(alignment, [whole.width, whole.height]));
  },
};

function cut(choice: Choice): Cut | null {
  const [height, width] = site.image_size;
  const [cropSize, photoSize]: Size[] = [[width, height], [photo.width, photo.height]];
  const middle = (wasAligned: boolean): Cut =>
    ({ crop: takeMiddle(photo, cropSize!), alignment: alignMiddle(photoSize!, cropSize!), wasAligned });
  const { alignment: template } = site;
  if (choice === "middle" || template === null) return middle(false);
  if (!("face" in choice)) {
    const alignment = alignEyes(choice.eyes, template, cropSize!, photoSize!);
    return alignment && { crop: take(alignment), alignment, wasAligned: false };
  }
  if (!isFaceTemplate(template)) return null;
  const alignment = alignFace(faces[choice.face]!.landmarks, template, width, photoSize!);
  if (alignment && isAligned(alignment)) return middle(true);
  return alignment && { crop: take(alignment), alignment, wasAligned: false };
}

function take(alignment: Cut["alignment"]): Picture {
  return isFaceTemplate(site.alignment) ? takeFaceCrop(photo, alignment) : takeCrop(photo, alignment);
}

// One after the other: a runtime computes one thing at a time.
let last: Promise<unknown> = Promise.resolve();

self.onmessage = ({ data: { id, kind, ask } }: MessageEvent<Message>) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, answer: await (handlers[kind] as (ask: unknown) => Promise<unknown>)(ask) });
    } catch (error) {
      self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
};
