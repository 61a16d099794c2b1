// Artifacts of the pack, opened once each, for the check and for the live part alike.
import { artifact } from "./server.js";
import { runtime } from "./runtimes.js";

const opened = new Map();

/** {model, runtime} of a subject; what fails is tried anew. */
export function opening(subject, threads) {
  if (!opened.has(subject.id)) {
    const held = open(subject, threads);
    opened.set(subject.id, held);
    held.catch(() => opened.delete(subject.id));
  }
  return opened.get(subject.id);
}

async function open(subject, threads) {
  const [content, loaded] = await Promise.all([artifact(subject), runtime(subject.runner, threads)]);
  return { model: await loaded.open(content, subject), runtime: loaded };
}

let last = Promise.resolve();

/** One after the other: runtimes compute one query at a time, and nothing is timed beside something else. */
export function alone(work) {
  const held = last.then(work);
  last = held.catch(() => undefined);
  return held;
}
