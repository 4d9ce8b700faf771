/* What everything else uses: making elements, and numbers as a person reads them. */

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
const number = (v, digits = 4) => {
  if (typeof v === "string") return v;
  if (v === 0) return "0";
  const a = Math.abs(v);
  const text = a >= 1e5 || a < 1e-3 ? v.toExponential(digits - 2)
    : String(Number(v.toPrecision(digits)));
  return text.replaceAll("-", "−");
};
const bytes = n => n < 1024 ? n + " B" : n < 1 << 20 ? (n / 1024).toFixed(1) + " KB" :
  (n / (1 << 20)).toFixed(1) + " MB";
const plural = (n, what) => n + " " + what + (n === 1 ? "" : "s");
