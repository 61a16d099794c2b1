// The two runtimes behind one face: open(bytes) -> a model with set(inputs), query() and outputs().
import { ARRAYS } from "./arrays.js";

const loaded = new Map();

/** A runtime, loaded once: {threads, open}. */
export function runtime(name, threads) {
  if (!loaded.has(name)) loaded.set(name, LOADERS[name](threads));
  return loaded.get(name);
}

async function onnxruntime(threads) {
  const ort = await import("/runtimes/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmPaths = "/runtimes/onnxruntime-web/dist/";
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return { threads, open: (content, subject) => OnnxModel.open(ort, content, subject) };
}

class OnnxModel {
  static async open(ort, content, subject) {
    const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    return new OnnxModel(ort, session, subject);
  }

  constructor(ort, session, subject) {
    Object.assign(this, { ort, session, subject, feeds: {}, results: null });
  }

  set(inputs) {
    for (const port of this.subject.inputs) this.feeds[port.name] = new this.ort.Tensor(port.dtype, inputs[port.name], port.shape);
  }

  async query() {
    this.results = await this.session.run(this.feeds);
  }

  outputs() {
    return this.subject.outputs.map((port) => {
      const tensor = this.results[port.name];
      return { name: port.name, dtype: tensor.type, shape: [...tensor.dims], data: tensor.data };
    });
  }

  async close() {
    await this.session.release();
  }
}

async function litert(threads) {
  const lib = await import("/runtimes/@litertjs/core/dist/index.js");
  // Its threads need relaxed SIMD too.
  const several = threads > 1 && (await lib.supportsFeature("relaxedSimd"));
  await lib.loadLiteRt("/runtimes/@litertjs/core/wasm/", { threads: several });
  const used = several ? threads : 1;
  return { threads: used, open: (content, subject) => LiteRtModel.open(lib, content, subject, used) };
}

class LiteRtModel {
  static async open(lib, content, subject, threads) {
    const model = await lib.loadAndCompile(content, { accelerator: "wasm", cpuOptions: { numThreads: threads } });
    return new LiteRtModel(lib, model, subject);
  }

  constructor(lib, model, subject) {
    Object.assign(this, { lib, model, subject, feeds: {}, results: {} });
  }

  set(inputs) {
    this.free(this.feeds);
    for (const port of this.subject.inputs) this.feeds[port.name] = new this.lib.Tensor(inputs[port.name], port.shape);
  }

  async query() {
    // Results lie in the runtime's own memory: they are given back, or it is full after some thousand queries.
    this.free(this.results);
    this.results = await this.model.run(this.feeds);
  }

  outputs() {
    return this.subject.outputs.map((port) => {
      const tensor = this.results[port.name];
      const data = tensor.toTypedArray();
      const dtype = Object.keys(ARRAYS).find((name) => ARRAYS[name] === data.constructor);
      return { name: port.name, dtype, shape: [...tensor.type.layout.dimensions], data };
    });
  }

  free(tensors) {
    for (const name of Object.keys(tensors)) {
      tensors[name].delete();
      delete tensors[name];
    }
  }

  async close() {
    this.free(this.feeds);
    this.free(this.results);
    this.model.delete();
  }
}

const LOADERS = { ort: onnxruntime, litert };
