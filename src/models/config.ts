/** What a decoder is: its description, where that is read from, and what follows from it. */
export * from './config-decoder.js';
export * from './weight-shapes.js';
export { checkDecoderConfig, parseHfConfig, toHfConfig } from './config-hf.js';
export { ropeFrequencies, ropeTables } from './config-rope.js';
export { familyOf } from './families/index.js';
export type { Family, FamilyName } from './family.js';
