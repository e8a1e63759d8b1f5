/** What a decoder of the Llama family is: its description, where that is read from, and what follows from it. */
export * from './config-decoder.js';
export { checkDecoderConfig, parseHfConfig, toHfConfig } from './config-hf.js';
export { ropeFrequencies, ropeTables } from './config-rope.js';
