/* Places: columns by distance from the beginning, open groups as boxes around their calls. */

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
