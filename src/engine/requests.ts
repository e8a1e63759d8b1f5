/** What a generation request may ask, and its settings with defaults applied. */
import { invalidFields, LoricaError, type FieldViolation } from '../common/errors.js';
import type { SamplerSettings } from './sampler.js';
import type { GenerateRequest, Sampling } from './types.js';

const MAX_STOP_STRINGS = 16;
const MAX_STOP_CHARACTERS = 256;

/** INVALID_ARGUMENT with every problem; CONTEXT_LENGTH_EXCEEDED when not even one token fits after the prompt. */
export function checkRequest({ promptTokens, sampling }: GenerateRequest, vocabSize: number, contextTokens: number): void {
  const found: FieldViolation[] = [];
  const need = (right: boolean, field: string, description: string): void => {
    if (!right) found.push({ field, description });
  };
  const { maxTokens, temperature = 0, topP = 1, topK = 0, seed = 0, stop = [] } = sampling;
  need(promptTokens.length > 0, 'prompt', 'has no tokens');
  const unknown = promptTokens.find((id) => !Number.isSafeInteger(id) || id < 0 || id >= vocabSize);
  need(unknown === undefined, 'prompt', `${unknown ?? ''} is not a token of this model (0 to ${vocabSize - 1})`);
  need(Number.isSafeInteger(maxTokens) && maxTokens >= 1, 'sampling.max_tokens', 'must be at least 1');
  need(Number.isFinite(temperature) && temperature >= 0 && temperature <= 100, 'sampling.temperature', 'must be from 0 to 100');
  need(topP > 0 && topP <= 1, 'sampling.top_p', 'must be above 0 and at most 1');
  need(Number.isSafeInteger(topK) && topK >= 0, 'sampling.top_k', 'must be 0 (off) or more');
  need(typeof seed === 'bigint' || Number.isSafeInteger(seed), 'sampling.seed', 'must be an integer');
  need(stop.length <= MAX_STOP_STRINGS, 'sampling.stop', `has more than ${MAX_STOP_STRINGS} strings`);
  need(stop.every((text) => text.length > 0 && text.length <= MAX_STOP_CHARACTERS), 'sampling.stop', `strings must have 1 to ${MAX_STOP_CHARACTERS} characters`);
  if (found.length > 0) throw invalidFields(found);
  if (promptTokens.length >= contextTokens) {
    throw new LoricaError('INVALID_ARGUMENT', 'CONTEXT_LENGTH_EXCEEDED', `the prompt has ${promptTokens.length} tokens; the model takes ${contextTokens} with the answer`, {
      hint: 'Shorten the prompt, or serve with a larger maximum context.',
      metadata: { promptTokens: String(promptTokens.length), contextTokens: String(contextTokens) },
    });
  }
}

/** `randomSeed` is asked only where the request has no seed. */
export function samplerSettings({ temperature = 0, topP = 1, topK = 0, seed }: Sampling, randomSeed: () => bigint): SamplerSettings {
  return { temperature, topP, topK, seed: BigInt.asUintN(64, seed === undefined ? randomSeed() : BigInt(seed)) };
}
