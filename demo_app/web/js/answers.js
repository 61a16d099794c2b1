// What a model's first output means to a person: likely classes, shares of the picture, or only its size.
import { transposed } from "./arrays.js";

const SHOWN = 3;

/** [{label, share}], the largest first; empty where the output names nothing. */
export function named(output, port, labels) {
  const scores = Array.from(output.data, Number);
  const classes = labels.length || output.shape.at(-1);
  if (scores.length === classes && classes > 1) return largest(probabilities(scores), labels);
  const shape = unpermuted(output.shape, port.permutation);
  if (shape.length === 4 && labels.length && shape[1] === labels.length) return largest(areas(output, port, shape), labels);
  return [];
}

function largest(shares, labels) {
  const order = shares.map((share, index) => ({ label: labels[index] ?? `class ${index}`, share }));
  return order.sort((one, other) => other.share - one.share).slice(0, SHOWN);
}

/** As they are when they are a distribution already, else by softmax; as edgepack.verify.metrics.probabilities. */
function probabilities(scores) {
  const sum = scores.reduce((total, each) => total + each, 0);
  if (Math.min(...scores) >= 0 && Math.max(...scores) <= 1.01 && Math.abs(sum - 1) < 1e-2 + scores.length / 512) return scores;
  const most = Math.max(...scores);
  const powers = scores.map((each) => Math.exp(each - most));
  const all = powers.reduce((total, each) => total + each, 0);
  return powers.map((each) => each / all);
}

/** The share of pixels of each class, of scores in the student's NCHW. */
function areas(output, port, [, classes, height, width]) {
  const scores = transposed(output.data, output.shape, inverse(port.permutation));
  const shares = new Array(classes).fill(0);
  for (let pixel = 0; pixel < height * width; pixel++) {
    let best = 0;
    for (let one = 1; one < classes; one++) if (scores[one * height * width + pixel] > scores[best * height * width + pixel]) best = one;
    shares[best] += 1 / (height * width);
  }
  return shares;
}

const inverse = (permutation) => permutation.map((_, axis) => permutation.indexOf(axis));
const unpermuted = (shape, permutation) => (permutation.length ? inverse(permutation).map((axis) => shape[axis]) : shape);
