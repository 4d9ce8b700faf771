/* The picture that is shown: a recording, or the reference of one of its fused ops. */

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
