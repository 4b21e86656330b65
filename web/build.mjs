// Builds the page into the package's data: npm ci && npm run build
import { copyFile, mkdir, rm } from "node:fs/promises";
import { build } from "esbuild";

const target = process.env.SDIC_WEB_OUT ?? new URL("../sdic_plugin/conversion/export/web_page/", import.meta.url).pathname;
const shared = { bundle: true, minifySyntax: true, charset: "utf8", legalComments: "none", outdir: target };

await rm(target, { recursive: true, force: true });
await mkdir(target, { recursive: true });
await build({ ...shared, entryPoints: ["src/page.ts", "src/worker.ts"], format: "esm", target: "es2022" });
// What an old browser runs to be told that it is one.
await build({ ...shared, entryPoints: ["src/support.ts"], format: "iife", target: "es5" });
for (const name of ["index.html", "page.css", "icon.svg"]) {
  await copyFile(new URL(`static/${name}`, import.meta.url).pathname, `${target}/${name}`);
}
