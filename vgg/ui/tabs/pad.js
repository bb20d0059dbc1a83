// The drawing pad: a canvas whose brush is in hand. Its value is the picture as a PNG data URL, or "";
// setting it is what tells Gradio.
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d");
const strokes = [];
let stroke = null;

function paint() {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.lineCap = pen.lineJoin = "round";
  for (const { width, colour, points } of strokes) {
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  }
  element.querySelector(".pad-hint").hidden = strokes.length > 0;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function tell() {
  props.value = strokes.length ? canvas.toDataURL("image/png") : "";
}

function tool(name) {
  return element.querySelector(`[name=pad-${name}]`);
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;  // the second button opens the browser's menu
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  stroke = { width: Number(tool("width").value), colour: tool("colour").value, points: [place(event)] };
  strokes.push(stroke);
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke) return;
  for (const part of event.getCoalescedEvents?.() ?? []) stroke.points.push(place(part));
  stroke.points.push(place(event));
  paint();
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => {
    if (!stroke) return;
    stroke = null;
    tell();
  });
}
element.querySelector(".pad-undo").addEventListener("click", () => { strokes.pop(); paint(); tell(); });
element.querySelector(".pad-clear").addEventListener("click", () => { strokes.length = 0; paint(); tell(); });
paint();
