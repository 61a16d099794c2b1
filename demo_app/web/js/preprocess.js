// From a picture to a student's input, as edgepack.student.spec.ImagePreprocessing says; the browser does the resampling.
import { transposed } from "./arrays.js";

/** A canvas of the student's size with the picture on it: stretched, or its centre. */
export function fitted(source, width, height, preprocessing) {
  const canvas = new OffscreenCanvas(preprocessing.width, preprocessing.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = preprocessing.interpolation !== "nearest";
  context.imageSmoothingQuality = "high";
  const cover = preprocessing.resize === "cover";
  const scale = cover ? Math.min(width / canvas.width, height / canvas.height) : 1;
  const [w, h] = cover ? [canvas.width * scale, canvas.height * scale] : [width, height];
  context.drawImage(source, (width - w) / 2, (height - h) / 2, w, h, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Pixels of such a canvas as the artifact takes them. */
export function sample(canvas, demo, port) {
  const { preprocessing, layout } = demo;
  const { width, height, channels } = preprocessing;
  const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const values = new Float32Array(width * height * channels);
  for (let at = 0; at < width * height; at++) {
    for (let channel = 0; channel < channels; channel++) {
      const to = layout === "NHWC" ? at * channels + channel : channel * width * height + at;
      values[to] = normalized(channels === 1 ? luma(pixels, 4 * at) : pixels[4 * at + channel], channel, preprocessing);
    }
  }
  const shape = layout === "NHWC" ? [1, height, width, channels] : [1, channels, height, width];
  return transposed(values, shape, port.permutation);
}

// ITU-R 601, in the integers that Pillow uses.
const luma = (rgba, at) => (rgba[at] * 19595 + rgba[at + 1] * 38470 + rgba[at + 2] * 7471 + 0x8000) >> 16;

function normalized(pixel, channel, { mean, std, invert, folded }) {
  if (folded) return pixel;
  const unit = invert ? 1 - pixel / 255 : pixel / 255;
  return (unit - mean[mean.length > 1 ? channel : 0]) / std[std.length > 1 ? channel : 0];
}
