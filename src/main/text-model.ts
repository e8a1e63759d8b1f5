/** A checkpoint's tokenizer and template as the port that the services use; the rules of joining texts are src/models/prompt.ts's. */
import type { Checkpoint } from '../models/checkpoint.js';
import { chatPromptTokens, continuationTokens, labelText, promptTokens } from '../models/prompt.js';
import type { TextModel } from '../services/index.js';

/** `maxContextTokens`: the server's limit; the model's own is applied too. */
export function textModel({ tokenizer, chatTemplate, config }: Checkpoint, maxContextTokens: number): TextModel {
  return {
    vocabSize: tokenizer.vocabSize,
    maxContextTokens: Math.min(maxContextTokens, config.maxPositionTokens),
    prompt: (text) => promptTokens(text, tokenizer),
    continuation: (prompt, continuation) => continuationTokens(prompt, continuation, tokenizer),
    chat: (turns, tools) => chatPromptTokens(turns, tokenizer, chatTemplate, tools),
    labelled: (text, label, template) => labelText(text, label, template),
    encode: (text, { addSpecialTokens }) => tokenizer.encode(text, { addSpecialTokens }),
    decode: (tokens, { skipSpecialTokens }) => tokenizer.decode(tokens, { skipSpecialTokens }),
  };
}
