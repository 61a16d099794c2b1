// The live part: a drawn digit, or the camera's frames, through the artifact that is chosen, with the latency of each.
import { named } from "./answers.js";
import { camera, picture } from "./camera.js";
import { pad } from "./draw.js";
import { alone, opening } from "./models.js";
import { sample } from "./preprocess.js";
import { element, milliseconds } from "./view.js";

const by = (id) => document.getElementById(id);
const RECENT = 15;

/** Set up the part of the page, for a plan whose student takes a picture; what ends all that goes on by itself, a camera. */
export function live(plan, threads) {
  const { demo } = plan;
  if (demo.kind === "none") return () => undefined;
  const choice = by("choice");
  choice.replaceChildren(...plan.subjects.map((each) => new Option(`${each.scheme} ${each.file.split(".").pop()}`, each.id)));
  const state = { plan, threads, last: null, recent: [], subject: () => plan.subjects[choice.value], again: false, running: false };
  choice.addEventListener("change", () => {
    state.recent = [];
    if (state.last) show(state, state.last);
  });
  by("try").hidden = false;
  return STAGES[demo.kind](state);
}

const STAGES = {
  draw(state) {
    by("try-title").textContent = "Draw a digit";
    const stage = element("div", { className: "stage" });
    by("stage").replaceChildren(stage);
    const held = pad(stage, state.plan.demo.preprocessing, (canvas) => {
      state.last = canvas;
      if (canvas) show(state, canvas);
      else by("result").replaceChildren();
    });
    by("buttons").replaceChildren(element("button", { textContent: "Clear", onclick: held.clear }));
    return () => undefined;
  },

  camera(state) {
    by("try-title").textContent = "Point the camera at something";
    const hint = element("p", { className: "hint", textContent: "Nothing leaves this device." });
    const stage = element("div", { className: "stage" }, hint);
    by("stage").replaceChildren(stage);
    const { preprocessing } = state.plan.demo;
    let running = null;
    const toggle = element("button", { id: "camera", textContent: "Start camera" });
    const stop = () => {
      if (running) stage.replaceChildren(hint);
      running?.stop();
      running = null;
      toggle.textContent = "Start camera";
    };
    toggle.onclick = async () => {
      if (running) return stop();
      try {
        running = await camera(stage, preprocessing, (canvas) => show(state, canvas));
        toggle.textContent = "Stop camera";
      } catch (error) {
        by("result").replaceChildren(element("p", { className: "note", textContent: `No camera: ${error.message}. Choose a picture instead.` }));
      }
    };
    const file = element("input", { type: "file", accept: "image/*", hidden: true });
    file.onchange = async () => {
      if (!file.files[0]) return;
      stop();
      show(state, await picture(stage, file.files[0], preprocessing));
    };
    by("buttons").replaceChildren(toggle, element("button", { textContent: "Choose a picture", onclick: () => file.click() }), file);
    return stop;
  },
};

/** The newest picture is answered; those that came meanwhile are not. */
async function show(state, canvas) {
  state.last = canvas;
  if (state.running) {
    state.again = true;
    return;
  }
  state.running = true;
  try {
    do {
      state.again = false;
      await answer(state, state.last);
    } while (state.again && state.last);
  } catch (error) {
    by("result").replaceChildren(element("p", { className: "note bad", textContent: error.message }));
  } finally {
    state.running = false;
  }
}

async function answer(state, canvas) {
  const subject = state.subject();
  if (!canvas) return;
  const { model } = await opening(subject, state.threads);
  const input = sample(canvas, state.plan.demo, subject.inputs[0]);
  const { output, took } = await alone(async () => {
    model.set({ [subject.inputs[0].name]: input });
    const start = performance.now();
    await model.query();
    return { took: performance.now() - start, output: model.outputs()[0] };
  });
  if (subject !== state.subject() || state.last === null) return;
  state.recent = [...state.recent, took].slice(-RECENT);
  by("result").replaceChildren(...lines(named(output, subject.outputs[0], state.plan.demo.labels), output, state.recent));
}

function lines(found, output, recent) {
  const median = [...recent].sort((one, other) => one - other)[Math.floor(recent.length / 2)];
  const took = element("span", { className: "took", textContent: milliseconds(median) });
  took.append(element("span", { className: "soft small", textContent: recent.length > 1 ? `median of ${recent.length}` : "first query" }));
  const best = found[0]?.label ?? `${output.name}: ${output.shape.join(" × ")}`;
  const className = found.every(({ label }) => label.length < 3) ? "bar short" : "bar";
  const bars = found.map(({ label, share }) =>
    element(
      "div",
      { className },
      element("span", { textContent: label, title: label }),
      element("meter", { min: 0, max: 1, value: share, title: `${label}: ${(100 * share).toFixed(1)} %` }),
      element("span", { textContent: `${(100 * share).toFixed(1)} %` }),
    ),
  );
  return [element("div", { className: "answer" }, element("span", { className: best.length < 5 ? "best" : "best long", id: "best", textContent: best }), took), ...bars];
}
