"use strict";

// The page "Explorer". Its data arrives as scripts, which call `index` once and `part` for each
// group of sources that was asked for. Text of the store reaches the page as text, never as HTML.
const agnExplorer = (() => {
  const base = new URL(".", document.currentScript.src);
  const find = document.getElementById("explorer-find");
  const look = document.getElementById("explorer-look");
  const form = find.querySelector("form");
  const count = find.querySelector(".explorer-count");
  const go = look.querySelector(".explorer-go");
  const summary = look.querySelector(".explorer-summary");
  const bandBox = look.querySelector(".explorer-bands");
  const table = look.querySelector(".explorer-table");
  const list = look.querySelector(".explorer-columns");
  const finite = Number.isFinite;
  const parts = new Map(); // number -> promise of its sources
  const arrived = new Map(); // number -> what to do with them
  let data, model; // the index; Bokeh's models by name
  let values = {}; // x, y, x2, y2, epochs of every source; NaN where missing
  let shown = []; // numbers of the sources that pass the limits
  let marked = []; // numbers of those that a box marked
  let picked = -1;
  let curve = null; // what is known of the picked source

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const several = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
  const numbers = (list) => list.map((v) => (v === null ? NaN : v));
  const columns = (names, rows) => Object.fromEntries(names.map((n) => [n, rows.map((i) => values[n][i])]));

  // --- find a source ---

  function setBand() {
    const band = form.elements.band.value;
    values.y2 = numbers(data.plots.mag[band]);
    model("second").left[0].axis_label = `PSF magnitude in ${band} (mag)`;
    const box = form.querySelector("[data-range=y2]");
    box.querySelector("legend").textContent = `Magnitude in ${band}`;
    const good = values.y2.filter(finite).sort((a, b) => a - b);
    const ends = [good[0], good.at(-1)].map((v) => v?.toFixed(2) ?? "");
    box.querySelectorAll("input").forEach((input, k) => input.setAttribute("placeholder", ends[k]));
    model("every").data = columns(["x", "y", "x2", "y2"], data.ids.map((_, i) => i));
  }

  function changeBand() {
    setBand();
    if (picked >= 0) model("picked").data = columns(["x", "y", "x2", "y2"], [picked]);
    if (curve) summary.textContent = sentence(picked);
  }

  function filter() {
    const limits = [...form.querySelectorAll("[data-range]")].map((box) => {
      const [from, to] = [...box.querySelectorAll("input")].map((input) => input.valueAsNumber);
      return [box.dataset.range, from, to];
    });
    const passes = (i) =>
      limits.every(([key, from, to]) => {
        // The plot's own right ascension has a cut; the field's has not.
        const value = key === "x" ? values.ra[i] : values[key][i];
        const [above, below] = [!finite(from) || value >= from, !finite(to) || value <= to];
        return key === "x" && data.plots.first.x.flip && from > to ? above || below : above && below;
      });
    shown = data.ids.map((_, i) => i).filter(passes);
    marked = [];
    model("shown").selected.indices = [];
    model("shown").data = {
      ...columns(["x", "y", "x2", "y2", "epochs"], shown),
      id: shown.map((i) => data.ids[i]),
    };
    fit();
    tell();
  }

  function range(list, flip = false, least = 0.02) {
    const good = list.filter(finite);
    const [low, high] = good.length
      ? [good.reduce((a, b) => Math.min(a, b)), good.reduce((a, b) => Math.max(a, b))]
      : [0, 1];
    const room = Math.max((high - low) * 0.05, least);
    const [start, end] = [low - room, high + room];
    return flip ? { start: end, end: start } : { start, end };
  }

  function fit() {
    const all = data.ids.map((_, i) => i);
    const rows = form.elements.zoom.checked && shown.length ? shown : all;
    const of = (name) => rows.map((i) => values[name][i]);
    model("first").x_range.setv(range(of("x"), data.plots.first.x.flip));
    model("first").y_range.setv(range(of("y")));
    model("second").x_range.setv(range(of("x2")));
    model("second").y_range.setv(range(of("y2"), true));
  }

  function tell() {
    const lost = (x, y) => shown.filter((i) => !finite(values[x][i] + values[y][i])).length;
    const missing = [["x", "y", "first"], ["x2", "y2", "second"]]
      .map(([x, y, name]) => [lost(x, y), data.plots[name].title.toLowerCase()])
      .filter(([n]) => n)
      .map(([n, title]) => ` ${several(n, "source")} without the values to stand in the plot “${title}”.`);
    count.textContent =
      `${shown.length} of ${several(data.ids.length, "source")} left` +
      `${marked.length ? `, ${marked.length} marked` : ""}.${missing.join("")}`;
    for (const [id, name] of [["explorer-first", "first"], ["explorer-second", "second"]]) {
      const plot = data.plots[name];
      const x = plot.x.name;
      const y = plot.y ? plot.y.name : `magnitude in ${form.elements.band.value}`;
      document.getElementById(id).setAttribute(
        "aria-label",
        `Scatter plot, ${plot.title}: ${y} against ${x}, ${several(shown.length, "point")}`,
      );
    }
  }

  function onSelect() {
    const indices = model("shown").selected.indices.map((i) => shown[i]);
    if (indices.length === 1 && !(marked.length === 1 && marked[0] === indices[0])) {
      pick(indices[0]);
      // The ring shows it; what was marked before stays marked.
      model("shown").selected.indices = marked.map((i) => shown.indexOf(i));
    } else {
      marked = indices.sort((a, b) => a - b);
    }
    tell();
  }

  // --- look at one ---

  function load(number) {
    if (!parts.has(number)) {
      parts.set(
        number,
        new Promise((resolve, reject) => {
          arrived.set(number, resolve);
          const script = make("script", { src: new URL(`data/part-${number}.js`, base) });
          script.addEventListener("error", () => {
            parts.delete(number); // so that the next try asks again
            reject(new Error(script.src));
          });
          document.head.append(script);
        }),
      );
    }
    return parts.get(number);
  }

  async function pick(i) {
    picked = i;
    go.elements.id.value = data.ids[i];
    find.querySelector(".explorer-picked span").textContent = data.ids[i];
    model("picked").data = columns(["x", "y", "x2", "y2"], [i]);
    history.replaceState(null, "", `#source-${data.ids[i]}`);
    let found;
    try {
      found = (await load(Math.floor(i / data.inOnePart)))[i % data.inOnePart];
    } catch (error) {
      summary.textContent = `The file with source ${data.ids[i]} did not load: ${error.message}`;
      return;
    }
    if (picked !== i) return; // another was picked meanwhile
    curve = found;
    drawCurve();
    drawRow();
    summary.textContent = sentence(i);
  }

  function year(mjd) {
    return new Date((mjd - 40587) * 86400000).getUTCFullYear();
  }

  function sentence(i) {
    const value = ({ name, places }, list) => {
      const [, what, unit] = name.match(/^(.*?)(?: \((.*)\))?$/);
      return `${what.replace("Redshift", "redshift")} ${finite(list[i]) ? list[i].toFixed(places) + (unit ? ` ${unit}` : "") : "missing"}`;
    };
    const { first, second } = data.plots;
    const band = form.elements.band.value;
    const facts = [
      value(second.x, values.x2),
      value({ name: `${band} magnitude (mag)`, places: 2 }, values.y2),
      ...(first.x.name === second.x.name ? [] : [value(first.x, values.ra)]),
      value(first.y, values.y),
    ];
    const bands = Object.keys(curve.bands);
    const days = bands.flatMap((b) => curve.bands[b][0]);
    const text = `Source ${data.ids[i]}: ${facts.join(", ")}.`;
    if (!days.length) return `${text} The store has no measurement of it.`;
    const [from, to] = [days.reduce((a, b) => Math.min(a, b)), days.reduce((a, b) => Math.max(a, b))].map(year);
    const rejected = curve.rejected ? ` ${curve.rejected} rejected ones are left out.` : "";
    const mags = [...(curve.bands[band]?.[1] ?? [])].sort((a, b) => a - b);
    const at = (part) => mags[Math.round(part * (mags.length - 1))];
    const spread =
      mags.length < 10 ? "" : ` Eight of ten in ${band} lie within ${(at(0.9) - at(0.1)).toFixed(2)} mag.`;
    return (
      `${text} ${several(curve.epochs, "epoch")} from ${from} to ${to}, ` +
      `${several(days.length, "measurement")} in ${bands.join(", ")}.${spread}${rejected}`
    );
  }

  function drawCurve() {
    for (const band of Object.keys(data.colours)) {
      const [mjd, mag, magerr] = (curve.bands[band] ?? [[], [], []]).map(numbers);
      const width = magerr.map((e) => (finite(e) ? e : 0));
      model(`curve-${band}`).data = {
        mjd, mag, magerr,
        low: mag.map((m, k) => m - width[k]),
        high: mag.map((m, k) => m + width[k]),
        band: mjd.map(() => band),
      };
      const box = bandBox.querySelector(`[value=${band}]`);
      box.closest("label").querySelector("span").textContent = `${band} (${mjd.length})`;
      const visible = box.checked;
      model(`points-${band}`).visible = visible;
      model(`bars-${band}`).visible = visible;
    }
    zoomCurve("all");
    document.getElementById("explorer-light-curve").setAttribute(
      "aria-label",
      `Light curve of source ${data.ids[picked]}: magnitude against time in ${visibleBands().join(", ") || "no band"}`,
    );
    if (table.open) drawTable();
  }

  const visibleBands = () =>
    [...bandBox.querySelectorAll("input:checked")].map((b) => b.value).filter((b) => curve.bands[b]);

  function zoomCurve(how) {
    const times = visibleBands().flatMap((b) => curve.bands[b][0]);
    const { x_range: x, y_range: y } = model("light-curve");
    if (how === "all") {
      x.setv(range(times, false, 30));
    } else {
      const [width, middle] = [x.end - x.start, (x.start + x.end) / 2];
      const to = {
        in: [middle - width / 4, middle + width / 4],
        out: [middle - width, middle + width],
        earlier: [x.start - width / 2, x.end - width / 2],
        later: [x.start + width / 2, x.end + width / 2],
      }[how];
      x.setv({ start: to[0], end: to[1] });
    }
    const inside = visibleBands().flatMap((b) => {
      const [mjd, mag] = curve.bands[b];
      return mag.filter((_, k) => mjd[k] >= x.start && mjd[k] <= x.end);
    });
    if (inside.length) y.setv(range(inside, true, 0.05));
  }

  function drawTable() {
    const head = make("tr", {}, ...["band", "MJD (days)", "magnitude (mag)", "error (mag)"].map(
      (name) => make("th", { scope: "col" }, name)));
    const rows = visibleBands().flatMap((band) => {
      const [mjd, mag, magerr] = curve.bands[band];
      return mjd.map((t, k) => make("tr", {}, ...[band, t, mag[k], magerr[k] ?? "missing"].map(
        (v) => make("td", {}, String(v)))));
    });
    table.lastElementChild.replaceChildren(
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function drawRow() {
    curve.row.forEach((value, k) => {
      const [, unit] = data.columns[k];
      const box = list.children[k].querySelector(".explorer-value");
      box.textContent = value === null ? "missing" : unit ? `${value} ${unit}` : value;
      box.classList.toggle("missing", value === null);
    });
  }

  function step(by) {
    const walk = marked.length ? marked : shown;
    if (!walk.length) {
      summary.textContent = "No source is left. Press “Show all” above.";
      return;
    }
    if (by === "random") {
      const others = walk.filter((i) => i !== picked);
      pick(others.length ? others[Math.floor(Math.random() * others.length)] : walk[0]);
      return;
    }
    const next = by > 0 ? walk.find((i) => i > picked) : walk.findLast((i) => i < picked);
    pick(next ?? (by > 0 ? walk[0] : walk.at(-1))); // around the end
  }

  function goTo(text) {
    const wanted = text.trim();
    const i = data.ids.indexOf(wanted);
    if (i >= 0) return pick(i);
    const near = [...data.ids]
      .sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted))
      .slice(0, 2)
      .join(" and ");
    summary.textContent = /^\d+$/.test(wanted)
      ? `No source ${wanted} on this page. The nearest are ${near}.`
      : `“${wanted}” is no train_id: type a whole number, for example ${data.ids[0]}.`;
  }

  // --- start ---

  function symbol(band) {
    const path = {
      v: "M1 2h12L7 13z", s: "M2 2h10v10H2z", o: "M7 1.5a5.5 5.5 0 1 0 .01 0z", D: "M7 0l6 7-6 7-6-7z", "^": "M7 1l6 11H1z",
    }[data.markers[band]];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [k, v] of [["viewBox", "0 0 14 14"], ["width", 14], ["height", 14], ["aria-hidden", true]])
      svg.setAttribute(k, v);
    shape.setAttribute("d", path);
    shape.setAttribute("fill", data.colours[band]);
    svg.append(shape);
    return svg;
  }

  function fill() {
    for (const band of Object.keys(data.colours)) {
      const box = make("input", { type: "checkbox", value: band, checked: "" });
      bandBox.append(make("label", { class: "explorer-check" }, box, symbol(band), make("span", {}, band)));
    }
    data.columns.forEach(([name, unit, definition], k) => {
      const button = make(
        "button", { type: "button", "aria-expanded": "false", "aria-controls": `definition-${k}` },
        make("code", {}, name), " ", make("span", { class: "explorer-value" }),
      );
      const text = make("p", { id: `definition-${k}`, class: "explorer-definition" },
        definition ?? "The store does not define this column.");
      list.append(make("li", {}, button, text));
    });
  }

  function listen() {
    form.addEventListener("input", (event) => {
      if (event.target.name === "zoom") return fit();
      if (event.target.name === "band") changeBand();
      filter();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { changeBand(); filter(); }));
    go.addEventListener("submit", (event) => {
      event.preventDefault();
      goTo(go.elements.id.value);
    });
    go.addEventListener("click", (event) => {
      const by = event.target.dataset.step;
      if (by) step(by === "random" ? by : Number(by));
    });
    bandBox.addEventListener("change", () => curve && drawCurve());
    look.querySelector(".explorer-zoom").addEventListener("click", (event) => {
      if (curve && event.target.dataset.zoom) zoomCurve(event.target.dataset.zoom);
    });
    table.addEventListener("toggle", () => table.open && curve && drawTable());
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) button.setAttribute("aria-expanded", button.getAttribute("aria-expanded") !== "true");
    });
    // What pointing at a column shows can be put away without moving the pointer.
    list.addEventListener("keydown", (event) => {
      if (event.key === "Escape") list.classList.add("quiet");
    });
    list.addEventListener("pointerover", () => list.classList.remove("quiet"));
    list.addEventListener("focusin", () => list.classList.remove("quiet"));
    document.getElementById("explorer-definitions").addEventListener("change", (event) =>
      list.classList.toggle("all", event.target.checked));
    addEventListener("hashchange", fromAddress);
  }

  const fromAddress = () => {
    const id = location.hash.match(/^#source-(\d+)$/)?.[1];
    if (id !== undefined && data.ids.includes(id)) pick(data.ids.indexOf(id));
    else if (picked < 0 && data.start !== null) pick(data.ids.indexOf(data.start));
  };

  async function index(found, drawings) {
    data = found;
    find.hidden = look.hidden = false;
    look.querySelector(".explorer-row-box").open = innerWidth > 600; // sixty lines on a phone
    const { first, second } = data.plots;
    values = { ra: numbers(first.x.values), y: numbers(first.y.values), x2: numbers(second.x.values) };
    values.x = values.ra.map((v) => (v > (first.x.cut ?? Infinity) ? v - 360 : v));
    values.epochs = data.epochs;
    const ids = ["explorer-first", "explorer-second", "explorer-light-curve"];
    const roots = Object.fromEntries(drawings.roots.map((root, k) => [root.id, ids[k]]));
    const [made] = [await Bokeh.embed.embed_items(
      { explorer: drawings }, [{ docid: "explorer", roots, root_ids: Object.keys(roots) }])];
    const views = made.flatMap((m) => [...(m.roots ?? [m])]);
    const book = views[0].model.document;
    model = (name) => book.get_model_by_name(name);
    model("first").below[0].axis_label = first.x.name;
    model("first").left[0].axis_label = first.y.name;
    model("second").below[0].axis_label = second.x.name;
    if (matchMedia("(pointer: coarse)").matches) {
      // A finger that moves over a plot scrolls the page.
      for (const name of ["first", "second", "light-curve"]) model(name).toolbar.active_drag = null;
    }
    for (const id of ids) {
      // The picture has no keys of its own: the controls beside it do all that it can.
      for (const stop of focusable(document.getElementById(id))) stop.tabIndex = -1;
    }
    fill();
    setBand();
    filter();
    model("shown").selected.properties.indices.change.connect(onSelect);
    listen();
    fromAddress();
  }

  function focusable(element) {
    const inside = [...element.querySelectorAll("*"), ...(element.shadowRoot?.querySelectorAll("*") ?? [])];
    return inside.flatMap((e) => [...(e.tabIndex >= 0 ? [e] : []), ...(e.shadowRoot ? focusable(e) : [])]);
  }

  return {
    index: (...given) => index(...given).catch((error) => {
      find.hidden = false;
      count.textContent = `The plots did not start: ${error.message}`;
      throw error;
    }),
    part: (number, sources) => arrived.get(number)?.(sources),
  };
})();
