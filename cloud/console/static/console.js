// Small helpers for all pages: times in the reader's zone, ages that grow, questions before what cannot be undone.
"use strict";
(function () {
  function pad(n, width) { return String(n).padStart(width || 2, "0"); }
  function local(ms) {
    const d = new Date(ms);
    if (Number.isNaN(d.getTime())) { return "unknown"; }
    return d.getFullYear() + "-" + pad(d.getMonth() + 1) + "-" + pad(d.getDate()) + " " +
      pad(d.getHours()) + ":" + pad(d.getMinutes()) + ":" + pad(d.getSeconds());
  }
  function age(ms) {
    const s = Math.round((Date.now() - ms) / 1000);
    if (s < -5) { return "in the future"; }
    if (s < 2) { return "now"; }
    if (s < 100) { return s + " s ago"; }
    if (s < 6000) { return Math.round(s / 60) + " min ago"; }
    if (s < 172800) { return Math.round(s / 3600) + " h ago"; }
    return Math.round(s / 86400) + " days ago";
  }
  function refresh(root) {
    root.querySelectorAll("time[data-ms]").forEach(function (el) {
      const ms = Number(el.dataset.ms);
      el.textContent = el.dataset.age !== undefined ? age(ms) : local(ms);
      el.title = local(ms) + " (" + new Date(ms).toISOString() + ")";
    });
  }
  window.outrider = { local: local, age: age, refresh: refresh };
  document.addEventListener("DOMContentLoaded", function () {
    refresh(document);
    setInterval(function () { refresh(document); }, 1000);
  });
  document.addEventListener("htmx:afterSwap", function (event) { refresh(event.target); });
  document.addEventListener("submit", function (event) {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) { event.preventDefault(); }
  });
})();
