// A pad to draw a digit on, and the digit framed as MNIST frames its own: 20 of 28 pixels high or wide, its centre of mass in the middle.

const SIZE = 280;
const PEN = 22;
const FRAME = 20 / 28;

/** A pad in ``stage``; ``changed(canvas | null)`` hears of each change. ``light``: light strokes on black, as the student takes them. */
export function pad(stage, preprocessing, changed) {
  const light = !preprocessing.invert;
  stage.className = light ? "stage" : "stage paper";
  const canvas = Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE, id: "pad" });
  canvas.setAttribute("aria-label", "Draw a digit here");
  const hint = Object.assign(document.createElement("p"), { className: "hint", textContent: "Draw a digit from 0 to 9" });
  const seen = Object.assign(document.createElement("canvas"), { className: "seen", width: preprocessing.width, height: preprocessing.height, hidden: true });
  stage.replaceChildren(canvas, hint, seen);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const ground = light ? "#000" : "#fff";

  const clear = () => {
    context.fillStyle = ground;
    context.fillRect(0, 0, SIZE, SIZE);
    hint.hidden = false;
    seen.hidden = true;
    changed(null);
  };
  const tell = () => {
    const framed = frame(canvas, context, preprocessing, light, ground);
    if (!framed) return;
    seen.hidden = false;
    seen.getContext("2d").drawImage(framed, 0, 0);
    changed(framed);
  };
  strokes(canvas, context, light ? "#fff" : "#000", () => (hint.hidden = true), tell);
  clear();
  return { clear };
}

function strokes(canvas, context, ink, begun, moved) {
  let last = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIZE) / box.width, ((event.clientY - box.top) * SIZE) / box.height];
  };
  const line = (from, to) => {
    Object.assign(context, { strokeStyle: ink, lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    begun();
    last = at(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      line(last, at(each));
      last = at(each);
    }
    moved();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (last) moved();
      last = null;
    });
  }
}

function frame(canvas, context, { width, height }, light, ground) {
  const box = inked(context.getImageData(0, 0, SIZE, SIZE).data, light);
  if (!box) return null;
  const scale = (FRAME * Math.min(width, height)) / Math.max(box.width, box.height);
  const framed = new OffscreenCanvas(width, height);
  const onto = framed.getContext("2d", { willReadFrequently: true });
  onto.fillStyle = ground;
  onto.fillRect(0, 0, width, height);
  onto.imageSmoothingQuality = "high";
  const left = width / 2 - (box.x - box.left) * scale;
  const top = height / 2 - (box.y - box.top) * scale;
  onto.drawImage(canvas, box.left, box.top, box.width, box.height, left, top, box.width * scale, box.height * scale);
  return framed;
}

/** Where the ink is, and its centre of mass. */
function inked(rgba, light) {
  let [left, top, right, bottom, mass, x, y] = [SIZE, SIZE, -1, -1, 0, 0, 0];
  for (let at = 0; at < SIZE * SIZE; at++) {
    const ink = light ? rgba[4 * at] : 255 - rgba[4 * at];
    if (ink < 32) continue;
    const [column, row] = [at % SIZE, Math.floor(at / SIZE)];
    [left, right, top, bottom] = [Math.min(left, column), Math.max(right, column), Math.min(top, row), Math.max(bottom, row)];
    mass += ink;
    x += ink * (column + 0.5);
    y += ink * (row + 0.5);
  }
  return mass ? { left, top, width: right - left + 1, height: bottom - top + 1, x: x / mass, y: y / mass } : null;
}
