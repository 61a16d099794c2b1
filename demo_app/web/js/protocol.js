// How latency is taken, as edgepack/runner/contract.py does it: settle, batches that span the clock's steps, A B B A. Nothing is dropped.

const STEPS = 16;
const READS = 2_000_000;
// Between rounds the page may show how far it is, never inside one.
const PAUSE_MS = 150;
// Engines compile busy WebAssembly again while it runs: queries of the digits student seemed settled after 20 and became up to 1.7 times
// faster within the next half second (Chromium).
const WARM_UP_MS = 500;
const HEADROOM = 2;
// Tries of a batch: the fastest of ten is a quiet one also on a busy device.
const TRIES = 10;

const nanoseconds = (milliseconds) => Math.round(milliseconds * 1e6);

/** Lets the page draw, and phones answer touches. */
export const breathe = () => new Promise((resolve) => setTimeout(resolve));

/** Nanoseconds between readings of the clock that differ, the smallest of some; 0 for a clock that does not move. */
export function clockStep() {
  let last = performance.now();
  const steps = [];
  for (let read = 0; read < READS && steps.length < STEPS; read++) {
    const now = performance.now();
    if (now > last) {
      steps.push(now - last);
      last = now;
    }
  }
  return steps.length ? nanoseconds(Math.min(...steps)) : 0;
}

async function timed(query, count = 1) {
  const start = performance.now();
  for (let done = 0; done < count; done++) await query();
  return nanoseconds(performance.now() - start);
}

/** Whether the last window of times is no faster than the one before it (Mann and Whitney's statistic is not above its mean). */
export function isSettled(times, window) {
  if (times.length < 2 * window) return false;
  const later = times.slice(-window);
  const earlier = times.slice(-2 * window, -window);
  let slower = 0;
  for (const one of earlier) for (const other of later) slower += Math.sign(one - other);
  return slower <= 0;
}

/** At least the profile's warm-up and half a second, then more until times no longer fall or its time is over; nanoseconds of each. */
export async function settle(query, protocol) {
  const begun = performance.now();
  const until = begun + protocol.warm_up_seconds * 1e3;
  const times = [];
  while (times.length < protocol.warm_up || performance.now() < begun + WARM_UP_MS) times.push(await timed(query));
  while (protocol.warm_up_seconds > 0 && !isSettled(times, protocol.window) && performance.now() < until) {
    for (let done = 0; done < protocol.window; done++) times.push(await timed(query));
    await breathe();
  }
  return times;
}

/** How many queries span enough steps of the clock: doubled until the fastest of some batches does. */
export async function batchSize(query, warmUp, tick, protocol) {
  const needed = HEADROOM * protocol.fewest_ticks * tick;
  let count = 1;
  let fastest = Math.min(...warmUp);
  while (fastest < needed && count < protocol.most_inner) {
    count *= 2;
    fastest = Infinity;
    for (let tried = 0; tried < TRIES; tried++) fastest = Math.min(fastest, await timed(query, count));
  }
  return count;
}

/** A B, B A, ...: for each query its start times since the first and its nanoseconds a query, in the order taken. */
export async function interleave(queries, inner, protocol, progress) {
  const taken = queries.map(() => []);
  const starts = queries.map(() => []);
  const forth = queries.map((_, index) => index);
  const back = [...forth].reverse();
  const begun = performance.now();
  const until = begun + protocol.seconds * 1e3;
  let paused = begun;
  for (let rounds = 0; rounds < protocol.pairs || performance.now() < until; rounds++) {
    for (const index of rounds % 2 ? back : forth) {
      const query = queries[index];
      const count = inner[index];
      const start = performance.now();
      for (let done = 0; done < count; done++) await query();
      const end = performance.now();
      if (end < start) throw new Error("the clock went back: no time of this run can be trusted");
      starts[index].push(nanoseconds(start - begun));
      taken[index].push(Math.floor((nanoseconds(end - begun) - nanoseconds(start - begun)) / count));
    }
    const now = performance.now();
    if (now - paused > PAUSE_MS) {
      progress(Math.min(rounds / protocol.pairs, protocol.seconds ? (now - begun) / (protocol.seconds * 1e3) : 1));
      await breathe();
      paused = performance.now();
    }
  }
  return queries.map((_, index) => ({ taken: Float64Array.from(taken[index]), starts: Float64Array.from(starts[index]) }));
}
