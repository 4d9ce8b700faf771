
(() => {
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, kind, parent, text) => {
  const e = document.createElement(tag);
  if (kind) e.className = kind;
  if (text !== undefined) e.textContent = text;
  if (parent) parent.append(e);
  return e;
};
const svg = (tag, attributes, parent, text) => {
  const e = document.createElementNS(SVG, tag);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (text !== undefined) e.textContent = text;
  if (parent) parent.append(e);
  return e;
};
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
const shape = s => "(" + s.join(", ") + (s.length === 1 ? ",)" : ")");
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = name => css(name).split(" ").map(Number);
const number = v => {
  if (typeof v === "string") return v;
  if (v === 0) return "0";
  const a = Math.abs(v);
  const text = a >= 1e5 || a < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(4)));
  return text.replaceAll("-", "−");
};
const bytes = n => n < 1024 ? n + " B" : n < 1 << 20 ? (n / 1024).toFixed(1) + " KB" :
  (n / (1 << 20)).toFixed(1) + " MB";
const plural = (n, what) => n + " " + what + (n === 1 ? "" : "s");

/* ------------------------------------------------- the picture that is shown, and what is in it */

const stage = $("stage");
let seats = [];
let P, open, chosen, step, path, items, placed, matches = new Set();
const NODE = {w: 152, h: 48}, LEAF = {w: 116, h: 34}, GROUP = {w: 176, h: 58};
const GAP = {x: 46, y: 16, band: 44}, PAD = {x: 18, top: 30, bottom: 16};

function enter(picture, name, keep) {
  if (!keep) path.push({picture, name});
  P = picture;
  if (!P.parents) {
    P.parents = P.groups.map(g => g.parent);
    dissolve();
  }
  open = new Set();
  // whoever stands alone at the top is opened, and one level under it
  let level = roots();
  while (level.groups.length === 1 && !open.has(level.groups[0])) {
    open.add(level.groups[0]);
    level = {groups: P.groups.map((_, g) => g).filter(g => P.parents[g] === level.groups[0]),
      calls: []};
    if (level.groups.length > 1) break;
  }
  if (P.calls.length <= 24) P.groups.forEach((_, g) => open.add(g));
  for (const g of open) if (P.parents[g] === -2) open.delete(g);
  chosen = null;
  step = 0;
  $("slider").max = P.order.length;
  $("slider").value = 0;
  strip();
  layout();
  fit();
  choose(P.root ? {kind: "call", at: P.root[0]} : {kind: "call", at: P.calls.length - 1});
  said();
  crumbs();
}
function dissolve() {  // a layer of one call is no box: the call has its name
  const counts = P.groups.map(() => 0);
  for (const c of P.calls) for (const g of above(c.group ?? -1)) counts[g]++;
  for (const c of P.calls) {
    c.names = above(c.group ?? -1).map(g => P.groups[g].name);
    while (c.group >= 0 && counts[c.group] === 1) {
      if (P.groups[c.group].kind !== "function") c.as ||= P.groups[c.group].name;
      c.group = P.parents[c.group];
    }
  }
  P.groups.forEach((group, g) => {  // neither is a function that everything is in
    if (group.kind !== "function" || counts[g] !== P.calls.length) return;
    for (const c of P.calls) if (c.group === g) c.group = P.parents[g];
    P.parents = P.parents.map(p => p === g ? P.parents[g] : p);
    counts[g] = 1;
  });
  P.groups.forEach((_, g) => { if (counts[g] === 1) P.parents[g] = -2; });  // nobody's
}
const roots = () => ({groups: P.groups.map((_, g) => g).filter(g => P.parents[g] === -1)});
const groupOf = k => P.calls[k].group === undefined ? -1 : P.calls[k].group;

/* --------------------------------------------- layout: columns by distance from the beginning */

