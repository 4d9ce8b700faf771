/* The slider and its strip: the backward pass, step by step. */

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
