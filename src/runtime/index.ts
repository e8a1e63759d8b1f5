/** Public face of the runtime layer: the only part of the project that talks to the native ONNX Runtime library. */
export type { DeviceName, Lane, RunOptions, RunReport, RuntimeOptions, ValueInfo } from './types.js';
export { Tensor } from './tensor.js';