const id = (kind, at) => kind + at;
function above(g) {  // a group and those around it, the outermost first
  const chain = [];
  for (; g >= 0; g = P.parents[g]) chain.unshift(g);
  return chain;
}
function seat(k) {  // where a call is seen: itself, or the outermost group that is closed
  for (const g of above(groupOf(k))) if (!open.has(g)) return id("g", g);
  return id("n", k);
}
function layout() {
  const children = new Map([[-1, []]]), holder = new Map();
  const put = (item, parent) => {
    if (holder.has(item.id)) return holder.get(item.id);
    holder.set(item.id, item);
    item.parent = parent;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(item);
    return item;
  };
  const visible = g => {  // an open group is an item, too, with children
    if (g < 0) return;
    visible(P.parents[g]);
    if (above(P.parents[g]).every(x => open.has(x)))
      put({id: id("g", g), kind: "group", at: g, open: open.has(g), calls: 0}, P.parents[g]);
  };
  const uses = new Map();  // leaf -> calls
  P.calls.forEach((c, k) => {
    visible(groupOf(k));
    const at = seat(k);
    if (at[0] === "n") put({id: at, kind: "call", at: k}, groupOf(k));
    for (const g of above(groupOf(k))) {
      const box = holder.get(id("g", g));
      if (box) box.calls++;
    }
    for (const x of c.inputs)
      if (x.leaf !== undefined && P.leaves[x.leaf].kind === "input") {
        if (!uses.has(x.leaf)) uses.set(x.leaf, []);
        uses.get(x.leaf).push(k);
      }
  });
  for (const [leaf, calls] of uses) {
    let shared = above(groupOf(calls[0]));
    for (const k of calls) {
      const other = above(groupOf(k));
      shared = shared.filter((g, i) => other[i] === g);
    }
    shared = shared.filter((_, i) => shared.slice(0, i + 1).every(x => open.has(x)));
    put({id: id("l", leaf), kind: "leaf", at: leaf}, shared.length ? shared.at(-1) : -1);
  }
  // edges between what is seen
  const edges = new Map();
  P.calls.forEach((c, k) => c.inputs.forEach((x, i) => {
    let from;
    if (x.call !== undefined) from = seat(x.call);
    else if (x.leaf !== undefined && P.leaves[x.leaf].kind === "input") from = id("l", x.leaf);
    else return;
    const to = seat(k);
    if (from === to) return;
    const key = from + ">" + to;
    if (!edges.has(key)) edges.set(key, {from, to, uses: []});
    edges.get(key).uses.push([k, i]);
  }));
  // an edge counts in the group that holds both of its ends
  const within = new Map();
  const chainOf = item => {
    const chain = [item];
    while (chain[0].parent >= 0) chain.unshift(holder.get(id("g", chain[0].parent)));
    return chain;
  };
  for (const e of edges.values()) {
    const a = chainOf(holder.get(e.from)), b = chainOf(holder.get(e.to));
    let i = 0;
    while (a[i] === b[i]) i++;
    const parent = a[i].parent;
    e.under = b[i];
    e.over = a[i];
    if (!within.has(parent)) within.set(parent, []);
    within.get(parent).push([a[i], b[i]]);
  }
  arrange(-1, children, within);
  items = holder;
  seats = P.calls.map((_, k) => seat(k));
  placed = [];
  spread(-1, 0, 0, children);
  items.edges = [...edges.values()];
}
function first(item) {  // the time an item was begun at
  if (item.kind === "call") return item.at;
  if (item.kind === "leaf") return -1;
  return item.first;
}
function arrange(parent, children, within) {
  const inside = children.get(parent) || [];
  for (const item of inside) {
    if (item.kind === "group" && item.open) {
      const size = arrange(item.at, children, within);
      item.w = size.w + 2 * PAD.x;
      item.h = size.h + PAD.top + PAD.bottom;
      item.first = size.first;
    } else if (item.kind === "group") {
      Object.assign(item, GROUP);
      item.first = P.calls.findIndex((_, k) => above(groupOf(k)).includes(item.at));
    } else Object.assign(item, item.kind === "leaf" ? LEAF : nodeSize(item.at));
  }
  inside.sort((a, b) => first(a) - first(b));
  const before = new Map(inside.map(x => [x, new Set()]));
  const after = new Map(inside.map(x => [x, new Set()]));
  for (const [a, b] of within.get(parent) || []) { before.get(b).add(a); after.get(a).add(b); }
  for (const x of inside) x.rank = 0;
  for (const x of inside)  // in the order of time every edge goes forward
    for (const y of after.get(x)) y.rank = Math.max(y.rank, x.rank + 1);
  for (const x of inside)  // a leaf stands beside the first that uses it
    if (x.kind === "leaf" && after.get(x).size)
      x.rank = Math.max(0, Math.min(...[...after.get(x)].map(y => y.rank)) - 1);
  const columns = [];
  for (const x of inside) (columns[x.rank] ||= []).push(x);
  for (let k = 0; k < columns.length; k++) columns[k] ||= [];
  const stack = column => {
    const tall = column.reduce((s, x) => s + x.h + GAP.y, -GAP.y);
    let y = -tall / 2;
    for (const x of column) { x.cy = y + x.h / 2; y += x.h + GAP.y; }
  };
  columns.forEach(stack);
  const mean = (x, near) => {
    const all = [...near.get(x)];
    return all.length ? all.reduce((s, y) => s + y.cy, 0) / all.length : x.cy;
  };
  for (let round = 0; round < 3; round++)
    for (const [order, near] of [[columns, before], [[...columns].reverse(), after]])
      for (const column of order) {
        if (column.length < 2) continue;
        const aim = new Map(column.map(x => [x, mean(x, near)]));
        column.sort((a, b) => aim.get(a) - aim.get(b));
        stack(column);
      }
  // a long row goes on under itself, like a line of text
  const wide = columns.map(c => c.reduce((w, i) => Math.max(w, i.w), 0));
  const tall = columns.map(c => c.reduce((h, i) => h + i.h + GAP.y, -GAP.y));
  const total = wide.reduce((s, w) => s + w + GAP.x, -GAP.x);
  const area = columns.reduce((s, _, k) => s + (wide[k] + GAP.x) * (tall[k] + GAP.band), 0);
  const aspect = clamp(stage.clientWidth / (stage.clientHeight || 1), .4, 2);
  const limit = Math.max(aspect < 1 ? 400 : 780, Math.sqrt(area * 1.8 * aspect));
  let x = 0, y = 0, right = 0;
  for (let from = 0; from < columns.length;) {
    let to = from, w = 0;
    do w += wide[to++] + GAP.x;
    while (to < columns.length && (total <= 1.25 * limit || w + wide[to] <= limit));
    const h = Math.max(...tall.slice(from, to), 0);
    x = 0;
    for (let k = from; k < to; k++) {
      for (const item of columns[k]) {
        item.x = x + (wide[k] - item.w) / 2;
        item.y = y + h / 2 + item.cy - item.h / 2;
        item.gutter = y - GAP.band / 2;
        item.below = y + h + 9;
        item.last = k === to - 1;
      }
      x += wide[k] + GAP.x;
    }
    right = Math.max(right, x - GAP.x);
    y += h + GAP.band;
    from = to;
  }
  return {w: right, h: Math.max(0, y - GAP.band), first: inside.reduce((t, i) =>
    i.kind === "leaf" ? t : Math.min(t, first(i)), Infinity)};
}
function spread(parent, dx, dy, children) {  // places inside groups become places on the stage
  for (const item of children.get(parent) || []) {
    item.x += dx;
    item.y += dy;
    item.gutter += dy;
    item.below += dy;
    placed.push(item);
    if (item.kind === "group" && item.open)
      spread(item.at, item.x + PAD.x, item.y + PAD.top, children);
  }
}
const chips = k => P.calls[k].inputs.map((x, i) => [x, i]).filter(([x]) =>
  x.constant !== undefined || (x.leaf !== undefined && P.leaves[x.leaf].kind !== "input"));
