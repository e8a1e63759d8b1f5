/** Public face of the runtime layer: the only part of the project that talks to the native ONNX Runtime library. */
export type { DeviceName, Lane, RunOptions, RunReport, RuntimeOptions, ValueInfo } from './types.js';
export type { SessionOptions } from './session-loader.js';
export { Runtime } from './runtime.js';
export { Tensor } from './tensor.js';
export { Session } from './session.js';
export { Binding } from './binding.js';
export { PrepackedWeights } from './prepacked-weights.js';
export { inspectRuntime, type RuntimeInspection } from './inspect.js';
export { mapFile } from './mapped-file.js';
export { memoryLimitBytes, memorySizeBytes, processMemory, type ProcessMemory } from './memory.js';
