{% load static %}// When the server cannot be reached, a page of our own says so; nothing else is kept here.
"use strict";
const NAME = "pulse-offline-1";
const KEPT = ["{% url 'offline' %}", "{% static 'css/tokens.css' %}", "{% static 'css/shell.css' %}", "{% static 'js/theme.js' %}", "{% static 'img/pulse.svg' %}"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(KEPT)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name !== NAME);
  event.waitUntil(caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name)))));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const isKept = KEPT.includes(new URL(request.url).pathname);
  if (request.mode === "navigate") {
    event.respondWith(fetch(request).catch(() => caches.match(KEPT[0])));
  } else if (isKept) {
    event.respondWith(fetch(request).catch(() => caches.match(request)));
  }
});
