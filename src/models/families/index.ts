/** The families that Lorica knows. */
import type { Family, FamilyName } from '../family.js';
import { GEMMA2, GEMMA3 } from './gemma.js';
import { GPT2 } from './gpt2.js';
import { GRANITE } from './granite.js';
import { LLAMA, MISTRAL } from './llama.js';
import { OLMO2 } from './olmo2.js';
import { PHI3 } from './phi3.js';
import { QWEN2, QWEN3 } from './qwen.js';

export const FAMILIES: Readonly<Record<FamilyName, Family>> = {
  llama: LLAMA,
  mistral: MISTRAL,
  qwen2: QWEN2,
  qwen3: QWEN3,
  gpt2: GPT2,
  gemma2: GEMMA2,
  gemma3: GEMMA3,
  olmo2: OLMO2,
  granite: GRANITE,
  phi3: PHI3,
};

export function familyOf(config: { readonly family: FamilyName }): Family {
  return FAMILIES[config.family];
}