function nodeSize(k) {
  const shown = Math.min(chips(k).length, 5);
  return {w: NODE.w, h: NODE.h + 15 * shown + (shown ? 3 : 0)};
}

/* ------------------------------------------------------------------------------------ drawing */

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

/* --------------------------------------------------------------------------- the way back */

function strip() {  // how large the gradient is at each step, for the whole pass
  const canvas = $("strip"), n = Math.max(P.order.length, 1), wide = Math.min(n, 1200);
  canvas.width = wide;
  canvas.height = 1;
  const c = canvas.getContext("2d");
  const [r, g, b] = rgb("--bwd");
  for (let x = 0; x < wide; x++) {
    const v = P.order.length ? norm(P.calls[P.order[Math.floor(x * n / wide)]]) : 0;
    c.fillStyle = `rgb(${r} ${g} ${b} / ${tone(v)})`;
    c.fillRect(x, 0, 1, 1);
  }
}
function said() {
  const out = $("said");
  out.replaceChildren();
  if (!P.order.length) { out.textContent = "no backward pass was recorded"; return; }
  if (!step) {
    out.append("forward pass done: ", plural(P.calls.length, "call"), ", ",
      bytes(P.calls.reduce((s, c) => s + (c.kept || []).reduce((t, k) => t + k[2], 0), 0)),
      " kept for the way back");
    return;
  }
  out.append("step " + step + " of " + P.order.length + ": ");
  make("b", "", out, P.calls[P.order[step - 1]].op);
}
function go(to) {
  step = clamp(to, 0, P.order.length);
  $("slider").value = step;
  said();
  if (step) {
    const k = P.order[step - 1];
    choose({kind: "call", at: k});
    show(items.get(seat(k)));
  } else panel();
  colour();
}
let timer = 0;
function play() {
  clearInterval(timer);
  const on = !timer;
  timer = 0;
  $("play").textContent = on ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", on ? "stop" : "play");
  if (!on) return;
  if (step >= P.order.length) go(0);
  timer = setInterval(() => {
    if (step >= P.order.length) play(); else go(step + 1);
  }, clamp(20000 / (P.order.length || 1), 40, 700));
}

/* -------------------------------------------------------------------------------- the panel */

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
    values.textContent = "⟨d, v⟩ = " + number(check.analytic) +
      "   differences: " + number(numeric);
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

