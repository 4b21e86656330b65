"use strict";
(function() {
  // src/support.ts
  (function() {
    function missing() {
      var found = [], scope = window, simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
      return (typeof WebAssembly != "object" || !WebAssembly.validate(new Uint8Array(simd))) && found.push("WebAssembly with SIMD"), "noModule" in document.createElement("script") || found.push("JavaScript modules"), typeof scope.DecompressionStream != "function" && found.push("DecompressionStream"), typeof scope.createImageBitmap != "function" && found.push("createImageBitmap"), modulesInWorkers() || found.push("modules in workers"), found;
    }
    function modulesInWorkers() {
      var asked = !1;
      if (typeof Worker != "function") return !1;
      var options = Object.defineProperty({}, "type", { get: function() {
        return asked = !0, "module";
      } });
      try {
        new Worker("support.js", options).terminate();
      } catch (error) {
      }
      return asked;
    }
    var lacks = missing(), text = "";
    if (location.protocol === "file:" ? text = "This page was opened as a file, which browsers do not let read its own parts. Serve its folder instead: run “python -m http.server” in it and open http://localhost:8000." : lacks.length && (text = "This browser is too old for this page, which computes in the browser itself: it lacks " + lacks.join(", ") + ". Please use a current Chrome, Edge, Firefox or Safari."), text) {
      var root = document.documentElement;
      root.className += " unsupported", root.setAttribute("data-unsupported", text), document.addEventListener("DOMContentLoaded", function() {
        var place = document.getElementById("unsupported");
        place && (place.textContent = text, place.removeAttribute("hidden"));
      });
    }
  })();
})();
