"use strict";
(() => {
  const $ = (where, query) => where.querySelector(query);
  const $$ = (where, query) => [...where.querySelectorAll(query)];
  const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (kind) e.className = kind; return e; };
  const esc = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const remembered = {
    get(key) { try { return sessionStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { sessionStorage.setItem(key, value); } catch { /* not allowed for files here */ } },
  };

  // --- theme ---------------------------------------------------------------------------------------------------------
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  let theme = remembered.get("theme") || "auto";
  const isDark = () => root.dataset.theme === "dark";
  const redraws = [];
  function applyTheme() {
    root.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    $(document, "#theme span").textContent = theme;
    redraws.forEach((draw) => draw());
  }
  $(document, "#theme").addEventListener("click", () => {
    theme = { auto: isDark() ? "light" : "dark", light: "dark", dark: "auto" }[theme];
    remembered.set("theme", theme);
    applyTheme();
  });
  system.addEventListener("change", applyTheme);
  applyTheme();
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // --- tables, commands, links into closed cards ---------------------------------------------------------------------
  for (const table of $$(document, "table.sortable")) {
    $$(table, "thead th").forEach((head, column) => $(head, "button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      $$(table, "thead th").forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (body) => { const cell = body.rows[0].cells[column]; return cell.dataset.key ?? body.dataset.key ?? cell.textContent; };
      const bodies = [...table.tBodies].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what there is no number of comes last, either way
        const order = isNaN(x) || isNaN(y) ? String(x).localeCompare(String(y), "en", { numeric: true }) : x - y;
        return down ? -order : order;
      });
      table.append(...bodies);
    }));
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
    const area = make("textarea"); area.value = button.dataset.copy; document.body.append(area); area.select();
    if (document.execCommand("copy")) done();
    area.remove();
  });
  function openTarget() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView({ block: "start" }); }
  }
  addEventListener("hashchange", openTarget);
  const images = JSON.parse($(document, "#images").textContent);
  for (const img of $$(document, "img[data-image]")) img.src = images[img.dataset.image];

  const reload = Number(document.body.dataset.reload);
  if (reload) setTimeout(() => location.reload(), 1000 * reload);

  // --- what the charts are drawn from --------------------------------------------------------------------------------
  async function unpacked(id) {
    const raw = atob($(document, id).textContent.trim()), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }
  function numbers(packed) {
    const raw = atob(packed.b), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const kinds = { f4: Float32Array, f8: Float64Array, i4: Int32Array };
    return new kinds[packed.t](bytes.buffer);
  }
  const show = (value, digits = 4) => value === null || Number.isNaN(value) ? "NaN" : Number.isFinite(value) ? Number(value.toPrecision(digits)).toString() : value > 0 ? "∞" : "−∞";
  const SYMBOLS = { nan_rate: ["x", "✕"], nan_distortion: ["cross", "✚"], nan_loss: ["x", "✕"], high_gradient: ["triangle-up", "▲"], loss_scale: ["circle-open", "○"] };
  const symbol = (cause) => SYMBOLS[cause] || ["diamond", "◆"];
  const narrow = () => innerWidth < 600;

  function layout(title, more = {}) {
    const line = { gridcolor: css("--grid"), zerolinecolor: css("--grid"), linecolor: css("--line"), tickcolor: css("--line"), automargin: true, ticks: "outside", ticklen: 4 };
    const { xaxis = {}, yaxis = {}, yaxis2, ...rest } = more;
    return {
      title: { text: title, x: 0, xref: "container", xanchor: "left", pad: { l: 16, t: 13 }, y: 1, yanchor: "top", yref: "container", automargin: false, font: { size: 14, weight: 600, color: css("--ink") } },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--muted") },
      paper_bgcolor: css("--paper"), plot_bgcolor: css("--paper"), showlegend: false, hovermode: "closest",
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--muted"), font: { color: css("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily }, align: "left" },
      margin: { l: 58, r: narrow() ? 12 : 20, t: 44, b: 44 }, dragmode: narrow() ? false : "zoom",
      xaxis: { ...line, zeroline: false, ...xaxis }, yaxis: { ...line, zeroline: false, ...yaxis }, ...(yaxis2 ? { yaxis2: { ...line, zeroline: false, ...yaxis2 } } : {}), ...rest,
    };
  }
  const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] };

  function draw(element, traces, options, after) {
    const first = !element.classList.contains("js-plotly-plot");
    const done = Plotly.react(element, traces, options, narrow() ? { ...config, displayModeBar: false } : config);
    if (first && after) done.then(() => after(element));
    return done;
  }
  // drawn when first near the screen, and again when told to
  function whenSeen(element, drawIt) {
    let seen = false;
    const again = () => { if (seen) drawIt(); };
    redraws.push(again);
    const observer = new IntersectionObserver((entries) => {
      if (!seen && entries.some((entry) => entry.isIntersecting)) { seen = true; observer.disconnect(); drawIt(); }
    }, { rootMargin: "500px" });
    observer.observe(element);
    return again;
  }

  // --- runs ----------------------------------------------------------------------------------------------------------
  function smoothed(values, amount, logarithmic) {
    const n = values.length, width = Math.floor(amount ? Math.max(1, (n / 400) * 2 ** (amount - 1)) : 0);
    if (!width) return Array.from(values, (v) => Number.isFinite(v) ? v : null);
    const sum = new Float64Array(n + 1), count = new Int32Array(n + 1);
    for (let i = 0; i < n; i++) {
      const good = Number.isFinite(values[i]) && (!logarithmic || values[i] > 0);
      sum[i + 1] = sum[i] + (good ? (logarithmic ? Math.log(values[i]) : values[i]) : 0);
      count[i + 1] = count[i] + good;
    }
    return Array.from(values, (v, i) => {
      const a = Math.max(0, i - width), b = Math.min(n, i + width + 1), k = count[b] - count[a];
      if (!Number.isFinite(v) || !k) return null;
      const mean = (sum[b] - sum[a]) / k;
      return logarithmic ? Math.exp(mean) : mean;
    });
  }
  const median = (list) => { const s = [...list].sort((a, b) => a - b); return s.length ? s[s.length >> 1] : NaN; };
  // from the lowest value to a little above where training began: what lies above is no progress, and is cut off
  function limits(lines) {
    const finite = lines.map((line) => line.filter((v) => v !== null)).filter((line) => line.length);
    if (!finite.length) return null;
    const low = finite.reduce((m, line) => line.reduce((a, b) => Math.min(a, b), m), Infinity);
    const highest = finite.reduce((m, line) => line.reduce((a, b) => Math.max(a, b), m), -Infinity);
    const begin = median(finite.map((line) => line[0]));
    const high = Math.min(highest, begin + 0.35 * Math.max(begin - low, 1e-9)), margin = 0.05 * (high - low) || 0.1;
    return { range: [low - margin, high + margin], highest };
  }

  function runSection(id, data) {
    const section = document.getElementById(id), charts = $$(section, "[data-chart]");
    const state = { axis: remembered.get("axis") || "step", smooth: 4, hidden: new Set() };
    const runs = data.runs.map((run) => {
      const own = { ...run };
      for (const name of ["step", "hours", "nelbo", "distortion", "rate", "norm", "lr"]) own[name] = numbers(run[name]);
      own.marks = { ...run.marks };
      for (const name of ["first", "last", "count", "cause", "at", "hours", "norm", "nelbo", "rank", "head", "recorded"]) own.marks[name] = numbers(run.marks[name]);
      own.cumulated = { step: numbers(run.cumulated.step), count: numbers(run.cumulated.count), hours: numbers(run.cumulated.hours) };
      own.evaluations = { step: numbers(run.evaluations.step), nelbo: numbers(run.evaluations.nelbo) };
      return own;
    });
    const color = (run) => data.labels[run.label][isDark() ? "dark" : "light"];
    const dash = (run) => data.labels[run.label].dash;
    const visible = () => runs.filter((run) => !state.hidden.has(run.label));
    const perEpoch = runs.filter((run) => run.last[0] > run.perEpoch).map((run) => run.perEpoch).find((n) => n > 0);
    const axes = {
      step: ["training step", (run, step) => step],
      epoch: ["epoch", (run, step) => step / (run.perEpoch || perEpoch || 1)],
      hours: ["hours", (run, step, hours) => hours],
    };
    // in full: by itself a tooltip has a step of seven digits in millions
    const where = (run, step, hours) => state.axis === "step" ? `step ${step.toLocaleString("en")}` : `${axes[state.axis][0]} ${show(axes[state.axis][1](run, step, hours), 5)}`;
    const at = (run, steps, hours) => Array.from(steps, (step, i) => axes[state.axis][1](run, step, hours ? hours[i] : 0));
    const causeName = (run, i) => data.causes[run.marks.causes[run.marks.cause[i]]] ?? run.marks.causes[run.marks.cause[i]];

    function told(run, i) {
      const m = run.marks, many = m.count[i] > 1;
      const lines = [`<b>${esc(run.name)}</b>`, many ? `${m.count[i].toLocaleString("en")} skipped updates, steps ${m.first[i].toLocaleString("en")} to ${m.last[i].toLocaleString("en")}` : `skipped update, step ${m.first[i].toLocaleString("en")}`, `cause: ${esc(causeName(run, i))}`];
      if (m.ranks[m.rank[i]]) lines.push(`not finite: ${esc(m.ranks[m.rank[i]])}`);
      if (many) lines.push("of the first of them:");
      if (m.heads[m.head[i]]) lines.push(`stands out, of posteriors and priors: ${esc(m.heads[m.head[i]])}`);
      lines.push(`gradient norm ${show(m.norm[i])}`);
      lines.push(m.recorded[i] ? `recorded: replay --skip ${m.recorded[i]} (click)` : "not recorded");
      return lines.join("<br>");
    }
    function markTraces(y, more = {}) {
      return visible().filter((run) => run.marks.first.length).map((run) => ({
        type: "scatter", mode: "markers", x: at(run, run.marks.first, run.marks.hours), y: y(run),
        text: Array.from(run.marks.first, (_, i) => told(run, i)), hovertemplate: "%{text}<extra></extra>",
        customdata: Array.from(run.marks.first, (_, i) => [run.index, i]), name: `skips of ${esc(run.name)}`, cliponaxis: false,
        marker: { color: color(run), size: 8, symbol: Array.from(run.marks.cause, (c) => symbol(run.marks.causes[c])[0]), line: { width: 1, color: css("--paper") } }, ...more,
      }));
    }
    // a line ends where nothing was applied for long: a stroke over many skipped updates would look like a training
    function broken(run, x, y, text) {
      const known = Array.from(y, (_, i) => i).filter((i) => y[i] !== null);
      const gaps = known.slice(1).map((i, k) => run.step[i] - run.step[known[k]]);
      const long = Math.max(4 * median(gaps), 0.02 * (run.step.at(-1) || 0));
      const bx = [], by = [], told = [], sizes = [];
      known.forEach((i, k) => {
        const before = k > 0 && gaps[k - 1] <= long, after = k < gaps.length && gaps[k] <= long;
        if (k && !before) { bx.push(x[i]); by.push(null); told.push(""); sizes.push(0); }
        bx.push(x[i]); by.push(y[i]); told.push(text(i)); sizes.push(before || after ? 0 : 4);  // alone: a dot
      });
      return { x: bx, y: by, text: told, ...(sizes.some(Boolean) ? { mode: "lines+markers", marker: { size: sizes, color: color(run), line: { width: 0 } } } : { mode: "lines" }) };
    }
    const curve = (run, name, logarithmic = false) => smoothed(run[name], name === "lr" ? 0 : state.smooth, logarithmic);
    // a tooltip has the number of the point itself, with no more digits than are kept, whatever the line is smoothed to
    const DIGITS = { nelbo: 5 }, OF_MANY = { norm: "the largest", lr: "the last" };
    function own(run, name, line) {
      const digits = DIGITS[name] ?? 4, many = run.width > 1 ? `, ${OF_MANY[name] ?? "the mean"} of about ${show(run.width, 3)} steps` : "";
      return (i) => {
        const value = show(run[name][i], digits), drawn = show(line[i], digits);
        return `${where(run, run.step[i], run.hours[i])}: ${value}${many}${value === drawn ? "" : `<br>the line, smoothed: ${drawn}`}`;
      };
    }
    function lines(name, more = {}, logarithmic = false) {
      return visible().map((run) => ({ run, line: curve(run, name, logarithmic) })).map(({ run, line }) => ({
        type: "scatter", ...broken(run, at(run, run.step, run.hours), line, own(run, name, line)),
        name: esc(run.name), line: { color: color(run), width: 1.6, dash: dash(run) }, connectgaps: false,
        hovertemplate: `<b>${esc(run.name)}</b><br>%{text}<extra></extra>`, ...more,
      }));
    }
    const xaxis = () => {
      const last = Math.max(...visible().map((run) => axes[state.axis][1](run, run.last[0], run.last[1])), 0);
      return { title: { text: axes[state.axis][0], standoff: 6 }, ...(last > 0 ? { range: [-0.005 * last, 1.015 * last] } : {}) };
    };
    const clickable = (element) => element.on("plotly_click", (event) => {
      const point = event.points.find((p) => Array.isArray(p.customdata));
      if (point) panel(...point.customdata);
    });

    const drawings = {
      nelbo(element) {
        const curves = lines("nelbo"), cut = limits(curves.map((c) => c.y)), traces = [...curves];
        const [low, high] = cut ? cut.range : [0, 1];
        // on the line as it is drawn, and inside of the frame: what lies on its edge has no tooltip
        const edge = 0.02 * (high - low);
        traces.push(...markTraces((run) => {
          const line = curve(run, "nelbo");
          let place = 0, last = null;
          return Array.from(run.marks.first, (step, i) => {
            while (place < line.length && run.step[place] <= step) { if (line[place] !== null) last = line[place]; place++; }
            const value = last ?? (Number.isFinite(run.marks.at[i]) ? run.marks.at[i] : high);
            return Math.min(Math.max(value, low + edge), high - edge);
          });
        }));
        const highest = Math.max(0, ...visible().map((run) => run.cumulated.count.at(-1) || 0)), wide = highest > 20;
        const f = wide ? (v) => Math.log10(1 + v) : (v) => v;
        for (const run of visible()) {
          const x = [0, ...at(run, run.cumulated.step, run.cumulated.hours), axes[state.axis][1](run, run.last[0], run.last[1])];
          const counts = [0, ...run.cumulated.count]; counts.push(counts.at(-1));
          const steps = [0, ...run.cumulated.step, run.last[0]], hours = [0, ...run.cumulated.hours, run.last[1]];
          traces.push({ type: "scatter", mode: "lines", x, y: counts.map(f), text: counts.map((count, i) => `${where(run, steps[i], hours[i])}: ${count.toLocaleString("en")}`), yaxis: "y2", name: esc(run.name), line: { color: color(run), width: 1.8, shape: "hv", dash: dash(run) }, hovertemplate: `<b>${esc(run.name)}</b><br>%{text} skipped so far<extra></extra>` });
        }
        const ticks = [0, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5, 1e6, 1e7].filter((t) => t <= 1.3 * highest).filter((t, i, all) => all.length < 8 || String(t).startsWith("1") || !t);
        draw(element, traces, layout((narrow() ? "NELBO and skips" : "Training NELBO and skipped updates") + (cut && cut.highest > high ? ` <span style="font-size:12px">(cut off; highest ${show(cut.highest, 2)})</span>` : ""), {
          xaxis: { ...xaxis(), anchor: "y2" },
          yaxis: { domain: [0.38, 1], title: { text: "nats per dimension", standoff: 8 }, range: [low, high] },
          yaxis2: { domain: [0, 0.29], title: { text: narrow() ? "skipped" : "cumulated skips", standoff: 8 }, rangemode: "tozero", range: [f(0) - 0.04 * f(Math.max(5, highest)), 1.12 * f(Math.max(wide ? 1 : 5, highest))], ...(wide ? { tickvals: ticks.map(f), ticktext: ticks.map((t) => t.toLocaleString("en")) } : { dtick: highest > 10 ? 5 : highest > 5 ? 2 : 1 }) },
        }), clickable);
      },
      rate(element) { const traces = lines("rate"); draw(element, traces, layout("Rate", { xaxis: xaxis(), yaxis: { title: { text: "nats per dimension", standoff: 8 }, ...robust(traces) } })); },
      distortion(element) { const traces = lines("distortion"), cut = limits(traces.map((t) => t.y)); draw(element, traces, layout("Distortion", { xaxis: xaxis(), yaxis: { title: { text: "nats per dimension", standoff: 8 }, ...(cut ? { range: cut.range } : {}) } })); },
      norm(element) {
        const traces = lines("norm", { line: undefined }, true);
        traces.forEach((trace, i) => { trace.line = { color: color(visible()[i]), width: 1.2, dash: dash(visible()[i]) }; });
        const tops = visible().flatMap((run) => [...run.norm, ...run.marks.norm]).filter((v) => Number.isFinite(v) && v > 0);
        const top = tops.reduce((a, b) => Math.max(a, b), 1), low = tops.reduce((a, b) => Math.min(a, b), top);
        const edge = Math.min(top, 1e12) * 3;
        traces.push(...markTraces((run) => Array.from(run.marks.norm, (v) => Number.isFinite(v) && v > 0 ? Math.min(v, edge) : edge)));
        draw(element, traces, layout("Gradient norm" + (runs.some((run) => run.marks.norm.some((v) => !Number.isFinite(v))) ? ' <span style="font-size:12px">(marks at the top: not finite)</span>' : ""), { xaxis: xaxis(), yaxis: { type: "log", exponentformat: "power", title: { text: "before clipping", standoff: 8 }, range: [Math.log10(low) - 0.1, Math.log10(edge) + 0.1], dtick: Math.max(1, Math.ceil(Math.log10(edge / low) / 6)) } }), clickable);
      },
      lr(element) { draw(element, lines("lr"), layout("Learning rate", { xaxis: xaxis(), yaxis: { rangemode: "tozero", exponentformat: "power" } })); },
      evaluations(element) {
        const found = visible().flatMap((run) => [...run.evaluations.nelbo]).filter(Number.isFinite);
        const far = found.length && Math.min(...found) > 0 && Math.max(...found) > 30 * Math.min(...found);
        draw(element, visible().filter((run) => run.evaluations.step.length).map((run) => ({ type: "scatter", mode: "lines+markers", x: at(run, run.evaluations.step, Array.from(run.evaluations.step, (s) => hoursAt(run, s))), y: Array.from(run.evaluations.nelbo), text: Array.from(run.evaluations.step, (s, i) => `${where(run, s, hoursAt(run, s))}: ${show(run.evaluations.nelbo[i], 5)}`), name: esc(run.name), line: { color: color(run), width: 1.6, dash: dash(run) }, marker: { size: 6 }, hovertemplate: `<b>${esc(run.name)}</b><br>%{text}<extra></extra>` })), layout(narrow() ? "Validation NELBO (EMA)" : "Validation NELBO, of the averaged weights (EMA)", { xaxis: xaxis(), yaxis: { ...(far ? { type: "log", exponentformat: "power", dtick: 1 } : {}), title: { text: "nats per dimension", standoff: 8 } } }));
      },
    };
    // the middle 98% where a few values would flatten all others
    function robust(traces) {
      const all = traces.flatMap((t) => t.y.filter((v) => v !== null)).sort((a, b) => a - b);
      if (!all.length) return {};
      const [low, high, top] = [all[0], all[Math.floor(0.98 * (all.length - 1))], all.at(-1)];
      return top > low + 3 * (high - low) && high > low ? { range: [low - 0.05 * (high - low), high + 0.3 * (high - low)] } : {};
    }
    function hoursAt(run, step) {
      let i = run.step.findIndex((s) => s >= step);
      return run.hours[i < 0 ? run.hours.length - 1 : i];
    }

    function panel(index, i) {
      const box = $(section, "[data-panel]"), run = runs.find((r) => r.index === index), m = run.marks, many = m.count[i] > 1;
      box.replaceChildren();
      const title = make("p"); title.append(make("b", many ? `${m.count[i]} skipped updates, steps ${m.first[i].toLocaleString("en")} to ${m.last[i].toLocaleString("en")}` : `Step ${m.first[i].toLocaleString("en")}: update skipped`), " ", make("span", causeName(run, i), "cause"), " ", make("span", run.name, "muted"));
      box.append(title);
      const facts = make("dl", undefined, "facts");
      const fact = (name, value) => { const d = make("div"); d.append(make("dt", name), make("dd", value)); facts.append(d); };
      const of = many ? " of the first" : "";
      fact(`NELBO${of} (nats/dim)`, show(m.nelbo[i])); fact(`gradient norm${of}`, show(m.norm[i]));
      if (m.ranks[m.rank[i]]) fact(`not finite${of} on`, m.ranks[m.rank[i]]);
      if (m.heads[m.head[i]]) fact(`head that stands out${of}, of posteriors and priors`, m.heads[m.head[i]]);
      box.append(facts);
      if (m.recorded[i]) {
        const text = run.replays[m.recorded[i]], line = make("div", undefined, "command"), copy = make("button", "copy", "copy");
        copy.type = "button"; copy.dataset.copy = text; line.append(make("code", text), copy);
        const more = make("a", "all that is known of it"); more.href = `#${id}-run${run.index}-skip${m.recorded[i]}`;
        const p = make("p"); p.append("Do it again, to see which operation did it (", more, "):");
        box.append(p, line);
      } else box.append(make("p", "Not recorded, so that it cannot be done again: the first few are kept (--record-skips).", "muted"));
    }

    const legend = $(section, "[data-legend]");
    if (legend) {
      data.labels.forEach((label, position) => {
        const button = make("button"); button.type = "button"; button.setAttribute("aria-pressed", "true");
        const swatch = make("span", undefined, "swatch"); swatch.style.setProperty("--light", label.light); swatch.style.setProperty("--dark", label.dark);
        const skips = runs.filter((run) => run.label === position).map((run) => run.cumulated.count.at(-1) || 0);
        button.append(swatch, `${label.name}: ${skips.join(" + ")} skipped${skips.length > 1 ? ", by seed" : ""}`);
        button.addEventListener("click", () => {
          state.hidden.has(position) ? state.hidden.delete(position) : state.hidden.add(position);
          button.setAttribute("aria-pressed", String(!state.hidden.has(position)));
          redraw();
        });
        legend.append(button);
      });
      const used = new Set(runs.flatMap((run) => [...run.marks.cause].map((c) => run.marks.causes[c])));
      for (const cause of used) legend.append(make("span", `${symbol(cause)[1]} ${data.causes[cause] ?? cause}`, "key"));
    }
    const redrawOne = charts.filter((element) => drawings[element.dataset.chart]).map((element) => {
      if (element.dataset.chart === "evaluations") {
        if (!runs.some((run) => run.evaluations.step.length > 1)) return () => {};
        element.hidden = false;
      }
      return whenSeen(element, () => drawings[element.dataset.chart](element));
    });
    const redraw = () => redrawOne.forEach((again) => again());
    const axisButtons = $$(section, "[data-axis]");
    function chooseAxis(name) {
      state.axis = name; remembered.set("axis", name);
      axisButtons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.axis === name)));
      redraw();
    }
    axisButtons.forEach((button) => {
      if (button.dataset.axis === "epoch" && !perEpoch) { button.disabled = true; button.title = "no run has done an epoch"; button.hidden = true; }
      button.addEventListener("click", () => chooseAxis(button.dataset.axis));
    });
    if (state.axis === "epoch" && !perEpoch) state.axis = "step";
    if (axisButtons.length) chooseAxis(state.axis);
    $(section, "[data-smooth]")?.addEventListener("input", (event) => { state.smooth = Number(event.target.value); redraw(); });

    $(section, "[data-csv]")?.addEventListener("click", () => {
      const rows = ["run,step,cause"];
      for (const run of runs) {
        const steps = numbers(run.all.step), causes = numbers(run.all.cause); let step = 0;
        steps.forEach((difference, i) => { step += difference; rows.push(`"${run.name.replace(/"/g, '""')}",${step},${run.marks.causes[causes[i]]}`); });
      }
      const link = make("a"); link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" })); link.download = "skips.csv"; link.click();
    });

    maps(section, data.quantities, runs.filter((run) => run.looks).map((run) => ({ name: run.name, seed: run.seed, looks: run.looks, color: () => color(run) })), false);
    gallery(section, data, runs);
  }

  // --- heads ---------------------------------------------------------------------------------------------------------
  function maps(section, quantities, runs, categories) {
    const place = $(section, "[data-maps]");
    if (!place || !runs.length) return;
    const names = Object.keys(quantities).filter((name) => runs.some((run) => run.looks.values[name]));
    const roles = [...new Set(runs.flatMap((run) => run.looks.roles))];
    const seeds = [...new Set(runs.map((run) => run.seed))];
    const state = { quantity: names.includes("log_sigma_max") ? "log_sigma_max" : names[0], role: "all", seed: seeds[0] };
    const skips = (run) => numbers(run.looks.skipped).reduce((a, b) => a + b, 0);
    if (seeds.length > 1) state.seed = seeds.map((seed) => [runs.filter((r) => r.seed === seed).reduce((n, r) => n + skips(r), 0), seed]).sort((a, b) => b[0] - a[0])[0][1];
    const choices = (box, options, key, text) => options.forEach((option) => {
      const button = make("button", text(option)); button.type = "button"; button.setAttribute("aria-pressed", String(state[key] === option));
      button.addEventListener("click", () => { state[key] = option; [...box.children].forEach((b) => b.setAttribute("aria-pressed", String(b === button))); build(); });
      box.append(button);
    });
    choices($(section, "[data-quantities]"), names, "quantity", (name) => quantities[name].replace(/ \(.*| of its last layer/, ""));
    if (roles.length > 1) choices($(section, "[data-roles]"), ["all", ...roles], "role", (role) => role);
    else $(section, "[data-roles]").hidden = true;
    const select = $(section, "[data-seeds] select");
    if (select && seeds.length > 1) {
      seeds.forEach((seed) => { const option = make("option", String(seed)); option.value = seed; option.selected = seed === state.seed; select.append(option); });
      select.parentElement.hidden = false;
      select.addEventListener("change", () => { state.seed = seeds.find((seed) => String(seed) === select.value); build(); });
    }
    const hue = { log_sigma_min: "two", log_sigma_max: "two" };

    function table(run) {
      const { looks } = run, packed = looks.values[state.quantity];
      const rows = looks.heads.map((_, i) => i).filter((i) => state.role === "all" || looks.roles[i] === state.role);
      const all = packed ? numbers(packed) : null, seen = packed ? numbers(looks.seen[state.quantity]) : null, width = looks.heads.length;
      const steps = numbers(looks.step), columns = Array.from(steps, (_, j) => j);
      // a column that stands for several looks reaches to the next one
      const when = (j) => {
        const from = steps[j].toLocaleString("en"), to = j + 1 < steps.length ? steps[j + 1] - 1 : Infinity;
        if (!looks.shared || to <= steps[j]) return `step ${from}`;
        return Number.isFinite(to) ? `looks of about steps ${from} to ${to.toLocaleString("en")}` : `looks from step ${from} on`;
      };
      return { when, rows, steps, flags: numbers(looks.skipped), value: (i, j) => all[j * width + i], seen: (i, j) => seen && seen[j * width + i], columns };
    }
    function build() {
      place.replaceChildren();
      const chosen = runs.filter((run) => seeds.length < 2 || run.seed === state.seed);
      const tables = chosen.map(table);
      const values = tables.flatMap((t) => t.rows.flatMap((i) => t.columns.filter((j) => t.seen(i, j)).map((j) => t.value(i, j)))).filter(Number.isFinite);
      const magnitudes = values.map(Math.abs).sort((a, b) => a - b), most = magnitudes[Math.floor(0.995 * (magnitudes.length - 1))] || 1;
      const two = hue[state.quantity] === "two", logarithmic = !two && state.quantity !== "margin";
      const edge = two ? Math.min(Math.max(most, 1), 12) : most;
      const positive = values.filter((v) => v > 0).sort((a, b) => a - b);
      const low = logarithmic ? Math.log10(positive[Math.floor(0.02 * positive.length)] || 1e-6) : two ? -edge : Math.min(0, ...values.slice(0, 1));
      const high = logarithmic ? Math.max(low + 1, Math.min(Math.log10(positive[Math.floor(0.995 * (positive.length - 1))] || 1), low + 12)) : edge;
      const furthest = Math.max(0, ...tables.flatMap((t) => [...t.steps]));
      chosen.forEach((run, position) => {
        const element = make("div", undefined, "chart map"), t = tables[position];
        element.dataset.map = run.name;
        const wide = narrow(), prefix = common(t.rows.map((i) => run.looks.heads[i]));
        const label = (i) => {
          let text = run.looks.heads[i].slice(prefix.length);
          const most = wide ? 13 : 30;
          if (text.length > most) text = "…" + text.slice(1 - most);
          return text;
        };
        element.style.height = `${14 * Math.max(4, t.rows.length) + 108}px`;
        place.append(element);
        whenSeen(element, () => {
          const x = t.columns.map((j) => categories ? String(t.steps[j]) : t.steps[j]);
          const xs = categories ? t.columns : x, shift = t.rows.map((_, i) => i);
          const shown = (v) => logarithmic ? (v > 0 ? Math.log10(v) : low) : v;
          const z = t.rows.map((i) => t.columns.map((j) => t.seen(i, j) && Number.isFinite(t.value(i, j)) ? Math.min(Math.max(shown(t.value(i, j)), low), high) : null));
          const bad = t.rows.map((i) => t.columns.map((j) => t.seen(i, j) && !Number.isFinite(t.value(i, j)) ? 1 : null));
          const text = t.rows.map((i) => t.columns.map((j) => `<b>${esc(run.looks.heads[i])}</b> (${esc(run.looks.roles[i])})<br>${t.when(j)}${t.flags[j] ? run.looks.shared ? ", with skipped updates" : ", skipped" : ""}<br>${esc(quantities[state.quantity])}: ${t.seen(i, j) ? show(t.value(i, j)) : "not known"}`));
          const dark = isDark();
          const scale = two
            ? [[0, dark ? "#8b6cf0" : "#4a2f8f"], [0.25, dark ? "#5d5590" : "#a79bd1"], [0.5, dark ? "#2b313b" : "#f4f4f5"], [0.75, dark ? "#b0683a" : "#f2b37c"], [1, dark ? "#ff7a52" : "#b63a13"]]
            : [[0, dark ? "#222a35" : "#f1f5f9"], [0.35, dark ? "#1f5a6e" : "#a6d3df"], [0.7, dark ? "#3fa0a8" : "#3c8fae"], [1, dark ? "#d8f59a" : "#123d63"]];
          const few = t.rows.length < 4, end = (v) => logarithmic ? show(10 ** v, 2) : show(v);  // too low for a bar of colours
          const ends = few ? ` <span style="font-size:12px"><span style="color:${scale[0][1]}">■</span> ${end(low)} to <span style="color:${scale.at(-1)[1]}">■</span> ${end(high)}</span>` : "";
          const ticks = logarithmic ? { tickvals: range(Math.ceil(low), Math.floor(high), Math.max(1, Math.ceil((high - low) / 4))), ticktext: range(Math.ceil(low), Math.floor(high), Math.max(1, Math.ceil((high - low) / 4))).map((k) => `10<sup>${k}</sup>`) } : two ? { nticks: 5 } : { nticks: 4 };
          const traces = [
            { type: "heatmap", x: xs, y: shift, z, text, hoverinfo: "text", zmin: low, zmax: high, colorscale: scale, xgap: 0, ygap: 1, hoverongaps: false, showscale: !few, colorbar: { thickness: 10, outlinewidth: 0, len: 1, ...ticks, tickfont: { size: 11 } } },
            { type: "heatmap", x: xs, y: shift, z: bad, text, hoverinfo: "text", zmin: 0, zmax: 1, colorscale: [[0, dark ? "#fff" : "#000"], [1, dark ? "#fff" : "#000"]], showscale: false, ygap: 1, hoverongaps: false },
          ];
          const marked = t.columns.filter((j) => t.flags[j] && !categories);
          if (marked.length) traces.push({ type: "scatter", mode: "markers", x: marked.map((j) => xs[j]), y: marked.map(() => -0.95), marker: { symbol: "line-ns", size: 7, line: { width: 1.5, color: dark ? "#ff7a72" : "#d62728" } }, text: marked.map((j) => run.looks.shared ? `skipped: ${t.when(j)}` : `skipped at ${t.when(j)}`), hoverinfo: "text", cliponaxis: false });
          draw(element, traces, layout(`${esc(run.name)} <span style="font-size:12px">${esc(quantities[state.quantity])}${prefix && !narrow() ? ` · ${esc(prefix)}` : ""}</span>${ends}`, {
            margin: { l: 20, r: 10, t: 44, b: 42 },
            xaxis: { title: { text: categories ? "step of the skipped update" : "training step", standoff: 6 }, showgrid: false, ...(categories ? { tickvals: t.columns, ticktext: x } : furthest > 0 ? { range: [-0.01 * furthest, 1.02 * furthest] } : {}) },
            yaxis: { tickvals: shift, ticktext: t.rows.map((i) => esc(label(i))), range: [t.rows.length - 0.5, marked.length ? -1.5 : -0.5], showgrid: false, ticks: "", tickfont: { size: 11 } },
          }));
        });
      });
    }
    build();
  }
  const range = (from, to, by) => { const list = []; for (let k = from; k <= to; k += by) list.push(k); return list; };
  function common(names) {
    if (names.length < 2) return "";
    let prefix = names[0];
    for (const name of names) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1);
    return prefix.slice(0, prefix.lastIndexOf(".") + 1);
  }

  // --- images --------------------------------------------------------------------------------------------------------
  function gallery(section, data, runs) {
    const place = $(section, "[data-gallery]"), slider = $(section, "[data-slider]");
    if (!place || !data.images) return;
    const with_images = runs.filter((run) => data.images[run.index].length);
    const seeds = [...new Set(with_images.map((run) => run.seed))];
    let seed = seeds[0];
    const select = $(section, "[data-image-seeds] select");
    const steps = [...new Set(with_images.flatMap((run) => data.images[run.index].map((picture) => picture.step)))].sort((a, b) => a - b);
    slider.max = steps.length - 1; slider.value = steps.length - 1; slider.disabled = steps.length < 2;
    const strip = (title, labels, from, picture) => {
      const box = make("div", undefined, "strip"), rows = make("div", undefined, "rows"), names = make("ol"), crop = make("div", undefined, "crop"), img = make("img");
      box.append(make("h4", title)); labels.forEach((label) => names.append(make("li", label)));
      crop.style.aspectRatio = `${picture.width} / ${(picture.height * labels.length) / picture.rows}`;
      img.style.top = `${(-100 * from) / labels.length}%`; img.alt = `${title}, ${labels.join(", ")}`;
      img.src = images[picture.at]; crop.append(img); rows.append(names, crop); box.append(rows);
      return box;
    };
    function build() {
      const step = steps[slider.value];
      $(section, "[data-step]").textContent = step.toLocaleString("en");
      place.replaceChildren();
      for (const run of with_images.filter((r) => r.seed === seed)) {
        const before = data.images[run.index].filter((picture) => picture.step <= step), picture = before.at(-1);
        const figure = make("figure"), caption = make("figcaption");
        const swatch = make("span", undefined, "swatch"), label = data.labels[run.label]; swatch.style.setProperty("--light", label.light); swatch.style.setProperty("--dark", label.dark);
        caption.append(swatch, run.name, picture && picture.step !== step ? make("span", ` after ${picture.step.toLocaleString("en")} steps`, "muted") : "");
        figure.append(caption);
        if (!picture) figure.append(make("p", "No images that early.", "muted"));
        else if (picture.rows === 10) {
          figure.append(strip("originals", ["data"], 0, picture), strip("reconstructions, by the share of latents that are given", ["1/5", "2/5", "3/5", "4/5", "all"], 1, picture), strip("samples", ["T = 1", "T = 0.9", "T = 0.8", "T = 0.7"], 6, picture));
        } else { const img = make("img", undefined, "figure"); img.src = images[picture.at]; img.alt = `sample grid after ${picture.step} steps`; figure.append(img); }
        place.append(figure);
      }
    }
    slider.addEventListener("input", build);
    if (seeds.length > 1) {
      seeds.forEach((one) => { const option = make("option", String(one)); option.value = one; select.append(option); });
      select.parentElement.hidden = false;
      select.addEventListener("change", () => { seed = seeds.find((one) => String(one) === select.value); build(); });
    }
    build();
  }

  // --- guards --------------------------------------------------------------------------------------------------------
  function guardSection(id, data) {
    const section = document.getElementById(id), element = $(section, '[data-chart="guard"]');
    const s = data.skips, step = numbers(s.step), norm = numbers(s.norm), loss = numbers(s.loss), code = numbers(s.code);
    if (element && step.length) whenSeen(element, () => {
      const red = isDark() ? "#ff7a72" : "#d62728", counts = Array.from(step, (_, i) => i + 1);
      draw(element, [
        { type: "scatter", mode: "lines", x: [0, ...step], y: [0, ...counts], line: { color: red, width: 1.8, shape: "hv" }, hoverinfo: "skip" },
        { type: "scatter", mode: "markers", x: Array.from(step), y: counts, cliponaxis: false, marker: { color: red, size: 7, symbol: "x", line: { width: 1, color: css("--paper") } }, text: counts.map((n, i) => `skipped update, step ${step[i]}<br>cause: ${esc(s.cause[code[i]])}<br>loss ${show(loss[i])}, gradient norm ${show(norm[i])}${s.said[i] ? `<br>${esc(s.said[i]).match(/.{1,90}(\s|$)/g)?.join("<br>") ?? ""}` : ""}`), hovertemplate: "%{text}<extra></extra>" },
      ], layout("Cumulated skipped updates", { xaxis: { title: { text: "step of the optimizer", standoff: 6 }, rangemode: "tozero" }, yaxis: { rangemode: "tozero" } }));
    });
    if (data.looks) maps(section, data.quantities, [{ name: section.querySelector("h2.part-title")?.firstChild.textContent.trim() || document.title.split(" · ")[0], seed: null, looks: data.looks }], true);
  }

  async function begin() {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the charts (it has no DecompressionStream); tables and text are complete");
    const [data, plotly] = await Promise.all([unpacked("#data"), unpacked("#plotly")]);
    const script = make("script"); script.textContent = plotly; document.head.append(script);
    for (const [id, part] of Object.entries(JSON.parse(data))) (part.skips ? guardSection : runSection)(id, part);
    openTarget();
    document.body.dataset.ready = "yes";
  }
  begin().catch((error) => { const box = $(document, "#too-old"); box.hidden = false; box.textContent = `The charts could not be drawn: ${error.message}`; throw error; });
})();
