/** Says in plain words why a page cannot work here; it must itself run in any browser, so it is compiled to ES5. */

(function () {
  function missing(): string[] {
    var found: string[] = [];
    var scope = window as unknown as Record<string, unknown>;
    // A function of one vector instruction.
    var simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(simd))) found.push("WebAssembly with SIMD");
    if (!("noModule" in document.createElement("script"))) found.push("JavaScript modules");
    if (typeof scope["DecompressionStream"] !== "function") found.push("DecompressionStream");
    if (typeof scope["createImageBitmap"] !== "function") found.push("createImageBitmap");
    if (!modulesInWorkers()) found.push("modules in workers");
    return found;
  }

  function modulesInWorkers(): boolean {
    var asked = false;
    if (typeof Worker !== "function") return false;
    var options = Object.defineProperty({}, "type", { get: function () { asked = true; return "module"; } });
    try {
      new Worker("support.js", options as WorkerOptions).terminate();
    } catch (error) {
      // Whatever went wrong, the options were read or not.
    }
    return asked;
  }

  var lacks = missing();
  var text = "";
  if (location.protocol === "file:") {
    text = "This page was opened as a file, which browsers do not let read its own parts. Serve its folder instead: " +
      "run “python -m http.server” in it and open http://localhost:8000.";
  } else if (lacks.length) {
    text = "This browser is too old for this page, which computes in the browser itself: it lacks " + lacks.join(", ") +
      ". Please use a current Chrome, Edge, Firefox or Safari.";
  }
  if (text) {
    var root = document.documentElement;
    root.className += " unsupported";
    root.setAttribute("data-unsupported", text);
    document.addEventListener("DOMContentLoaded", function () {
      var place = document.getElementById("unsupported");
      if (place) {
        place.textContent = text;
        place.removeAttribute("hidden");
      }
    });
  }
})();
