// Pages of campaigns and releases: what a reader has opened or is typing in is not swapped away, nor a button that is as
// it was; images are uploaded in pieces.
"use strict";
(function () {
  let open = [];
  function keys(root) {
    return Array.from(root.querySelectorAll("details[data-key]")).filter(function (d) { return d.open; })
      .map(function (d) { return d.dataset.key; });
  }
  function isSame(target, text) {
    const fresh = document.createElement("template");
    fresh.innerHTML = text;
    return fresh.innerHTML.trim() === target.innerHTML.trim();
  }
  document.addEventListener("htmx:beforeSwap", function (event) {
    const target = event.detail.target;
    if (!target) { return; }
    const typing = target.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    const kept = target.hasAttribute("data-keep-open") &&
      (target.querySelector("details[open]") || isSame(target, event.detail.serverResponse));
    if (typing || kept) { event.detail.shouldSwap = false; }
    open = keys(target);
  });
  document.addEventListener("htmx:afterSwap", function (event) {
    event.detail.target.querySelectorAll("details[data-key]").forEach(function (d) {
      if (open.includes(d.dataset.key)) { d.open = true; }
    });
  });

  const form = document.getElementById("upload");
  if (!form) { return; }
  const part = function (name) { return document.getElementById("upload-" + name); };
  const field = function (name) { return form.elements.namedItem(name); };
  let stopped = false;

  async function ask(method, path, options) {
    const answer = await fetch("/api/v1" + path, Object.assign({ method: method, credentials: "same-origin" }, options));
    if (answer.status === 401) { window.location.assign("/console/login"); }
    const told = await answer.json().catch(function () { return {}; });
    if (!answer.ok) {
      const error = new Error(told.detail || told.title || "the service answered " + answer.status);
      error.isFinal = answer.status < 500 && answer.status !== 429;
      throw error;
    }
    return told;
  }
  function json(body) { return { body: JSON.stringify(body), headers: { "content-type": "application/json" } }; }
  function size(bytes) { return (bytes / 1e6).toFixed(1) + " MB"; }
  function show(done, total, begun, since) {
    part("progress").hidden = false;
    part("progress").querySelector("progress").value = 100 * done / total;
    const s = (Date.now() - begun) / 1000;
    const rate = s > 0.5 ? (done - since) / s : 0;
    part("words").textContent = size(done) + " of " + size(total) +
      (rate > 0 ? ", " + size(rate) + "/s, " + Math.ceil((total - done) / rate) + " s to go" : "");
  }
  function pause(ms) { return new Promise(function (resolve) { setTimeout(resolve, ms); }); }

  async function send(id, file, first) {
    const chunk = Number(form.dataset.chunk), begun = Date.now();
    let done = first, tries = 0;
    show(done, file.size, begun, first);
    while (done < file.size) {
      if (stopped) { throw new Error("Stopped. Choose the same file again to go on."); }
      const end = Math.min(done + chunk, file.size);
      try {
        const told = await ask("PUT", "/images/" + id + "/content", {
          body: file.slice(done, end),
          headers: { "content-type": "application/octet-stream", "content-range": "bytes " + done + "-" + (end - 1) + "/" + file.size }
        });
        done = Math.max(done, told.received);
        tries = 0;
      } catch (error) {
        if (error.isFinal || ++tries > 5) { throw error; }
        part("words").textContent = "Connection lost, trying again: " + error.message;
        await pause(1000 * tries);
      }
      show(done, file.size, begun, first);
    }
  }
  async function upload() {
    const file = field("file").files[0];
    const told = await ask("POST", "/images", json({
      filename: field("filename").value.trim(), kind: field("kind").value, version: field("version").value.trim(),
      hardware_ids: field("hardware_ids").value.split(",").map(function (h) { return h.trim(); }).filter(Boolean),
      release_counter: Number(field("release_counter").value), description: field("description").value.trim(),
      role: field("role").value.trim() || "targets", length: file.size
    }));
    let image = told.image;
    if (image.state === "uploading") {
      await send(image.id, file, told.received);
      part("words").textContent = "Hashing…";
      image = await ask("POST", "/images/" + image.id + "/finish", {});
    }
    part("words").textContent = "All here.";
    part("progress").querySelector("progress").value = 100;
    part("name").textContent = image.filename;
    part("hash").textContent = image.sha256;
    part("release").href = "/console/releases/new?image=" + image.id;
    part("command").textContent = "outrider cloud keys sign-release DIR" +
      (image.role === "targets" ? "" : " --role " + image.role) + "\noutrider cloud keys upload DIR";
    part("done").hidden = false;
  }
  field("file").addEventListener("change", function () {
    const file = field("file").files[0];
    if (file && !field("filename").value) { field("filename").value = file.name; }
  });
  part("stop").addEventListener("click", function () { stopped = true; });
  form.addEventListener("submit", async function (event) {
    event.preventDefault();
    const button = form.querySelector("button.primary");
    stopped = false;
    button.disabled = true;
    part("stop").hidden = false;
    part("problem").hidden = true;
    part("done").hidden = true;
    try {
      await upload();
    } catch (error) {
      part("problem").textContent = error.message;
      part("problem").hidden = false;
    } finally {
      button.disabled = false;
      part("stop").hidden = true;
    }
  });
})();
