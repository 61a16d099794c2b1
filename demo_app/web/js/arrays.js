// Tensors as typed arrays: types by numpy's names, samples of a stack, axes.

export const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

export const sizeOf = (shape) => shape.reduce((product, size) => product * size, 1);

/** One sample of stacked ones. */
export function sampleAt(stack, shape, index) {
  const size = sizeOf(shape);
  return stack.slice(index * size, (index + 1) * size);
}

/** Arrays of one type, one after the other. */
export function joined(arrays) {
  const result = new arrays[0].constructor(arrays.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of arrays) {
    result.set(each, at);
    at += each.length;
  }
  return result;
}

/** numpy's transpose, as a copy; an empty permutation changes nothing. */
export function transposed(array, shape, permutation) {
  if (!permutation.length) return array;
  const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
  const sizes = permutation.map((axis) => shape[axis]);
  const steps = permutation.map((axis) => strides[axis]);
  const result = new array.constructor(array.length);
  const index = sizes.map(() => 0);
  for (let at = 0, from = 0; at < result.length; at++) {
    result[at] = array[from];
    for (let axis = sizes.length - 1; axis >= 0; axis--) {
      index[axis]++;
      from += steps[axis];
      if (index[axis] < sizes[axis]) break;
      from -= sizes[axis] * steps[axis];
      index[axis] = 0;
    }
  }
  return result;
}
