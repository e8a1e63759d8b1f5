/** The shape of the embedded base and its weights before the first step. */
import { Xoshiro128 } from '../../src/common/random.js';
import { weightShapes, type DecoderConfig } from '../../src/models/config.js';
import { END_OF_TEXT_ID } from './tokenizer-files.js';

/** 1.2 million parameters; with the tokenizer about 2.5 MB in float16. Inner sizes are multiples of the int8 block (32). */
export const TINY_CONFIG: DecoderConfig = {
  family: 'llama',
  vocabSize: 3072,
  hiddenSize: 128,
  intermediateSize: 384,
  layers: 4,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  maxPositionTokens: 512,
  ropeTheta: 10_000,
  rmsNormEpsilon: 1e-5,
  tieWordEmbeddings: true,
  attentionBias: false,
  mlpBias: false,
  bosTokenId: END_OF_TEXT_ID,
  eosTokenIds: [END_OF_TEXT_ID],
};

const DEVIATION = 0.02;

/** Linear and embedding weights from N(0, 0.02²) by Box-Muller, gains 1; a pure function of config and seed. */
export function initialWeights(config: DecoderConfig, seed: number): Map<string, Float32Array> {
  const random = new Xoshiro128(seed);
  const uniform = (): number => (random.nextUint32() + 0.5) / 2 ** 32;
  const weights = new Map<string, Float32Array>();
  for (const [name, shape] of weightShapes(config)) {
    const values = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
    if (shape.length === 1) values.fill(1);
    else {
      for (let i = 0; i < values.length; i++) {
        values[i] = DEVIATION * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
      }
    }
    weights.set(name, values);
  }
  return weights;
}

/** Number of parameters. */
export function parameterCount(config: DecoderConfig): number {
  return [...weightShapes(config).values()].reduce((sum, shape) => sum + shape.reduce((product, dim) => product * dim, 1), 0);
}
