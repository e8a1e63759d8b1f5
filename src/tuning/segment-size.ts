/**
 * How much one native run of training computes. A run is never interrupted, so a token of a stream waits for as long as one takes: rows are cut so
 * that on the SmolLM2-135M shape it is at most about 100 ms where float32 products run at 200 GFLOPS.
 * Fixed numbers of operations, never measured times: where rows are cut is the order of sums, and training must be reproducible.
 */
import { weightShapes, type DecoderConfig } from '../models/config.js';
import { layerPrefix } from '../models/decoder.js';

/** Of one layer, backward: 4 x 256 tokens of SmolLM2-135M, trained whole or with recomputed activations. */
const LAYER_OPERATIONS = 19.2e9;
/** Rows below this make products slow: layers of larger models are cut to this and take longer. */
const LEAST_LAYER_TOKENS = 512;
/** Attention and what is done element by element, in products with the layer's weights. */
const OTHER_PRODUCTS = 0.5;
const MOST_TOKENS = 4096;

/** Of one run over a piece of the head, a product each; reading the whole table, and writing its gradient, take the rest of the time. */
const HEAD_OPERATIONS = 14e9;
const LEAST_HEAD_ROWS = 64;
const MOST_HEAD_ROWS = 1024;
/** A value for every output takes at most this many bytes in one piece of the head. */
const OUTPUT_BYTES = 32 * 2 ** 20;

/**
 * Padded tokens of a micro-batch at which the longest backward run of a layer is as long as it may be. `trained`: the parameters with their shapes;
 * `recomputed`: activations are.
 */
export function layerTokens(config: DecoderConfig, trained: Iterable<readonly [string, readonly number[]]>, recomputed: boolean): number {
  const weights = new Array<number>(config.layers).fill(0);
  const trainedWeights = new Array<number>(config.layers).fill(0);
  const places = weights.map((_, i) => `${layerPrefix(i)}.`);
  const add = (to: number[], name: string, shape: readonly number[]): void => {
    const layer = places.findIndex((place) => name.startsWith(place));
    if (layer >= 0 && shape.length === 2) to[layer]! += shape[0]! * shape[1]!;
  };
  for (const [name, shape] of weightShapes(config)) add(weights, name, shape);
  for (const [name, shape] of trained) add(trainedWeights, name, shape);
  const products = 1 + OTHER_PRODUCTS + (recomputed ? 1 : 0);
  const most = weights.reduce((longest, count, i) => Math.max(longest, 2 * (products * count + trainedWeights[i]!)), 1);
  return Math.min(MOST_TOKENS, Math.max(LEAST_LAYER_TOKENS, Math.floor(LAYER_OPERATIONS / most)));
}

/** Rows of one piece of a head with `outputs` outputs. */
export function headRows(outputs: number, hiddenSize: number): number {
  const byOperations = Math.max(LEAST_HEAD_ROWS, HEAD_OPERATIONS / (2 * outputs * hiddenSize));
  return Math.max(16, Math.floor(Math.min(MOST_HEAD_ROWS, OUTPUT_BYTES / (4 * outputs), byOperations) / 16) * 16);
}

/** Queries of a block of attention at least: smaller products cost more than is saved by not computing what is masked. */
const LEAST_BLOCK_QUERIES = 64;
/** What every padded length is a multiple of. */
const MOST_QUERY_BLOCKS = 8;

/** Blocks that attention takes the queries of rows of at most `longestTokens` in. */
export function queryBlocks(longestTokens: number): number {
  let blocks = 1;
  while (2 * blocks <= MOST_QUERY_BLOCKS && longestTokens / (2 * blocks) >= LEAST_BLOCK_QUERIES) blocks *= 2;
  return blocks;
}
