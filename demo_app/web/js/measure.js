// The server leads: answers of one artifact, then times of those that were right, until it is done.
import { ARRAYS, joined, sampleAt } from "./arrays.js";
import { Refused, base64, bytes, post } from "./server.js";
import { opening } from "./models.js";
import { batchSize, breathe, clockStep, interleave, settle } from "./protocol.js";

/** Introduce this browser: {device, truth, reply}, what the pack will say of it and the first step. */
export const introduce = (facts, threads) => post("/visits", { browser: { ...facts, tick_ns: clockStep() }, threads });

/** Go through all that the server asks; ``hear`` is told of each step and each reply. */
export async function measure(plan, facts, threads, hear) {
  let { reply } = await introduce(facts, threads);
  let kept = 0;
  while (reply.next.kind !== "done") {
    const { kind, nonce, subjects } = reply.next;
    const asked = subjects.map((id) => plan.subjects[id]);
    hear.started(kind, asked);
    const answer = kind === "answers" ? await answers(asked[0], plan, threads, hear) : await times(asked, plan, threads, hear);
    reply = await post(`/${kind}`, { nonce, ...answer });
    kept += reply.kept ?? 0;
    hear.judged(kind, asked, reply, answer.error);
  }
  return kept;
}

async function answers(subject, plan, threads, hear) {
  try {
    const { model, runtime } = await opening(subject, threads);
    const stacks = await inputs(subject);
    const collected = new Map();
    for (let index = 0; index < plan.samples; index++) {
      model.set(Object.fromEntries(subject.inputs.map((port) => [port.name, sampleAt(stacks[port.name], port.shape, index)])));
      await model.query();
      for (const output of model.outputs()) collected.set(output.name, [...(collected.get(output.name) ?? []), output]);
      hear.progress((index + 1) / plan.samples);
      await breathe();
    }
    return { threads: runtime.threads, outputs: Array.from(collected.values(), stacked) };
  } catch (error) {
    hear.stopped(subject, error instanceof Refused);
    return { threads: 1, outputs: [], error: words(error) };
  }
}

async function inputs(subject) {
  const stacks = {};
  for (const [index, port] of subject.inputs.entries()) {
    const held = await bytes(`/inputs/${subject.id}/${index}`);
    stacks[port.name] = new ARRAYS[port.dtype](held.buffer);
  }
  return stacks;
}

function stacked(samples) {
  const { name, dtype, shape } = samples[0];
  return { name, dtype, shape: [samples.length, ...shape], data: base64(joined(samples.map((each) => each.data))) };
}

async function times(subjects, plan, threads, hear) {
  const watch = watching();
  try {
    const models = [];
    for (const subject of subjects) models.push(await ready(subject, threads));
    const tick = clockStep();
    const queries = models.map(({ model }) => () => model.query());
    const warmUps = [];
    for (const query of queries) warmUps.push(await settle(query, plan.protocol));
    const inner = [];
    for (const [index, query] of queries.entries()) inner.push(await batchSize(query, warmUps[index], tick, plan.protocol));
    const taken = await interleave(queries, inner, plan.protocol, hear.progress);
    const series = subjects.map((subject, index) => ({
      subject: subject.id,
      warm_up_ns: warmUps[index],
      inner: inner[index],
      taken: base64(taken[index].taken),
      starts: base64(taken[index].starts),
    }));
    return { threads: models[0].runtime.threads, tick_ns: tick, series, hidden: watch.wasHidden() };
  } catch (error) {
    return { threads: 1, tick_ns: 0, series: [], error: words(error) };
  } finally {
    watch.end();
  }
}

async function ready(subject, threads) {
  const held = await opening(subject, threads);
  const stacks = await inputs(subject);
  held.model.set(Object.fromEntries(subject.inputs.map((port) => [port.name, sampleAt(stacks[port.name], port.shape, 0)])));
  return held;
}

/** Whether the page leaves the view; and the screen stays on meanwhile, where the browser lets a page ask for that. */
function watching() {
  let hidden = document.hidden;
  let lock;
  const look = () => (hidden ||= document.hidden);
  document.addEventListener("visibilitychange", look);
  navigator.wakeLock?.request("screen").then((held) => (lock = held)).catch(() => undefined);
  return {
    wasHidden: () => hidden,
    end: () => {
      document.removeEventListener("visibilitychange", look);
      lock?.release();
    },
  };
}

const words = (error) => String(error?.message ?? error).slice(0, 900);
