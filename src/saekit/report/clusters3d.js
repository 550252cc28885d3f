"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("plot");
const label = document.getElementById("label");
const g = canvas.getContext("2d");
let turn = 0.7, tilt = 0.45, zoom = 1, drag = null, shown = [];

function colour(z) {  // blue over white to orange
  const t = data.top > data.bottom ? (z - data.bottom) / (data.top - data.bottom) : 0.5;
  const a = [0, 114, 178], b = [225, 225, 225], c = [213, 94, 0];
  const [from, to, s] = t < 0.5 ? [a, b, 2 * t] : [b, c, 2 * t - 1];
  return "rgb(" + from.map((v, i) => Math.round(v + (to[i] - v) * s)).join(",") + ")";
}

function place(x, y, z) {
  const u = x * Math.cos(turn) - y * Math.sin(turn);
  const v = x * Math.sin(turn) + y * Math.cos(turn);
  const scale = 0.31 * Math.min(canvas.width, canvas.height) * zoom;
  const up = z * Math.cos(tilt) + v * Math.sin(tilt);
  return [canvas.width / 2 + scale * u, canvas.height / 2 - scale * up,
          v * Math.cos(tilt) - z * Math.sin(tilt)];
}

function height(z) {
  return data.full > 0 ? 2 * z / data.full - 1 : 0;
}

function line(a, b, style, width) {
  g.strokeStyle = style;
  g.lineWidth = width;
  g.beginPath();
  g.moveTo(a[0], a[1]);
  g.lineTo(b[0], b[1]);
  g.stroke();
}

function frame() {
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]];
  corners.forEach(([x, y], i) => {
    const [u, v] = corners[(i + 1) % 4];
    line(place(x, y, -1), place(u, v, -1), "#ccc", 1);
  });
  line(place(-1, -1, -1), place(-1, -1, 1), "#bbb", 1);
  g.fillStyle = "#555";
  g.font = "12px system-ui,sans-serif";
  for (let k = 0; k <= 4; k++) {
    const z = data.full * k / 4;
    const p = place(-1, -1, height(z));
    g.fillText(z.toFixed(1) + (k === 4 ? " bits" : ""), p[0] - 46, p[1] + 4);
  }
}

function draw() {
  g.clearRect(0, 0, canvas.width, canvas.height);
  frame();
  shown = data.points.map((p) => ({p, at: place(p.x, p.y, height(p.z))}));
  shown.sort((a, b) => b.at[2] - a.at[2]);
  for (const {p, at} of shown) {
    line(place(p.x, p.y, height(p.low)), place(p.x, p.y, height(p.high)), "rgba(90,90,90,.35)", 1);
    g.fillStyle = colour(p.z);
    g.beginPath();
    g.arc(at[0], at[1], 4.5 * Math.sqrt(zoom), 0, 7);
    g.fill();
    g.strokeStyle = "rgba(0,0,0,.45)";
    g.lineWidth = 0.7;
    g.stroke();
  }
}

canvas.addEventListener("pointerdown", (e) => {
  drag = [e.clientX, e.clientY];
  canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener("pointerup", () => { drag = null; });
canvas.addEventListener("pointermove", (e) => {
  if (drag) {
    turn += (e.clientX - drag[0]) / 150;
    tilt = Math.max(-1.4, Math.min(1.4, tilt + (e.clientY - drag[1]) / 150));
    drag = [e.clientX, e.clientY];
    draw();
    return;
  }
  const box = canvas.getBoundingClientRect();
  const x = (e.clientX - box.left) * canvas.width / box.width;
  const y = (e.clientY - box.top) * canvas.height / box.height;
  const hit = shown.filter((s) => Math.hypot(s.at[0] - x, s.at[1] - y) < 8).pop();
  label.textContent = hit ? hit.p.text : "drag to turn, wheel to zoom, point to read";
});
canvas.addEventListener("wheel", (e) => {
  e.preventDefault();
  zoom = Math.max(0.4, Math.min(8, zoom * Math.exp(-e.deltaY / 500)));
  draw();
}, {passive: false});
draw();
