/* What is chosen: formulas, numbers, what came back, and how it was measured. */

function choose(what, move) {
  chosen = what;
  panel();
  if (items) colour();
  if (move && matchMedia("(max-width: 820px)").matches) $("panel").scrollIntoView();
}
function dive(k) {
  const c = P.calls[k];
  enter(P.inside[c.inside], c.op + ", opened");
}
function crumbs() {
  const box = $("crumbs");
  box.replaceChildren();
  path.forEach((p, i) => {
    if (i) box.append(" › ");
    if (i === path.length - 1) { make("b", "", box, p.name); return; }
    make("button", "", box, p.name).onclick = () => up(i);
  });
  if (path.length > 1) box.append("  — the same function, in simpler ops, on the same numbers");
}
function up(i) {
  const {picture} = path[i], from = path[i + 1];
  path.length = i + 1;
  enter(picture, "", true);
  const k = P.calls.findIndex(c => c.inside !== undefined && P.inside[c.inside] === from.picture);
  if (k >= 0) { reveal(k); choose({kind: "call", at: k}); }
}
function reveal(k) {
  for (const g of above(groupOf(k))) open.add(g);
  layout();
  draw();
  show(items.get(id("n", k)));
}
function panel() {
  const box = $("panel");
  box.replaceChildren();
  box.scrollTop = 0;
  if (!chosen) return;
  if (chosen.kind === "leaf") leafPanel(box, P.leaves[chosen.at]);
  else callPanel(box, chosen.at);
}
function leafPanel(box, leaf) {
  const head = make("h2", "", box, leaf.name);
  make("span", "badge", head, leaf.kind);
  array(box, leaf.values, "value", "f");
  if (leaf.gradient === null || leaf.gradient === undefined) {
    if (leaf.kind !== "constant") make("p", "note", box, "No gradient came here.");
  } else if (step < P.order.length)
    make("p", "note", box, "Its gradient is complete when the way back is: go to its end.");
  else array(box, leaf.gradient, "gradient", "b");
}
function link(parent, text, go) {
  const b = make("button", "", parent, text);
  b.type = "button";
  b.onclick = go;
}
function callPanel(box, k) {
  const c = P.calls[k], op = D.ops[c.op], back = c.step !== undefined && c.step < step;
  const head = make("h2", "", box, c.op);
  make("span", "badge", head, op.fused ? "fused" : "primitive");
  if (c.names.length) make("div", "from", box, c.names.join(" › "));
  if (c.line) make("div", "line", box, c.line);
  if (c.inside !== undefined) {
    const b = make("button", "open", box, "open: " +
      plural(P.inside[c.inside].calls.length, "simpler call"));
    b.type = "button";
    b.id = "dive";
    b.style.marginTop = "10px";
    b.onclick = () => dive(k);
  } else if (op.fused)
    make("p", "note", box, "It is too long to be opened here; a shorter text would do.");
  make("div", "doc", box).innerHTML = op.doc;
  const params = Object.entries(c.params || {});
  if (params.length)
    make("div", "line", box, params.map(([n, v]) => n + " = " + v).join("\n"));
  const forward = back ? make("div", "", null) : box;  // once the way back is here, it comes first
  if (back) box = backPanel(box, c), box.append(forward);
  box = forward;
  make("h3", "", box, "Forward");
  c.inputs.forEach(x => {
    const slot = make("div", "slot", box);
    make("b", "", slot, x.name);
    const from = make("span", "from", slot, " from ");
    if (x.call !== undefined) link(from, P.calls[x.call].op, () => go1(x.call));
    else if (x.leaf !== undefined)
      link(from, P.leaves[x.leaf].name, () => choose({kind: "leaf", at: x.leaf}));
    else from.textContent = " = " + x.constant;
    const at = x.call !== undefined ? P.calls[x.call].outputs[x.output] :
      x.leaf !== undefined ? P.leaves[x.leaf].values : x.values;
    if (at !== undefined && at !== null) array(slot, at, "", "f");
  });
  c.outputs.forEach((o, i) => {
    if (o === null) return;
    const slot = make("div", "slot", box);
    make("b", "", slot, c.outputs.length > 1 ? "output " + i : "output");
    array(slot, o, "", "f");
  });
  if (c.kept && c.kept.length) {
    const all = c.kept.reduce((s, x) => s + x[2], 0);
    make("h3", "", box, "Kept for the way back: " + bytes(all));
    const table = make("table", "kept", box);
    for (const [name, s, n] of c.kept) {
      const row = make("tr", "", table);
      make("td", "", row, name);
      make("td", "", row, shape(s));
      make("td", "", row, n ? bytes(n) : "shared");
    }
  }
  if (back) return;
  make("h3", "", box, "Backward");
  if (c.step === undefined) {
    make("p", "note", box, "No gradient comes by here.");
    return;
  }
  const p = make("p", "note", box, "The way back has not come here yet. ");
  link(make("span", "from", p), "go there (step " + (c.step + 1) + ")", () => go(c.step + 1));
}
function backPanel(box, c) {
  make("h3", "", box, "Backward");
  (c.g || []).forEach((g, i) => {
    if (g !== null) array(box, g, c.g.length > 1 ? "g of output " + i : "g, what came", "b");
  });
  c.inputs.forEach((x, i) => {
    const slot = make("div", "slot", box), d = (c.ds || [])[i];
    make("b", "", slot, "d" + x.name);
    if (d === null || d === undefined) {
      make("span", "from", slot, ": not needed, for " + x.name + " is a constant");
      return;
    }
    array(slot, d, "", "b");
    const check = (c.checks || [])[i];
    if (check) measured(slot, check, P.arrays[d]);
  });
  return box;
}
function go1(k) { reveal(k); choose({kind: "call", at: k}); }
function measured(parent, check, a) {
  const box = make("div", "check", parent);
  const line = make("div", "", box);
  if (!check.finite) {
    make("span", "odd", line, "not finite, so it cannot be measured");
    make("div", "note", box, "tg.detect_anomaly() names the call that gave the first NaN.");
    return;
  }
  make("span", check.fine ? "ok" : "no", line, check.fine ? "✓ measured" : "✗ NOT what is measured");
  const values = make("div", "", box), error = make("div", "", box);
  const tell = (numeric, e) => {
    values.textContent = "⟨d, v⟩ = " + number(check.analytic, 5) +
      "   differences: " + number(numeric, 5);  // all that was kept: the steps differ in the last
    error.textContent = "error " + number(e) + " of the largest term";
  };
  tell(check.numeric, check.error);
  if (check.steps) {
    const wrong = check.errors.map(e => typeof e === "number" ? e : 1);
    const slide = make("input", "", box);
    slide.type = "range";
    slide.min = 1;
    slide.max = check.steps.length;
    slide.value = 6;
    slide.setAttribute("aria-label", "step of the differences");
    const note = make("div", "note", box, "step 1e−6 along a random direction v");
    const chart = svg("svg", {viewBox: "0 0 320 56", class: "v"}, box);
    chart.style.width = "100%";
    const y = e => 50 - 46 * clamp((Math.log10(Math.max(e, 1e-13)) + 13) / 13, 0, 1);
    const x = i => 14 + i * 292 / (wrong.length - 1);
    svg("path", {d: wrong.map((e, i) => (i ? "L" : "M") + x(i) + " " + y(e)).join(""),
      fill: "none", stroke: css("--mark"), "stroke-width": 1.6}, chart);
    const dot = svg("circle", {r: 4, fill: css("--mark")}, chart);
    const at = i => { dot.setAttribute("cx", x(i)); dot.setAttribute("cy", y(wrong[i])); };
    at(5);
    slide.oninput = () => {
      const i = slide.value - 1;
      tell(check.steps[i], wrong[i]);
      note.textContent = "step 1e−" + slide.value + " along a random direction v";
      at(i);
    };
  }
  if (check.each) {
    const w = make("div", "array", box);
    make("span", "", w, "measured one by one");
    table(make("div", "wide", w), check.each, a.shape, "--mark");
  }
}
function array(parent, at, label, kind) {
  const a = P.arrays[at], box = make("div", "array", parent);
  const line = make("span", "", box);
  if (label) make("i", kind, line, label + " ");
  line.append(shape(a.shape) + " " + a.dtype +
    (a.norm !== undefined && a.shape.length ? "  ‖·‖ " + number(a.norm) : "") +
    (a.odd ? "  " + a.odd + " not finite" : ""));
  const name = kind === "b" ? "--bwd" : "--fwd";
  if (a.values) { table(make("div", "wide", box), a.values, a.shape, name); return; }
  const pair = make("div", "pair", box), canvas = make("canvas", "", pair);
  paint(canvas, a.heat, name);
  canvas.style.height = clamp(150 * a.heat.rows / a.heat.columns, 12, 150) + "px";
  canvas.title = "each cell is the mean of a block; the darkest is " + number(a.heat.full);
  const right = make("div", "", pair);
  const most = Math.max(...(a.histogram || []), 1), bars = make("div", "bars", right);
  if (kind === "b") bars.classList.add("b-bars");
  for (const n of a.histogram || [])
    make("i", "", bars).style.height = (n ? 4 + 52 * n / most : 0) + "px";
  if (a.range) make("div", "note", right, number(a.range[0]) + " … " + number(a.range[1]) +
    ", mean " + number(a.range[2]));
}
function table(parent, values, s, name) {
  const columns = s.length ? s[s.length - 1] : 1;
  if (!values.length) { make("span", "note", parent, "no numbers"); return; }
  const full = Math.max(...values.map(v => typeof v === "number" ? Math.abs(v) : 0)) || 1;
  const t = make("table", "numbers", parent);
  for (let i = 0; i < values.length; i += columns) {
    const row = make("tr", "", t);
    for (const v of values.slice(i, i + columns)) {
      const td = make("td", "", row, number(v));
      const share = typeof v === "number" ? Math.abs(v) / full : 1;
      td.style.background = `rgb(${css(v < 0 ? "--soft-rgb" : name) || "128 128 128"} / ${.45 * share})`;
    }
  }
}
function paint(canvas, h, name, full = h.full) {  // more than zero in the colour, less in grey
  canvas.width = h.columns;
  canvas.height = h.rows;
  const c = canvas.getContext("2d"), image = c.createImageData(h.columns, h.rows);
  const code = atob(h.cells), [r, g, b] = rgb(name);
  for (let i = 0; i < code.length; i++) {
    const v = (code.charCodeAt(i) - 127) / 127 * (full ? h.full / full : 1);
    const a = 255 * Math.pow(Math.abs(v), .7);
    image.data.set(v < 0 ? [128, 128, 128, a] : [r, g, b, a], 4 * i);
  }
  c.putImageData(image, 0, 0);
}