/* -------------------------------------------------------------------------- the other views */

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

/* ------------------------------------------------------------------ mouse, fingers and keys */

const fingers = new Map();
let moved = 0;
stage.addEventListener("pointerdown", e => {
  fingers.set(e.pointerId, [e.clientX, e.clientY]);
  moved = 0;
});
stage.addEventListener("pointermove", e => {
  const before = fingers.get(e.pointerId);
  if (!before) return;
  const others = [...fingers.entries()].filter(([k]) => k !== e.pointerId);
  if (others.length) {  // two fingers: the distance between them is the scale
    const [ox, oy] = others[0][1];
    const far = Math.hypot(before[0] - ox, before[1] - oy);
    const now = Math.hypot(e.clientX - ox, e.clientY - oy);
    const box = stage.getBoundingClientRect();
    if (far > 10) zoom(now / far, (ox + e.clientX) / 2 - box.left, (oy + e.clientY) / 2 - box.top);
  } else {
    moved += Math.abs(e.clientX - before[0]) + Math.abs(e.clientY - before[1]);
    if (moved > 4) {
      stage.classList.add("drag");
      if (!stage.hasPointerCapture(e.pointerId)) stage.setPointerCapture(e.pointerId);
      shift(e.clientX - before[0], e.clientY - before[1]);
    }
  }
  fingers.set(e.pointerId, [e.clientX, e.clientY]);
});
const lift = e => { fingers.delete(e.pointerId); stage.classList.remove("drag"); };
stage.addEventListener("pointerup", lift);
stage.addEventListener("pointercancel", lift);
stage.addEventListener("click", e => { if (moved > 4) e.stopPropagation(); }, true);
stage.addEventListener("wheel", e => {
  e.preventDefault();
  const box = stage.getBoundingClientRect();
  if (e.shiftKey) shift(-e.deltaY, 0);
  else zoom(Math.exp(-e.deltaY * .0015), e.clientX - box.left, e.clientY - box.top);
}, {passive: false});
for (const b of document.querySelectorAll("[data-zoom]"))
  b.onclick = () => Number(b.dataset.zoom) ? zoom(Number(b.dataset.zoom)) : fit();
$("unfold").onclick = () => {
  const real = P.groups.map((_, g) => g).filter(g => P.parents[g] !== -2);
  const all = open.size < real.length;
  open = new Set(all ? real : []);
  $("unfold").textContent = all ? "close all" : "open all";
  layout();
  fit();
};
$("slider").oninput = () => go(Number($("slider").value));
$("first").onclick = () => go(0);
$("back").onclick = () => go(step - 1);
$("on").onclick = () => go(step + 1);
$("play").onclick = play;
$("strip").onclick = e => {
  const box = $("strip").getBoundingClientRect();
  go(Math.ceil((e.clientX - box.left) / box.width * P.order.length));
};
$("search").oninput = () => {
  const text = $("search").value.trim().toLowerCase();
  matches = new Set();
  let found = null;
  if (text) P.calls.forEach((c, k) => {
    const names = [c.op, ...c.names, ...above(groupOf(k)).map(g => P.groups[g].kind),
      ...c.inputs.map(x => x.leaf !== undefined ? P.leaves[x.leaf].name : "")];
    if (names.some(n => n.toLowerCase().includes(text))) {
      matches.add(seat(k));
      found ??= k;
    }
  });
  $("search").classList.toggle("none", text !== "" && found === null);
  colour();
  if (found !== null) show(items.get(seat(found)));
};
$("search").onkeydown = e => {
  if (e.key === "Enter" && matches.size) {
    const at = [...matches][0];
    if (at[0] === "n") choose({kind: "call", at: Number(at.slice(1))});
    else toggle(Number(at.slice(1)));
  }
  if (e.key === "Escape") { $("search").value = ""; $("search").oninput(); $("stage").focus(); }
};
addEventListener("keydown", e => {
  if (e.target !== $("slider") && e.target.matches?.("input")) return;
  if (e.ctrlKey || e.metaKey || e.altKey || $("graph-view").hidden) return;
  const act = {ArrowRight: () => go(step + 1), ArrowLeft: () => go(step - 1), Home: () => go(0),
    End: () => go(P.order.length), "+": () => zoom(1.3), "-": () => zoom(.77), "0": fit,
    "/": () => $("search").focus(), Escape: () => { if (path.length > 1) up(path.length - 2); },
  }[e.key];
  if (!act) return;
  e.preventDefault();
  act();
});
addEventListener("resize", () => { if (!$("graph-view").hidden) draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  strip();
  panel();
});

path = [];
tab("graph");
if (D.calls.length) enter(D, "the graph");
else $("said").textContent = "nothing was recorded";
})();
