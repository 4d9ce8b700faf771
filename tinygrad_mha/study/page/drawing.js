/* The graph as SVG, what is near the stage only; where the way back has come to; zoom. */

let view = {x: 0, y: 0, k: 1}, seen = null;
const norms = () => P.calls.map(c => norm(c));
function norm(c) {
  if (c.norm === undefined) c.norm = size(c);
  return c.norm;
}
function size(c) {
  let total = 0, some = false;
  for (const g of c.g || []) if (g !== null) {
    some = true;
    total += (P.arrays[g].norm || 0) ** 2;
  }
  return some ? Math.sqrt(total) : null;
}
function tone(v) {  // 0..1, by the logarithm
  if (!P.tones) {
    const logs = norms().filter(x => x > 0).map(Math.log10);
    P.tones = {low: Math.min(...logs, 0), high: Math.max(...logs, -1)};
  }
  if (!(v > 0)) return 0;
  const {low, high} = P.tones;
  return clamp(.12 + .78 * (Math.log10(v) - low) / Math.max(high - low, .5), .12, .9);
}
function draw() {
  const box = $("stage").getBoundingClientRect();
  const margin = Math.max(box.width, box.height) / view.k;
  seen = {x0: -view.x / view.k - margin, x1: (box.width - view.x) / view.k + margin,
    y0: -view.y / view.k - margin, y1: (box.height - view.y) / view.k + margin, k: view.k};
  const near = i => i.x < seen.x1 && i.x + i.w > seen.x0 && i.y < seen.y1 && i.y + i.h > seen.y0;
  const plain = view.k < .35;  // too small to be read
  $("boxes").replaceChildren();
  $("edges").replaceChildren();
  $("items").replaceChildren();
  for (const item of placed) {
    if (!near(item)) continue;
    if (item.kind === "group" && item.open) drawBox(item);
    else drawItem(item, plain);
  }
  const small = placed.length > 900 && plain;
  for (const e of items.edges) {
    const a = items.get(e.from), b = items.get(e.to);
    if (!near(a) && !near(b)) continue;
    const x0 = a.x + a.w, y0 = a.y + a.h / 2, x1 = b.x, y1 = b.y + b.h / 2;
    const gy = e.under.gutter, [out, x, y] = small ? ["", x0, y0] : leave(a, e.over);
    const bend = Math.max(18, (x1 - x) / 2);
    const d = `M${x0} ${y0}${out}` + (x1 < x ?  // to the next line
      `c26 0 26 ${gy - y} 0 ${gy - y}L${x1} ${gy}c-26 0 -26 ${y1 - gy} 0 ${y1 - gy}` :
      small ? `L${x1} ${y1}` : `C${x + bend} ${y} ${x1 - bend} ${y1} ${x1} ${y1}`);
    e.line = svg("path", {d, class: "edge"}, $("edges"));
  }
  place();
  colour();
}
function leave(item, over) {  // around the boxes to the right, out of the open groups around it
  let x = item.x + item.w, y = item.y + item.h / 2, d = "";
  for (let at = item; at !== over; at = items.get(id("g", at.parent))) {
    const box = items.get(id("g", at.parent)), edge = box.x + box.w;
    if (!at.last) {
      d += `c14 0 14 ${at.below - y} 28 ${at.below - y}`;
      x += 28;
      y = at.below;
    }
    if (x < edge) d += `L${edge} ${y}`;
    x = Math.max(x, edge);
  }
  return [d, x, y];
}
function place() {
  $("world").setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
}
function drawBox(item) {
  svg("rect", {class: "box", x: item.x, y: item.y, width: item.w, height: item.h}, $("boxes"));
  const g = P.groups[item.at];
  const name = svg("g", {class: "boxname", tabindex: 0, role: "button", "data-id": item.id,
    "aria-label": "close " + g.name}, $("boxes"));
  svg("text", {x: item.x + 12, y: item.y + 20}, name, "▾ " + title(g));
  name.onclick = () => toggle(item.at);
  name.onkeydown = e => enterKey(e, () => toggle(item.at));
}
const title = g => g.name === g.kind || g.kind === "function" ? g.name : g.name + ": " + g.kind;
const cut = (text, n) => text.length > n ? text.slice(0, n - 1) + "…" : text;
function enterKey(e, go) {
  if (e.key !== "Enter" && e.key !== " ") return;
  e.preventDefault();
  e.stopPropagation();
  go();
}
function drawItem(item, plain) {
  const g = svg("g", {class: item.kind === "call" ? "node" : item.kind, tabindex: 0,
    role: "button", "data-id": item.id,
    transform: `translate(${item.x} ${item.y})`}, $("items"));
  item.g = g;
  item.state = null;
  svg("rect", {width: item.w, height: item.h}, g);
  if (item.kind === "call") {
    const c = P.calls[item.at], op = D.ops[c.op];
    const shapes = c.outputs.filter(o => o !== null).map(o => shape(P.arrays[o].shape)).join(" ");
    if (op.fused) g.classList.add("fused");
    svg("rect", {class: "tint", width: item.w, height: item.h, rx: 9}, g);
    g.setAttribute("aria-label", c.op + " " + shapes);
    if (!plain) {
      svg("text", {x: 10, y: 19}, g, cut(c.as && c.as !== c.op ? c.as + " · " + c.op : c.op, 19));
      svg("text", {class: "dim", x: 10, y: 35}, g, cut(shapes, 20));
      svg("text", {class: "norm", x: item.w - 9, y: 35, "text-anchor": "end"}, g);
      chips(item.at).slice(0, 5).forEach(([x, i], row) =>
        svg("text", {class: "dim", x: 10, y: 53 + 15 * row}, g, cut(x.name + ": " + source(x), 23)));
    }
    g.onclick = () => choose({kind: "call", at: item.at});
    g.onkeydown = e => enterKey(e, () => choose({kind: "call", at: item.at}, true));
    g.ondblclick = () => { if (c.inside !== undefined) dive(item.at); };
  } else if (item.kind === "leaf") {
    const leaf = P.leaves[item.at];
    g.setAttribute("aria-label", leaf.name);
    svg("text", {x: 14, y: 15}, g, cut(leaf.name, 13));
    svg("text", {class: "dim", x: 14, y: 28}, g, shape(P.arrays[leaf.values].shape));
    g.onclick = () => choose({kind: "leaf", at: item.at});
    g.onkeydown = e => enterKey(e, () => choose({kind: "leaf", at: item.at}, true));
  } else {
    const group = P.groups[item.at];
    g.setAttribute("aria-label", "open " + group.name + ", " + plural(item.calls, "call"));
    svg("text", {x: 12, y: 24}, g, cut("▸ " + title(group), 23));
    svg("text", {class: "dim", x: 12, y: 42}, g, plural(item.calls, "call"));
    svg("text", {class: "norm", x: item.w - 10, y: 42, "text-anchor": "end"}, g);
    svg("rect", {class: "tint", width: item.w, height: item.h, rx: 9}, g);
    g.onclick = () => toggle(item.at);
    g.onkeydown = e => enterKey(e, () => toggle(item.at));
  }
}
const source = x => x.leaf !== undefined ? P.leaves[x.leaf].name : x.constant;
function colour() {  // where the way back has come to
  const nowAt = step ? seats[P.order[step - 1]] : "";
  const chosenAt = !chosen ? "" : chosen.kind === "leaf" ? id("l", chosen.at) : seats[chosen.at];
  const back = k => P.calls[k].step !== undefined && P.calls[k].step < step;
  const inGroup = new Map();
  P.calls.forEach((c, k) => {
    const at = seats[k];
    if (at[0] === "g" && back(k)) inGroup.set(at, Math.max(inGroup.get(at) || 0, norm(c) || 0));
  });
  for (const item of placed) {
    const g = item.g;
    if (!g || !g.isConnected) continue;
    let v = null;
    if (item.kind === "call") { if (back(item.at)) v = norm(P.calls[item.at]); }
    else if (inGroup.has(item.id)) v = inGroup.get(item.id);
    const state = [v, item.id === nowAt, item.id === chosenAt, matches.has(item.id)];
    if (item.state && state.every((x, i) => x === item.state[i])) continue;
    item.state = state;
    g.classList.toggle("now", state[1]);
    g.classList.toggle("chosen", state[2]);
    g.classList.toggle("match", state[3]);
    if (item.kind === "call")
      g.classList.toggle("idle", P.calls[item.at].step === undefined && P.order.length > 0);
    const tint = g.querySelector(".tint"), text = g.querySelector(".norm");
    if (tint) tint.style.opacity = v === null ? 0 : tone(v) * .62;
    if (text) text.textContent = v === null ? "" : "‖g‖ " + number(v);
  }
  for (const e of items.edges) {
    if (!e.line || !e.line.isConnected) continue;
    let done = 0, v = null;
    for (const [k, i] of e.uses) {
      if (!back(k)) continue;
      done++;
      const d = (P.calls[k].ds || [])[i];
      if (d !== null && d !== undefined) v = Math.max(v || 0, P.arrays[d].norm || 0);
    }
    if (e.state === done && e.line === e.drawn) continue;
    e.state = done;
    e.drawn = e.line;
    e.line.classList.toggle("back", v !== null);
    e.line.classList.toggle("quiet", done > 0 && v === null);
    e.line.style.strokeWidth = v === null ? "" : 1 + 4 * tone(v);
    e.line.style.opacity = v === null ? "" : .35 + .65 * tone(v);
  }
}
function fit() {
  const box = $("stage").getBoundingClientRect();
  let w = 0, h = 0;
  for (const i of placed) { w = Math.max(w, i.x + i.w); h = Math.max(h, i.y + i.h); }
  const k = clamp(Math.min((box.width - 40) / (w || 1), (box.height - 40) / (h || 1)), .12, 1.15);
  const x = w * k > box.width ? 20 : (box.width - w * k) / 2;
  const y = h * k > box.height ? 20 : (box.height - h * k) / 2;
  view = {x, y, k};
  draw();
}
function zoom(factor, x, y) {
  const box = $("stage").getBoundingClientRect();
  x ??= box.width / 2;
  y ??= box.height / 2;
  const k = clamp(view.k * factor, .05, 3), f = k / view.k;
  view = {x: x - (x - view.x) * f, y: y - (y - view.y) * f, k};
  draw();
}
function shift(dx, dy) {
  view.x += dx;
  view.y += dy;
  const box = $("stage").getBoundingClientRect();
  const outside = -view.x / view.k < seen.x0 || (box.width - view.x) / view.k > seen.x1 ||
    -view.y / view.k < seen.y0 || (box.height - view.y) / view.k > seen.y1;
  if (outside) draw(); else place();
}
function toggle(g) {
  const where = items.get(id("g", g)), x = where.x * view.k + view.x, y = where.y * view.k + view.y;
  if (open.has(g)) open.delete(g); else open.add(g);
  layout();
  const now = items.get(id("g", g));
  view.x = x - now.x * view.k;
  view.y = y - now.y * view.k;
  draw();
  const again = document.querySelector(`[data-id="g${g}"]`);
  if (again) again.focus({preventScroll: true});
}
function show(item) {  // bring it into the middle, if it is outside
  if (!item) return;
  const box = $("stage").getBoundingClientRect();
  const x = (item.x + item.w / 2) * view.k + view.x, y = (item.y + item.h / 2) * view.k + view.y;
  const w = item.w * view.k / 2, h = item.h * view.k / 2;
  const inside = x - w > 4 && y - h > 4 && x + w < box.width - 4 && y + h < box.height - 4;
  if (!inside) shift(box.width / 2 - x, box.height / 2 - y);
}
