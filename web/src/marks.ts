/** The photo with a mark on each eye, which can be dragged, clicked to its place, or moved by keys. */

import type { Alignment, Point, Size } from "./geometry";
import { alignEyes, alignMiddle, apply, invertSimilarity, quad } from "./geometry";
import type { Template } from "./site";
import { isFaceTemplate } from "./site";

/** How far an arrow key moves a mark, as a share of the photo's longer side; with Shift, finely. */
const STEP = 0.01;
const FINE_STEP = 0.002;
/** Where the eyes of FFHQ's faces are, roughly, for marks that nobody placed yet. */
const FACE_EYES: [Point, Point] = [[0.385, 0.48], [0.615, 0.48]];

export class Marks {
  private photoSize: Size = [1, 1];
  private cropSize: Size = [1, 1];
  private template: Template | null = null;
  /** In pixels of the photo. */
  private points: [Point, Point] = [[0, 0], [1, 0]];

  constructor(
    private readonly view: HTMLElement,
    private readonly handles: [HTMLElement, HTMLElement],
    private readonly frame: SVGPolygonElement,
  ) {
    view.addEventListener("pointerdown", (event) => this.press(event));
    handles.forEach((handle, index) => handle.addEventListener("keydown", (event) => this.move(index, event)));
  }

  get eyes(): [Point, Point] {
    return [[...this.points[0]], [...this.points[1]]];
  }

  /** Take a new photo, and put the marks where eyes would be if the photo's middle were a crop. */
  reset(photoSize: Size, cropSize: Size, template: Template | null): void {
    [this.photoSize, this.cropSize, this.template] = [photoSize, cropSize, template];
    const eyes = !template || isFaceTemplate(template) ? FACE_EYES : [template.left_eye, template.right_eye];
    const back = invertSimilarity(alignMiddle(photoSize, cropSize).matrix);
    this.points = eyes.map(([x, y]) => apply(back, [x * cropSize[0], y * cropSize[1]])) as [Point, Point];
    for (const handle of this.handles) handle.hidden = template === null;
    this.draw();
  }

  /** Show another frame than that of the marks. */
  showFrame(alignment: Alignment, eyes?: [Point, Point]): void {
    if (eyes) this.points = eyes;
    this.draw(alignment);
  }

  private draw(alignment?: Alignment | null): void {
    const [width, height] = this.photoSize;
    this.points.forEach(([x, y], index) => {
      const { style } = this.handles[index]!;
      [style.left, style.top] = [`${(100 * x) / width}%`, `${(100 * y) / height}%`];
    });
    alignment ??= this.template ? alignEyes(this.points, this.template, this.cropSize, this.photoSize) : null;
    alignment ??= alignMiddle(this.photoSize, this.cropSize);
    const corners = quad(alignment).map(([x, y]) => `${((1000 * x) / width).toFixed(2)},${((1000 * y) / height).toFixed(2)}`);
    this.frame.setAttribute("points", corners.join(" "));
  }

  private press(event: PointerEvent): void {
    if (!this.template || event.button !== 0) return;
    event.preventDefault();
    const pressed = this.at(event);
    const away = this.points.map(([x, y]) => Math.hypot(x - pressed[0], y - pressed[1]));
    const index = away[0]! <= away[1]! ? 0 : 1;
    const follow = (moved: PointerEvent): void => this.place(index, this.at(moved));
    const end = (): void => {
      this.view.removeEventListener("pointermove", follow);
      this.view.removeEventListener("pointerup", end);
      this.view.removeEventListener("pointercancel", end);
    };
    this.view.setPointerCapture(event.pointerId);
    this.view.addEventListener("pointermove", follow);
    this.view.addEventListener("pointerup", end);
    this.view.addEventListener("pointercancel", end);
    this.place(index, pressed);
    this.handles[index]!.focus({ preventScroll: true });
  }

  private at(event: PointerEvent): Point {
    const box = this.view.getBoundingClientRect();
    const [width, height] = this.photoSize;
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  private move(index: number, event: KeyboardEvent): void {
    const directions: Record<string, Point> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    const step = (event.shiftKey ? FINE_STEP : STEP) * Math.max(...this.photoSize);
    const [x, y] = this.points[index]!;
    this.place(index, [x + step * direction[0], y + step * direction[1]]);
  }

  private place(index: number, [x, y]: Point): void {
    const [width, height] = this.photoSize;
    this.points[index] = [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))];
    this.draw();
  }
}
