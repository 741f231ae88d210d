// Charts of a vehicle's signals. Dragging zooms; the server picks samples or roll-ups to fit the range.
"use strict";
(function () {
  const root = document.getElementById("charts");
  if (!root) { return; }
  const api = root.dataset.api;
  const plots = document.getElementById("plots");
  const filter = document.getElementById("chart-filter");
  const hint = document.getElementById("chart-hint");
  const rangeText = document.getElementById("chart-range");
  const boxes = Array.from(root.querySelectorAll("input[name=signal]"));
  const MAX = 6;
  const colours = ["#2f7de1", "#d9722e", "#219a5b", "#a855c7", "#c9a227", "#d0485f"];
  let range = null; // [from_ms, to_ms], null: all there is around the newest data
  const shown = new Map(); // signal → {holder, plot}
  const sync = uPlot.sync("outrider");

  function chosen() { return boxes.filter(function (b) { return b.checked; }).map(function (b) { return b.value; }); }
  function newest() { return Math.max.apply(null, chosen().map(function (s) { return Number(boxes.find(function (b) { return b.value === s; }).dataset.last); })); }
  function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function holder(signal) {
    const box = document.createElement("section");
    box.className = "card plot";
    const head = document.createElement("div");
    head.className = "head";
    const title = document.createElement("h2");
    title.textContent = signal;
    const note = document.createElement("span");
    note.className = "soft small";
    head.append(title, note);
    const chart = document.createElement("div");
    chart.className = "chart";
    box.append(head, chart);
    return { box: box, note: note, chart: chart, plot: null, request: 0 };
  }
  function format(value, digits) {
    return value === null || value === undefined ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: Math.min(digits, 6) });
  }
  function axis(label) {
    return { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, label: label || undefined, labelSize: 18, size: 62 };
  }
  // Tick step in seconds, format, and what is added when the year, day or minute changes; 24 hours a day.
  const day = "\n{YYYY}-{MM}-{DD}";
  const TIMES = [
    [31536000, "{YYYY}", null, null, null, null, null, null, 1],
    [2419200, "{YYYY}-{MM}", null, null, null, null, null, null, 1],
    [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", day, null, day, null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", day, null, day, null, null, null, 1],
    [0.001, "{ss}.{fff}", day + " {HH}:{mm}", null, day + " {HH}:{mm}", null, "\n{HH}:{mm}", null, 1]
  ];
  function timeAxis() { return { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, values: TIMES }; }
  function draw(entry, answer, colour, labels) {
    const p = answer.points;
    const raw = answer.resolution === "raw";
    const t = p.time_ms.map(function (ms) { return ms / 1000; });
    const label = function (u, v) { return v === null ? "–" : (labels[v] || format(v, answer.digits)) + (answer.unit ? " " + answer.unit : ""); };
    const series = [{ value: function (u, v) { return v === null ? "–" : outrider.local(v * 1000); } }];
    let data;
    let bands;
    if (raw) {
      data = [t, p.value];
      series.push({ label: "value", stroke: colour, width: 1.5, paths: uPlot.paths.stepped({ align: 1 }), value: label, points: { show: t.length < 120, size: 4 } });
    } else {
      data = [t, p.max, p.min, p.mean];
      bands = [{ series: [1, 2], fill: colour + "33" }];
      series.push({ label: "max", stroke: colour + "88", width: 1, value: label, points: { show: false } }, { label: "min", stroke: colour + "88", width: 1, value: label, points: { show: false } }, { label: "mean", stroke: colour, width: 1.75, value: label, points: { show: t.length < 120, size: 4 } });
    }
    const yAxis = axis(answer.unit);
    if (Object.keys(labels).length) {
      yAxis.values = function (u, ticks) { return ticks.map(function (v) { return labels[v] !== undefined ? labels[v] : (Number.isInteger(v) ? v : ""); }); };
    }
    const options = {
      width: Math.max(280, entry.chart.clientWidth), height: 220, series: series, bands: bands,
      scales: { x: { time: true, min: Date.parse(answer.from) / 1000, max: Date.parse(answer.to) / 1000 } },
      axes: [timeAxis(), yAxis],
      cursor: { sync: { key: sync.key }, drag: { x: true, y: false, setScale: false } },
      hooks: { setSelect: [function (u) {
        if (u.select.width < 8) { return; }
        const from = u.posToVal(u.select.left, "x") * 1000;
        const to = u.posToVal(u.select.left + u.select.width, "x") * 1000;
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        if (to - from >= 20) { range = [from, to]; load(); }
      }] }
    };
    if (range) { options.scales.x.min = range[0] / 1000; options.scales.x.max = range[1] / 1000; }
    else if (t.length > 1) { options.scales.x.min = t[0]; options.scales.x.max = t[t.length - 1]; }
    if (entry.plot) { entry.plot.destroy(); }
    entry.chart.replaceChildren();
    entry.plot = new uPlot(options, data, entry.chart);
    const words = { raw: "every sample", "1s": "1 s roll-up", "10s": "10 s roll-up", "1m": "1 min roll-up", "1h": "1 h roll-up" };
    entry.note.textContent = t.length + " points, " + words[answer.resolution] + (answer.next ? ", cut off: zoom in to see the rest" : "");
    entry.chart.dataset.points = t.length;
  }
  function fail(entry, text) {
    if (entry.plot) { entry.plot.destroy(); entry.plot = null; }
    const p = document.createElement("p");
    p.className = "empty";
    p.textContent = text;
    entry.chart.replaceChildren(p);
    entry.note.textContent = "";
    entry.chart.dataset.points = 0;
  }
  async function fetchOne(signal, entry, colour) {
    const request = ++entry.request;
    const query = new URLSearchParams({ signal: signal, resolution: "auto", limit: "2000" });
    if (range) { query.set("from", String(Math.floor(range[0]))); query.set("to", String(Math.ceil(range[1]))); }
    try {
      const response = await fetch(api + "/history?" + query, { headers: { accept: "application/json" } });
      const answer = await response.json();
      if (request !== entry.request) { return; }
      if (!response.ok) { fail(entry, answer.detail || "The service answered " + response.status + "."); return; }
      if (!answer.points.time_ms.length) { fail(entry, "No samples in this range."); return; }
      const box = boxes.find(function (b) { return b.value === signal; });
      draw(entry, answer, colour, JSON.parse(box.dataset.labels));
    } catch (error) {
      if (request === entry.request) { fail(entry, "No answer from the service. Is it running?"); }
    }
  }
  function load() {
    const names = chosen();
    shown.forEach(function (entry, name) {
      if (!names.includes(name)) { if (entry.plot) { entry.plot.destroy(); } entry.box.remove(); shown.delete(name); }
    });
    names.forEach(function (name, i) {
      if (!shown.has(name)) { const entry = holder(name); shown.set(name, entry); plots.append(entry.box); }
      fetchOne(name, shown.get(name), colours[i % colours.length]);
    });
    hint.hidden = names.length > 0;
    boxes.forEach(function (b) { b.disabled = !b.checked && names.length >= MAX; });
    rangeText.textContent = range ? outrider.local(range[0]) + " to " + outrider.local(range[1]) : "the last hour there is data of";
    root.querySelectorAll("[data-span]").forEach(function (b) { b.setAttribute("aria-pressed", String(range !== null && Number(b.dataset.span) === Math.round(range[1] - range[0]))); });
    document.getElementById("chart-last").setAttribute("aria-pressed", String(range === null));
    const query = new URLSearchParams();
    names.forEach(function (n) { query.append("signal", n); });
    root.querySelectorAll("a[data-download]").forEach(function (a) {
      const q = new URLSearchParams(query);
      if (range) { q.set("from", String(Math.floor(range[0]))); q.set("to", String(Math.ceil(range[1]))); }
      a.href = api + "/history." + a.dataset.download + "?" + q;
      a.hidden = names.length === 0;
    });
    history.replaceState(null, "", names.length ? "?" + query : location.pathname);
  }
  function span(ms) { const end = range ? range[1] : newest() + 1; range = [end - ms, end]; load(); }

  boxes.forEach(function (b) { b.addEventListener("change", load); });
  filter.addEventListener("input", function () {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    boxes.forEach(function (b) {
      b.closest("li").hidden = !b.checked && !words.every(function (w) { return b.value.toLowerCase().includes(w); });
    });
  });
  root.querySelectorAll("[data-span]").forEach(function (b) {
    b.addEventListener("click", function () { if (chosen().length) { span(Number(b.dataset.span)); } });
  });
  document.getElementById("chart-last").addEventListener("click", function () { range = null; load(); });
  document.getElementById("chart-out").addEventListener("click", function () {
    if (!range) { span(7200000); return; }
    const middle = (range[0] + range[1]) / 2, half = range[1] - range[0];
    range = [middle - half, middle + half];
    load();
  });
  document.getElementById("chart-earlier").addEventListener("click", function () { move(-0.5); });
  document.getElementById("chart-later").addEventListener("click", function () { move(0.5); });
  function move(part) {
    if (!chosen().length) { return; }
    if (!range) { const end = newest() + 1; range = [end - 3600000, end]; }
    const step = (range[1] - range[0]) * part;
    range = [range[0] + step, range[1] + step];
    load();
  }
  let timer = 0;
  window.addEventListener("resize", function () {
    clearTimeout(timer);
    timer = setTimeout(function () {
      shown.forEach(function (e) { if (e.plot) { e.plot.setSize({ width: Math.max(280, e.chart.clientWidth), height: 220 }); } });
    }, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", load);
  load();
})();
