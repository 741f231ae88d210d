// Pages of campaigns and releases: what a reader has opened or is typing in is not swapped away; images are uploaded in
// pieces.
"use strict";
(function () {
  document.addEventListener("htmx:beforeSwap", function (event) {
    const target = event.detail.target;
    if (!target) { return; }
    const typing = target.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    const kept = target.hasAttribute("data-keep-open") && target.querySelector("details[open]");
    if (typing || kept) { event.detail.shouldSwap = false; }
  });
})();
