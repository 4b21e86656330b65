/** The page's words. */

export const LOADING = "You can choose a photo already; the model is being fetched meanwhile.";
export const STILL_LOADING = "The photo is here; the model is still being fetched.";
export const OPENING = "Opening the networks …";
export const START = "Choose a photo. It stays in this browser: nothing is sent anywhere.";
export const READING = "Reading the photo …";
export const SEARCHING = "Looking for faces …";
export const INVERTING = "Looking at the photo closely. This happens once per photo …";
export const PASTING = "Putting the edit into the whole photo …";
export const DONE = "Done. Move the sliders, and drag the line across the picture to compare.";
export const DONE_ALIGNED = "Done. The photo was taken as it is, as the face in it is placed already.";
export const MARKS =
  "Put the two marks on the centres of the eyes: drag them, click the eyes, or use the arrow keys. Then start editing. " +
  "If the face already fills the picture, use the middle instead.";
export const NO_FACE = `No face was found in the photo. ${MARKS}`;
export const MIDDLE = "The frame shows what the model will see.";
export const SAME_PLACE = "Both marks are at one place: put them on two different eyes.";
export const NO_PICTURE =
  "This file cannot be read as a picture by this browser: choose a JPEG, PNG or WebP file (photos in HEIC open in Safari only).";
export const TOO_LARGE_HERE = "The photo is too large for this browser: make it smaller first.";
export const NOT_LOADED = (reason: string): string =>
  `The model could not be loaded (${reason}): check the connection, then reload the page.`;
export const FAILED = (reason: string): string =>
  `Something went wrong (${reason}). Try again, or choose a smaller photo; if the device is short of memory, close other pages.`;
export const SHRUNK = (megapixels: number): string =>
  ` The photo has more than ${megapixels} megapixels and was made smaller, so the file you save is smaller, too.`;
export const SEVERAL = (count: number): string => `${count} faces were found; the largest was taken. Choose another one below.`;
export const FACE = (number: number): string => `Face ${number}`;
export const SAVED = (name: string): string => `${name} is being saved by the browser.`;
export const PROVIDERS = { wasm: "WebAssembly", webgpu: "the graphics card (WebGPU)" };

export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
