/** Every operator, as functions on values. The graph is that of the operands. */
export * from './attention.js';
export { constantOfShape, dimension, dimensionScalar, dimensionVector, fill, shapeOf } from './dimensions.js';
export * from './elementwise.js';
export * from './indexing.js';
export * from './matmul.js';
export { isFloat, type Operand } from './node.js';
export * from './normalization.js';
export * from './quantized.js';
export * from './reduction.js';
export * from './shape.js';
