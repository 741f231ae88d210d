// Newest values of a vehicle: one row per signal, updated by server-sent events.
"use strict";
(function () {
  const table = document.getElementById("live");
  if (!table) { return; }
  const body = table.querySelector("tbody");
  const state = document.getElementById("live-state");
  const filter = document.getElementById("live-filter");
  const count = document.getElementById("live-count");
  const empty = document.getElementById("live-empty");
  const rows = new Map();
  let skew = 0;

  function cell(row, name) {
    const td = document.createElement("td");
    td.className = name;
    row.append(td);
    return td;
  }
  function make(value) {
    const row = document.createElement("tr");
    row.dataset.signal = value.signal;
    const name = document.createElement("th");
    name.scope = "row";
    const dot = value.signal.lastIndexOf(".");
    const path = document.createElement("span");
    path.className = "soft";
    path.textContent = value.signal.slice(0, dot + 1);
    const link = document.createElement("a");
    link.href = table.dataset.charts + "?signal=" + encodeURIComponent(value.signal);
    link.textContent = value.signal.slice(dot + 1);
    name.append(path, link);
    row.append(name);
    const entry = { row: row, value: cell(row, "value"), unit: cell(row, "unit soft"), age: cell(row, "age soft nowrap"), note: cell(row, "note-cell"), last: value };
    const after = Array.from(rows.keys()).filter(function (k) { return k > value.signal; }).sort()[0];
    body.insertBefore(row, after ? rows.get(after).row : null);
    rows.set(value.signal, entry);
    return entry;
  }
  function quality(q) {
    const words = [];
    if (q & 1) { words.push("bad checksum"); }
    if (q & 2) { words.push("bad counter"); }
    if (q & 4) { words.push("timed out"); }
    if (q & 8) { words.push("out of range"); }
    return words.join(", ");
  }
  function show(entry) {
    const v = entry.last;
    const stale = Date.now() - skew - v.time_ms > v.stale_after_ms;
    entry.row.classList.toggle("stale", stale);
    entry.age.textContent = outrider.age(v.time_ms + skew);
    const words = [stale ? "stale" : "", quality(v.quality)].filter(Boolean).join(", ");
    entry.note.replaceChildren();
    if (words) {
      const badge = document.createElement("span");
      badge.className = "badge " + (v.quality ? "bad" : "warn");
      badge.textContent = words;
      entry.note.append(badge);
    }
  }
  function update(values, flash) {
    values.forEach(function (v) {
      const entry = rows.get(v.signal) || make(v);
      const changed = entry.value.textContent !== v.text;
      entry.last = v;
      entry.value.textContent = v.text;
      entry.value.title = v.label ? "raw " + v.raw : "";
      entry.unit.textContent = v.unit;
      entry.age.title = outrider.local(v.time_ms);
      if (flash && changed) {
        entry.row.classList.remove("fresh");
        void entry.row.offsetWidth;
        entry.row.classList.add("fresh");
      }
      show(entry);
    });
    search();
  }
  function search() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach(function (entry, name) {
      const text = (name + " " + entry.value.textContent).toLowerCase();
      const match = words.every(function (w) { return text.includes(w); });
      entry.row.hidden = !match;
      shown += match ? 1 : 0;
    });
    count.textContent = rows.size ? shown + " of " + rows.size + " signals" : "";
    empty.hidden = rows.size > 0;
    table.hidden = rows.size === 0;
  }
  function say(text, kind) {
    state.textContent = text;
    state.className = "badge " + kind;
  }
  filter.addEventListener("input", search);
  setInterval(function () { rows.forEach(show); }, 1000);
  update(JSON.parse(document.getElementById("live-first").textContent), false);

  let dropped = 0;
  const source = new EventSource(table.dataset.source);
  source.addEventListener("open", function () { say("live", "good"); });
  source.addEventListener("heartbeat", function () { say("live, nothing new", ""); });
  source.addEventListener("values", function (event) {
    const message = JSON.parse(event.data);
    dropped += message.dropped;
    say("live", "good");
    update(message.values, true);
  });
  source.addEventListener("error", function () {
    say(source.readyState === EventSource.CLOSED ? "ended; reload the page" : "connection lost, trying again", "warn");
  });
  window.addEventListener("pagehide", function () { source.close(); });
})();
