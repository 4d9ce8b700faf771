/* Mouse, fingers and keys; and the beginning. */

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
