// The viewer's dark colours hang on a class: it follows the theme of the product, or the system's.
(function () {
  "use strict";
  var root = document.documentElement;
  var system = matchMedia("(prefers-color-scheme: dark)");
  function follow() {
    var theme = root.dataset.theme;
    root.classList.toggle("dark-mode", theme ? theme === "dark" : system.matches);
  }
  system.addEventListener("change", follow);
  follow();
})();
