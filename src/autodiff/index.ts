/** Reverse-mode differentiation of graphs. */
export { backward } from './backward.js';
export { customVjp, type VectorJacobianProduct } from './custom-vjp.js';
