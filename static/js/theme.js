// Runs before anything is drawn: the choices kept in this browser, so that nothing flashes.
(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");
  try {
    ["theme", "density"].forEach(function (name) {
      var choice = localStorage.getItem("pulse." + name);
      if (choice) root.dataset[name] = choice;
    });
  } catch (refused) {
    // A browser that keeps nothing shows the system's theme.
  }
})();
