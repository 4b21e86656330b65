/** One slider per edit, grouped. */

import type { EditEntry } from "./site";

export class Sliders {
  private readonly inputs = new Map<string, HTMLInputElement>();

  constructor(place: HTMLElement, edits: EditEntry[], changed: () => void) {
    const groups = new Map<string, HTMLElement>();
    edits.forEach((edit, index) => {
      let group = groups.get(edit.group);
      if (!group) {
        group = element("fieldset", "");
        group.append(element("legend", edit.group));
        groups.set(edit.group, group);
        place.append(group);
      }
      group.append(this.slider(edit, `edit-${index}`, changed));
    });
  }

  /** Strengths that are not 0. */
  get strengths(): Record<string, number> {
    const values = [...this.inputs].map(([name, input]) => [name, Number(input.value)] as const);
    return Object.fromEntries(values.filter(([, value]) => value !== 0));
  }

  reset(): void {
    for (const input of this.inputs.values()) set(input, 0);
  }

  private slider(edit: EditEntry, id: string, changed: () => void): HTMLElement {
    const row = element("div", "");
    row.className = "edit";
    const label = element("label", edit.label);
    label.htmlFor = id;
    const value = element("output", "0");
    const input = element("input", "");
    Object.assign(input, { type: "range", id, ...limits(edit.range), value: "0" });
    input.dataset["edit"] = edit.name;
    input.addEventListener("input", () => {
      value.textContent = written(Number(input.value));
      changed();
    });
    this.inputs.set(edit.name, input);
    row.append(label, value, input);
    if (edit.ends) {
      const ends = element("div", "");
      ends.className = "ends";
      ends.id = `${id}-ends`;
      ends.append(...edit.ends.map((end) => element("span", end)));
      input.setAttribute("aria-describedby", ends.id);
      row.append(ends);
    } else if (edit.description) {
      row.title = edit.description;
    }
    return row;
  }
}

/** Ends and step of a slider: 0 must be one of its steps, which are counted from its lower end. */
export function limits([low, high]: [number, number]): { min: string; max: string; step: string } {
  const size = Math.floor(Math.log10(Math.max(-low, high)));
  const step = 10 ** size / 20; // 0.05 where the ends are 1 to 9.5
  const end = (value: number, round: (steps: number) => number): string =>
    (round(value / step) * step).toFixed(Math.max(0, 2 - size));
  return { min: end(Math.min(low, 0), Math.ceil), max: end(Math.max(high, 0), Math.floor), step: String(+step.toPrecision(6)) };
}

/** Give a slider a value, and show it. */
export function set(input: HTMLInputElement, value: number): void {
  input.value = String(value);
  const shown = input.parentElement!.querySelector("output");
  if (shown) shown.textContent = written(Number(input.value));
}

function written(value: number): string {
  return value === 0 ? "0" : value.toFixed(2).replace(/\.?0+$/, "").replace("-", "−");
}

function element<K extends keyof HTMLElementTagNameMap>(name: K, text: string): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  return made;
}
