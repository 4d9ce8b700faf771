/* Gradients over the steps of an LSTM, attention maps, gradients over a training. */

const LINES = [["--ink", ""], ["--fwd", "7 4"], ["--bwd", "2 3"]];
function lstmView(box) {
  make("p", "note", box, "The norm of the gradient of the hidden state at each step of an LSTM, " +
    "as it is and with the forget gates' biases set to 0 and to 1, which keeps the gates open.");
  for (const v of D.views.lstm) {
    const c = D.calls[v.call], groups = groupNames(v.call);
    for (const [key, text] of [["from_end", "What is left of a gradient that begins at " +
      "the last step alone: from there it goes back, and what it loses, early words cannot " +
      "learn from"], ["from_loss", "The loss's own gradient, which may come in at every step"]]) {
      const chart = make("div", "chart", box);
      make("b", "", chart, groups + c.op + (c.params && c.params.reverse === "True" ?
        ", from the end to the beginning" : ""));
      make("p", "note", chart, text + ". The forget gate's mean bias is " + number(v.bias) + ".");
      lines(chart, v.curves.map(x => [x.name, x[key]]), "step");
    }
  }
}
const groupNames = k => D.calls[k].names.map(n => n + " › ").join("");
function lines(parent, curves, what) {
  const w = 900, h = 250, left = 64, bottom = 30, right = 130;
  const all = curves.flatMap(c => c[1]).filter(v => v > 0).map(Math.log10);
  const low = Math.floor(Math.min(...all, 0)), high = Math.ceil(Math.max(...all, low + 1));
  const n = Math.max(...curves.map(c => c[1].length));
  const chart = svg("svg", {viewBox: `0 0 ${w} ${h}`, role: "img"}, make("div", "plot", parent));
  const x = i => left + (w - left - right) * (n > 1 ? i / (n - 1) : .5);
  const y = v => h - bottom - (h - bottom - 12) * (Math.log10(Math.max(v, 10 ** low)) - low) /
    (high - low);
  for (let e = low; e <= high; e += Math.ceil((high - low) / 6)) {
    svg("line", {class: "axis", x1: left, x2: w - right, y1: y(10 ** e), y2: y(10 ** e)}, chart);
    svg("text", {x: left - 8, y: y(10 ** e) + 4, "text-anchor": "end"}, chart,
      "1e" + String(e).replace("-", "−"));
  }
  const labels = [];
  curves.forEach(([name, values], k) => {
    const [tone, dash] = LINES[k % LINES.length];
    const stroke = tone === "--ink" ? css(tone) : `rgb(${css(tone)})`;
    svg("path", {d: values.map((v, i) => (i ? "L" : "M") + x(i) + " " + y(v)).join(""), stroke,
      "stroke-dasharray": dash}, chart);
    labels.push([y(values.at(-1)) + 4, name, stroke]);
  });
  labels.sort((a, b) => a[0] - b[0]);
  let last = -1e9;
  for (const [at, name, stroke] of labels) {
    last = Math.max(at, last + 15);
    svg("text", {x: w - right + 8, y: last, style: "fill:" + stroke}, chart, name);
  }
  const every = Math.ceil(n / 12);
  for (let i = 0; i < n; i += every)
    svg("text", {x: x(i), y: h - 8, "text-anchor": "middle"}, chart, String(i + 1));
  svg("text", {x: w - right + 22, y: h - 8}, chart, what);
}
function attentionView(box) {
  make("p", "note", box, "Row: the token that looks. Column: where to. Each row sums to 1. In the " +
    "first passes of a training all weights are alike; tg.trace(step=…) draws a later one.");
  for (const v of D.views.attention) {
    const chart = make("div", "chart", box);
    make("b", "", chart, groupNames(v.call) + D.calls[v.call].op + " " + shape(v.shape));
    const many = new Set(v.maps.map(m => m.text)).size, all = v.shape[0];
    if (many < all) make("p", "note", chart, "The first " + many + " of " + all + " texts.");
    const maps = make("div", "maps", make("div", "plot", chart));
    maps.style.setProperty("--heads", Math.min(new Set(v.maps.map(m => m.head)).size, 8));
    maps.style.marginTop = "10px";
    for (const m of v.maps) {
      const figure = make("figure", "", maps), canvas = make("canvas", "", figure);
      paint(canvas, m.heat, "--fwd", Math.max(m.heat.full, 3 / v.shape.at(-1)));  // even: light
      canvas.style.aspectRatio = m.heat.columns + " / " + m.heat.rows;
      make("figcaption", "", figure, "text " + (m.text + 1) + ", head " + (m.head + 1) +
        ", at most " + number(m.heat.full));
    }
  }
}
function trainingView(box) {
  const names = [...new Set(D.passes.flatMap(p => Object.keys(p)))];
  make("p", "note", box, "The norm of each gradient at each backward pass, from the left to the " +
    "right; the stronger the colour, the larger, on a logarithmic scale of four decades at most " +
    "that all share. A name draws its curve below.");
  if (names.some(n => n.endsWith("w_k.bias"))) make("p", "note", box, "The bias of the keys " +
    "shifts all scores of a row alike, which softmax does not see: its gradient is 0 but for " +
    "rounding.");
  const chart = make("div", "chart", box), wide = make("div", "wide", chart);
  const flow = make("table", "flow", wide), told = make("div", "", chart);
  const value = (p, name) => p[name] ? Number(p[name][0]) : NaN;
  const logs = D.passes.flatMap(p => names.map(n => value(p, n))).filter(v => v > 0)
    .map(Math.log10);
  const high = Math.max(...logs), low = Math.min(Math.max(Math.min(...logs), high - 4), high - .5);
  const [r, g, b] = rgb("--bwd");
  const draw = name => {
    told.replaceChildren();
    make("b", "", told, name);
    lines(told, [["gradient", D.passes.map(p => value(p, name) || 0)],
      ["weights", D.passes.map(p => p[name] ? Number(p[name][1]) : 0)]], "pass");
  };
  for (const name of names) {
    const row = make("tr", "", flow), th = make("th", "", row);
    const b1 = make("button", "", th, name);
    b1.type = "button";
    b1.onclick = () => draw(name);
    const canvas = make("canvas", "", make("td", "", row));
    canvas.width = D.passes.length;
    canvas.height = 1;
    canvas.style.width = Math.max(D.passes.length * 6, Math.min(innerWidth - 330, 640), 110) + "px";
    const c = canvas.getContext("2d");
    D.passes.forEach((p, i) => {
      const v = value(p, name), t = v > 0 ? .06 + .94 * clamp((Math.log10(v) - low) / (high - low), 0, 1) : 0;
      c.fillStyle = `rgb(${r} ${g} ${b} / ${t})`;
      c.fillRect(i, 0, 1, 1);
    });
  }
  if (names.length) draw(names[0]);
}
const VIEWS = [["graph", "graph", true], ["lstm", "LSTM over time", D.views.lstm.length > 0],
  ["attention", "attention", D.views.attention.length > 0],
  ["training", "training", D.passes.length > 1]];
function tab(name) {
  for (const b of $("tabs").children)
    b.setAttribute("aria-selected", String(b.dataset.view === name));
  $("graph-view").hidden = name !== "graph";
  const other = $("other-view");
  other.hidden = name === "graph";
  other.replaceChildren();
  if (name === "lstm") lstmView(other);
  if (name === "attention") attentionView(other);
  if (name === "training") trainingView(other);
}
for (const [name, text, there] of VIEWS) {
  if (!there) continue;
  const b = make("button", "", $("tabs"), text);
  b.type = "button";
  b.dataset.view = name;
  b.setAttribute("role", "tab");
  b.onclick = () => tab(name);
}
