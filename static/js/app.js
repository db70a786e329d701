// What the browser adds to pages that work without it: live regions that pause and age, messages,
// choices kept in this browser, the keyboard. No page depends on it to be read or sent.
(function () {
  "use strict";

  const root = document.documentElement;
  const $ = (selector, within) => (within || document).querySelector(selector);
  const $$ = (selector, within) => Array.from((within || document).querySelectorAll(selector));

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const kept = {
    get(name) {
      try {
        return localStorage.getItem("pulse." + name) || "";
      } catch (refused) {
        return "";
      }
    },
    set(name, value) {
      try {
        if (value) localStorage.setItem("pulse." + name, value);
        else localStorage.removeItem("pulse." + name);
      } catch (refused) {
        // The choice then holds for this page.
      }
    },
  };

  // --- live regions: pause while nobody looks, catch up when somebody does -------------------

  const isLive = (element) => element && element.hasAttribute && element.hasAttribute("data-live");
  const refresh = (element) => htmx.trigger(element, "pulse:refresh");

  document.addEventListener("htmx:beforeRequest", (event) => {
    const fromTimer = isLive(event.detail.elt) && !event.detail.requestConfig.triggeringEvent;
    if (fromTimer && document.hidden) event.preventDefault();
  });

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) $$("[data-live]").forEach(refresh);
  });

  window.addEventListener("online", () => $$("[data-live]").forEach(refresh));

  // A region must not change under a pressed button or while text in it is being selected.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { target, elt } = event.detail;
    if (!isLive(elt) || elt !== target || target.id === "sync") return;
    const selection = document.getSelection();
    const isSelecting = selection && !selection.isCollapsed && target.contains(selection.anchorNode);
    if (isSelecting && !event.detail.requestConfig.triggeringEvent) event.detail.shouldSwap = false;
  });

  // The end of a sync is news for everything that shows figures.
  let ended = null;
  function hearOfSync() {
    const indicator = $("#sync");
    if (!indicator) return;
    const now = indicator.dataset.ended;
    if (ended !== null && ended !== now) htmx.trigger(document.body, "pulse:synced");
    ended = now;
  }
  document.addEventListener("htmx:afterSettle", hearOfSync);

  // --- ages, and a connection that is gone ----------------------------------------------------

  function inWords(seconds) {
    const units = [[86400, "day"], [3600, "h"], [60, "min"]];
    for (const [size, unit] of units) {
      const number = Math.floor(seconds / size);
      if (number >= 1) return number + " " + unit + (unit === "day" && number > 1 ? "s" : "");
    }
    return Math.max(0, Math.floor(seconds)) + " s";
  }

  const arrived = new WeakMap();

  function grow() {
    const now = Date.now();
    $$("time[data-ago]").forEach((time) => {
      const seconds = (now - Date.parse(time.dateTime)) / 1000;
      const words = seconds < 10 ? "just now" : inWords(seconds) + " ago";
      if (time.textContent !== words) time.textContent = words;
    });
    $$("[data-age]").forEach((age) => {
      const seen = arrived.get(age);
      if (!seen || seen.said !== age.dataset.age) {
        arrived.set(age, { said: age.dataset.age, at: now });
      }
      const words = inWords(Number(age.dataset.age) + (now - arrived.get(age).at) / 1000);
      if (age.textContent !== words) age.textContent = words;
    });
  }

  let lostSince = null;

  function lost() {
    if (lostSince) return;
    lostSince = new Date();
    const strip = $("#lost");
    const zone = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: strip.dataset.zone };
    $("time", strip).textContent = new Intl.DateTimeFormat("en-GB", zone).format(lostSince);
    strip.hidden = false;
  }

  function found() {
    if (!lostSince) return;
    lostSince = null;
    $("#lost").hidden = true;
    $$("[data-live]").forEach(refresh);
  }

  // What a person asked for says so itself; the strip alone would leave them waiting.
  function notSent() {
    toast("Not sent: Pipeline Pulse does not answer. Try again when it is back.", "error");
  }

  ["htmx:sendError", "htmx:timeout"].forEach((name) =>
    document.addEventListener(name, (event) => {
      lost();
      if (!isLive(event.detail.elt)) notSent();
    }),
  );
  document.addEventListener("htmx:afterRequest", (event) => {
    const status = event.detail.xhr ? event.detail.xhr.status : 0;
    if (status >= 200 && status < 500) found();
    else if (status >= 500 && isLive(event.detail.elt)) lost();
  });
  // A gone session answers with the sign-in page; it is a page of its own, not a piece of this one.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (new URL(event.detail.xhr.responseURL || location.href).pathname !== "/login") return;
    event.detail.shouldSwap = false;
    location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (isLive(event.detail.elt)) return;
    const words = {
      403: "You may not do this.",
      429: "Too many requests: wait a little, then try again.",
    };
    toast(words[event.detail.xhr.status] || "That did not work. Nothing was changed.", "error");
  });

  // --- messages ---------------------------------------------------------------------------

  const STAYS = 6000;

  function dress(message) {
    const close = make("button", { type: "button", "aria-label": "Close message" }, "×");
    close.addEventListener("click", () => message.remove());
    message.append(close);
    if (message.matches(".is-error, .is-warning")) return;
    let timer = setTimeout(() => message.remove(), STAYS);
    message.addEventListener("mouseenter", () => clearTimeout(timer));
    message.addEventListener("mouseleave", () => {
      timer = setTimeout(() => message.remove(), STAYS);
    });
  }

  function toast(text, kind) {
    const message = make("div", { class: "toast is-" + (kind || "info") }, make("p", {}, text));
    $("#toasts").append(message);
    dress(message);
  }

  document.addEventListener("pulse:toast", (event) => toast(event.detail.text, event.detail.kind));

  // --- links that change the live part in place; with a modifier key they stay links ------------

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-swap]");
    const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    if (!link || !plain || event.defaultPrevented) return;
    event.preventDefault();
    follow(link.pathname + link.search, link.textContent);
  });

  // Each live part is asked for its own piece of the new address: the headers say which.
  async function follow(address, words) {
    const ask = (id, push) =>
      htmx.ajax("GET", address, {
        source: id,
        target: id,
        swap: "morph:outerHTML",
        push,
        headers: { "X-Chosen": "1" },
      });
    try {
      await Promise.all([ask("#live", address), $("#lists") && ask("#lists", "false"), summary(address)]);
    } catch (unanswered) {
      notSent();
    }
    keepFocus(words);
  }

  // The summary of the tracker on another page: of the same filters, from its own address.
  function summary(address) {
    const part = $("#summary");
    if (!part) return null;
    const own = new URL(part.getAttribute("hx-get"), location.href).pathname;
    const headers = { "X-Revision": "" };
    const query = new URL(address, location.href).search;
    return htmx.ajax("GET", own + query, { source: part, target: part, swap: "morph:outerHTML", headers });
  }

  // The link that was pressed may have moved, or be gone with the filter it took away.
  function keepFocus(words) {
    if (document.activeElement && document.activeElement !== document.body) return;
    const same = $$("a[data-swap]").find((link) => link.textContent === words);
    (same || $("#main")).focus({ preventScroll: true });
  }

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-panel]");
    if (!opener) return;
    event.preventDefault();
    document.getElementById(opener.dataset.panel).showPopover();
  });

  // --- acts: a link opens the dialog, its form answers in it --------------------------------------

  const isAct = (xhr) => xhr && xhr.getResponseHeader("X-Act") === "1";

  // The server's own, where it was opened by its address; else made when it is needed.
  function actDialog() {
    let dialog = $("#act");
    if (!dialog) {
      dialog = make("dialog", { class: "dialog is-act", id: "act", "aria-labelledby": "act-title" });
      $("#main").prepend(dialog);
    }
    return dialog;
  }

  document.addEventListener("click", (event) => {
    const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    const opener = event.target.closest("a[data-act]");
    if (opener && plain) {
      event.preventDefault();
      htmx.ajax("GET", opener.pathname + opener.search, { target: actDialog(), swap: "innerHTML" });
    } else if (event.target.closest("#act [data-close]") && plain) {
      event.preventDefault();
      $("#act").close();
    }
  });

  // A refusal is shown too: it comes as the dialog, with what was typed.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!isAct(event.detail.xhr)) return;
    event.detail.shouldSwap = true;
    event.detail.isError = false;
    event.detail.target = actDialog();
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "act") return;
    showAct();
    const asked = event.detail.xhr.responseURL ? new URL(event.detail.xhr.responseURL) : null;
    if (asked && asked.pathname === location.pathname) {
      history.replaceState(history.state, "", asked.pathname + asked.search);
    }
  });

  function showAct() {
    const dialog = $("#act");
    if (!dialog.matches(":modal")) {
      dialog.removeAttribute("open");
      dialog.showModal();
      dialog.addEventListener("close", leaveAct, { once: true });
    }
    const first = $('[aria-invalid="true"], [name="confirm_early"], [autofocus], form :is(input:not([type=hidden]), textarea, select), form button', dialog);
    if (first) first.focus();
  }

  function leaveAct() {
    const form = $("#act form");
    const base = form && new URL(form.dataset.base, location.href);
    if (base && base.pathname === location.pathname && new URLSearchParams(location.search).has("do")) {
      history.replaceState(history.state, "", base.pathname + base.search);
    }
    $("#act").remove();
  }

  document.addEventListener("pulse:done", () => {
    if ($("#act[open]")) $("#act").close();
  });

  // --- choices kept in this browser --------------------------------------------------------

  ["theme", "density"].forEach((name) => {
    $$('input[name="' + name + '"]').forEach((radio) => {
      radio.checked = radio.value === kept.get(name);
      radio.addEventListener("change", () => choose(name, radio.value));
    });
  });

  function choose(name, value) {
    kept.set(name, value);
    if (value) root.dataset[name] = value;
    else delete root.dataset[name];
    $$('input[name="' + name + '"]').forEach((radio) => (radio.checked = radio.value === value));
  }

  const singleKeys = $('input[name="single-keys"]');
  if (singleKeys) {
    singleKeys.checked = kept.get("single-keys") !== "off";
    singleKeys.addEventListener("change", () => {
      kept.set("single-keys", singleKeys.checked ? "" : "off");
    });
  }

  // --- keyboard -------------------------------------------------------------------------

  const pages = () =>
    $$(".nav-item").map((link) => ({
      label: link.textContent.trim(),
      keys: link.dataset.key ? "g " + link.dataset.key : "",
      key: link.dataset.key,
      run: () => link.click(),
    }));

  const focusSearch = () => {
    const field = $("#filter-search") || $("#search");
    if (field) {
      field.focus();
      field.select();
    }
  };

  const syncButton = () => $('[data-testid="sync-button"]');

  function commands() {
    const list = pages();
    list.push({ label: "Search opportunities", keys: "/", run: focusSearch });
    if (syncButton()) list.push({ label: "Sync now", keys: "", run: () => syncButton().click() });
    [["Light", "light"], ["Dark", "dark"], ["System", ""]].forEach(([label, value]) =>
      list.push({ label: label + " theme", keys: "", run: () => choose("theme", value) }),
    );
    list.push({ label: "Keyboard shortcuts", keys: "?", run: showShortcuts });
    const out = $('form[action$="/logout"] button');
    if (out) list.push({ label: "Sign out", keys: "", run: () => out.click() });
    return list;
  }

  function openDialog(dialog) {
    document.body.append(dialog);
    dialog.addEventListener("close", () => dialog.remove());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.showModal();
  }

  function showShortcuts() {
    const rows = [
      ["?", "This list"],
      ["/", "Search"],
      ["j and k", "Next and previous row"],
      ["Enter", "Open the row"],
      ["e", "Edit the row, or write the review"],
      ["Ctrl K or ⌘ K", "Command palette"],
      ...pages().filter((page) => page.keys).map((page) => [page.keys, "Go to " + page.label]),
      ["Esc", "Close"],
    ];
    const facts = make("dl", { class: "facts" });
    rows.forEach(([keys, what]) =>
      facts.append(make("dt", {}, make("kbd", {}, keys)), make("dd", {}, what)),
    );
    const close = make("button", { type: "button", class: "button" }, "Close");
    const dialog = make(
      "dialog",
      { class: "dialog", "aria-labelledby": "shortcuts-title" },
      make("header", {}, make("h2", { id: "shortcuts-title" }, "Keyboard shortcuts"), close),
      facts,
    );
    close.addEventListener("click", () => dialog.close());
    openDialog(dialog);
  }

  function showPalette() {
    const field = make("input", {
      type: "text",
      role: "combobox",
      placeholder: "Go to a page, or do something",
      "aria-label": "Command",
      "aria-expanded": "true",
      "aria-controls": "palette-list",
      autocomplete: "off",
    });
    const list = make("div", { id: "palette-list", role: "listbox", "aria-label": "Commands" });
    const dialog = make("dialog", { class: "dialog palette", "aria-label": "Command palette" }, field, list);
    let chosen = 0;
    let shown = [];

    function mark() {
      $$("[role=option]", list).forEach((option, index) => {
        option.setAttribute("aria-selected", String(index === chosen));
        if (index === chosen) {
          field.setAttribute("aria-activedescendant", option.id);
          option.scrollIntoView({ block: "nearest" });
        }
      });
    }

    function draw() {
      const words = field.value.trim().toLowerCase();
      shown = commands().filter((command) => command.label.toLowerCase().includes(words));
      if (words) {
        const address = $(".search").action + "?search=" + encodeURIComponent(field.value.trim());
        shown.push({
          label: "Search opportunities for “" + field.value.trim() + "”",
          keys: "",
          run: () => location.assign(address),
        });
      }
      chosen = 0;
      list.replaceChildren(
        ...shown.map((command, index) => {
          const option = make("div", { role: "option", id: "palette-" + index }, command.label);
          if (command.keys) option.append(make("kbd", {}, command.keys));
          option.addEventListener("click", () => run(index));
          return option;
        }),
      );
      mark();
    }

    function run(index) {
      dialog.close();
      if (shown[index]) shown[index].run();
    }

    field.addEventListener("input", draw);
    field.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step && shown.length) {
        event.preventDefault();
        chosen = (chosen + step + shown.length) % shown.length;
        mark();
      } else if (event.key === "Enter") {
        event.preventDefault();
        run(chosen);
      }
    });
    openDialog(dialog);
    draw();
    field.focus();
  }

  function moveAlongRows(step) {
    const rows = $$("[data-row]").filter((row) => row.checkVisibility());
    if (!rows.length) return;
    const here = rows.indexOf(document.activeElement.closest("[data-row]"));
    const next = here < 0 ? (step > 0 ? 0 : rows.length - 1) : here + step;
    rows[Math.min(Math.max(next, 0), rows.length - 1)].focus();
  }

  let waitsForPage = 0;

  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      if (!$("dialog[open]")) showPalette();
      return;
    }
    if (event.key === "Escape" && event.target.closest(".review-form")) event.target.blur();
    const isTyping = event.target.closest("input:not([type=radio], [type=checkbox]), textarea, select, [contenteditable]");
    const isOff = kept.get("single-keys") === "off";
    if (isTyping || isOff || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    if (Date.now() - waitsForPage < 1500) {
      waitsForPage = 0;
      const page = pages().find((each) => each.key === event.key);
      if (page) {
        event.preventDefault();
        page.run();
        return;
      }
    }
    if (event.key === "g") waitsForPage = Date.now();
    else if (event.key === "?") showShortcuts();
    else if (event.key === "/") {
      event.preventDefault();
      focusSearch();
    } else if (event.key === "j" || event.key === "k") {
      event.preventDefault();
      const step = event.key === "j" ? "next" : "previous";
      const link = $("a[data-step=" + step + "]");
      if (link) link.click();
      else if (!$("[data-steps]")) moveAlongRows(event.key === "j" ? 1 : -1);
    } else if (event.key === "Enter" && event.target.matches("[data-row]")) {
      const link = $("a", event.target);
      if (link) link.click();
    } else if (event.key === "Enter" && $("a[data-open]") && !event.target.closest("a, button, summary, input")) {
      $("a[data-open]").click();
    } else if (event.key === "e") {
      const row = event.target.closest("[data-row]");
      const link = row && $("a[data-edit]", row);
      const field = $(".review-form input:not([type=hidden])");
      if (link || field) event.preventDefault();
      if (link) link.click();
      else if (field) field.focus();
    }
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest('[data-command="shortcuts"]')) showShortcuts();
  });

  // --- a page for when the server is away ---------------------------------------------------

  if ("serviceWorker" in navigator) navigator.serviceWorker.register("/sw.js").catch(() => {});

  // --- begin ------------------------------------------------------------------------------

  $$(".toast").forEach(dress);
  if ($("#act[open]")) showAct();
  hearOfSync();
  setInterval(grow, 5000);
})();
