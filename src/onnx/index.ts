/** ONNX graphs with shapes and dtypes known at construction, and the one boundary to ONNX's wire format. */
export type { DType, TypedArray } from '../tensor/dtype.js';
export {
  addDims,
  broadcastShapes,
  canonical,
  divideDims,
  elementCountOf,
  equalShapes,
  formatShape,
  isStatic,
  multiplyDims,
  subtractDims,
  type Dim,
} from './dims.js';
export { Graph, type Attribute, type Domain, type GraphOptions, type Node, type NodeSpec, type OutputType, type Value } from './graph.js';
export { graphError, Origin } from './origin.js';
export { constantNumbers, type ConstantData } from './constant.js';
export { extract, type ExtractOptions } from './extract.js';
export { liveNodes } from './live.js';
export { print } from './print.js';
export { serialize } from './serialize.js';
export * as ops from './operators/index.js';
