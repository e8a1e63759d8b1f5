/**
 * Against llama.cpp, on files that are all made from the same float32 tensors: the float32 GGUF that we write (and F16, Q8_0, which it must load),
 * and Q8_0 and Q4_0 by llama.cpp's own quantizer. The KV cache is float32 on both sides, so that only weights differ.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { LlamaModel, quantizeGguf } from '../../bench/llama-cpp.js';
import { exportCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { Runtime } from '../../src/runtime/index.js';
import { largestDifference, negativeLogLikelihood, topTwo, withForm, type Score } from './parity-models.js';

const CONTINUATION_TOKENS = 64;
/** Where our first choice leads by less, rounding may decide otherwise. */
const CLEAR_MARGIN = 0.02;
/** Tokens of a window of the perplexity; all but a window's first are scored. */
export const WINDOW_TOKENS = 256;

export interface AgreementFigures {
  readonly tokens: number;
  /** Part of all places with the same top token. */
  readonly agreement: number;
  readonly clearPlaces: number;
  /** Places whose top tokens differ though ours leads by 0.02 or more. */
  readonly clearDisagreements: number;
  readonly largestDifference: number;
}

export interface PerplexityFigures {
  readonly tokens: number;
  readonly float32: number;
  readonly int8: number;
  readonly int4: number;
  readonly llamaF32: number;
  readonly llamaQ8: number;
  readonly llamaQ4: number;
  /** Ours over llama.cpp's: at most 1 is no worse. */
  readonly int8OverQ8: number;
  readonly int4OverQ4: number;
  readonly weightBytes: { readonly float32: number; readonly int8: number; readonly int4: number };
}

export interface LlamaFigures {
  readonly agreement: AgreementFigures;
  readonly perplexity: PerplexityFigures;
  /** Largest difference of a logit, in llama.cpp, between the file that we wrote and its own quantizer's, over the prompts. */
  readonly exports: { readonly F16: number; readonly Q8_0: number };
}

/** One thread: llama.cpp's threads wait for each other by spinning, which on a machine with other work takes many times as long. */
function open(path: string): LlamaModel {
  return new LlamaModel(path, { contextTokens: WINDOW_TOKENS, threads: 1 });
}

async function withLlama<T>(path: string, use: (score: Score) => Promise<T>): Promise<T> {
  const model = open(path);
  try {
    return await use((tokens) => {
      model.clear();
      return Promise.resolve(model.decode(tokens, 'all'));
    });
  } finally {
    model.dispose();
  }
}

/** `prompts` are token ids; `windows` have WINDOW_TOKENS each. Writes into `folder`, which the caller removes. */
export async function compareWithLlama(
  runtime: Runtime, checkpoint: Checkpoint, prompts: readonly (readonly number[])[], windows: readonly (readonly number[])[], folder: string, log: (text: string) => void,
): Promise<LlamaFigures> {
  const file = (name: string): string => join(folder, `${name}.gguf`);
  for (const storage of ['F32', 'F16', 'Q8_0'] as const) await exportCheckpoint(checkpoint, file(storage), { kind: 'gguf', storage });
  for (const type of ['F16', 'Q8_0', 'Q4_0'] as const) quantizeGguf(file('F32'), file(`llama-${type}`), type, availableParallelism());
  const continued = continuations(file('F32'), prompts, log);
  const perplexity = async (name: string, score: Score): Promise<number> => {
    let sum = 0;
    for (const window of windows) sum += negativeLogLikelihood(await score(window), window);
    const value = Math.exp(sum / (windows.length * (WINDOW_TOKENS - 1)));
    log(`perplexity ${name}: ${value.toFixed(3)}`);
    return value;
  };
  const onPrompts = async (score: Score): Promise<readonly Float32Array[]> => {
    const logits: Float32Array[] = [];
    for (const prompt of prompts) logits.push(await score(prompt));
    return logits;
  };
  const ours = await withForm(runtime, checkpoint, 'float32', WINDOW_TOKENS, async (score) => ({
    agreement: await agree(score, continued), perplexity: await perplexity('float32', score),
  }));
  const difference = async (name: string): Promise<number> => {
    const [written, theirs] = [await withLlama(file(name), onPrompts), await withLlama(file(`llama-${name}`), onPrompts)];
    return Math.max(...theirs.map((logits, i) => largestDifference(logits, written[i]!)));
  };
  const exports = { F16: await difference('F16'), Q8_0: await difference('Q8_0') };
  const int8 = await withForm(runtime, checkpoint, 'int8', WINDOW_TOKENS, (score) => perplexity('int8', score));
  const int4 = await withForm(runtime, checkpoint, 'int4', WINDOW_TOKENS, (score) => perplexity('int4', score));
  const theirs = async (name: string): Promise<number> => withLlama(file(name), (score) => perplexity(`llama.cpp ${name}`, score));
  const [llamaF32, llamaQ8, llamaQ4] = [await theirs('F32'), await theirs('llama-Q8_0'), await theirs('llama-Q4_0')];
  return {
    agreement: ours.result.agreement, exports,
    perplexity: {
      tokens: windows.length * (WINDOW_TOKENS - 1), float32: ours.result.perplexity, int8: int8.result, int4: int4.result, llamaF32, llamaQ8, llamaQ4,
      int8OverQ8: int8.result / llamaQ8, int4OverQ4: int4.result / llamaQ4,
      weightBytes: { float32: ours.weightBytes, int8: int8.weightBytes, int4: int4.weightBytes },
    },
  };
}

interface Continued {
  readonly tokens: readonly number[];
  /** Logits of llama.cpp at the last CONTINUATION_TOKENS places before a token was chosen. */
  readonly logits: readonly Float32Array[];
}

function continuations(path: string, prompts: readonly (readonly number[])[], log: (text: string) => void): readonly Continued[] {
  const model = open(path);
  try {
    return prompts.map((prompt, i) => {
      if (i % 5 === 0) log(`llama.cpp continues prompt ${i + 1} of ${prompts.length}`);
      model.clear();
      const tokens = [...prompt];
      const logits: Float32Array[] = [];
      for (let fed: readonly number[] = prompt; logits.length < CONTINUATION_TOKENS; fed = [tokens.at(-1)!]) {
        const row = model.decode(fed, 'last');
        logits.push(row);
        tokens.push(topTwo(row).token);
      }
      return { tokens, logits };
    });
  } finally {
    model.dispose();
  }
}

async function agree(score: Score, continued: readonly Continued[]): Promise<AgreementFigures> {
  let [tokens, same, clearPlaces, clearDisagreements, largest] = [0, 0, 0, 0, 0];
  for (const { tokens: text, logits: theirs } of continued) {
    const fed = text.slice(0, -1);
    const logits = await score(fed);
    const vocab = logits.length / fed.length;
    theirs.forEach((wanted, i) => {
      const place = fed.length - theirs.length + i;
      const row = logits.subarray(place * vocab, (place + 1) * vocab);
      const { token, margin } = topTwo(row);
      const agrees = token === text[place + 1];
      tokens++;
      if (agrees) same++;
      if (margin >= CLEAR_MARGIN) clearPlaces++;
      if (margin >= CLEAR_MARGIN && !agrees) clearDisagreements++;
      largest = Math.max(largest, largestDifference(row, wanted));
    });
  }
  return { tokens, agreement: same / tokens, clearPlaces, clearDisagreements, largestDifference: largest };
}
