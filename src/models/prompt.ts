/**
 * The one place where rows of data become token ids and a loss mask, so that tuning, evaluation and generation see the same
 * text. Rule for joins: a prompt is tokenized as serving tokenizes it (alone, with the tokenizer's special tokens); its
 * continuation is what joint tokenization adds, or is tokenized alone where the join would change the prompt's tokens.
 * This file must not read data sets or run models.
 */
import { LoricaError } from '../common/errors.js';
import type { ChatMessage, ChatTemplate, Tool } from './chat-template.js';
import type { Tokenizer } from './tokenizer.js';

/** A row of data; the shape of the data sets' `Example`. */
export type PromptExample =
  | { readonly kind: 'completion'; readonly prompt: string; readonly completion: string }
  | { readonly kind: 'messages'; readonly messages: readonly ChatMessage[] }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'label'; readonly text: string; readonly label: string }
  | { readonly kind: 'preference'; readonly prompt: string; readonly chosen: string; readonly rejected: string };

/** How `text`/`label` rows are worded; `{text}` and `{label}` stand for the row's fields. */
export interface LabelTemplate {
  readonly prompt: string;
  readonly label: string;
}

/** Tokens that count in the loss: what the model should answer, or everything. */
export type LossScope = 'completion' | 'all';

export interface RenderOptions {
  readonly labelTemplate?: LabelTemplate;
  readonly loss?: LossScope;
}

export interface RenderedExample {
  readonly tokens: readonly number[];
  /** Same length; true where the token, predicted from those before it, counts in the loss. The first token never counts. */
  readonly lossMask: readonly boolean[];
}

/** What a classification head reads of a row, where nothing else is said. */
export const DEFAULT_CLASSIFICATION_TEMPLATE = '{text}';

export const DEFAULT_LABEL_TEMPLATE: LabelTemplate = { prompt: '{text}\nLabel:', label: ' {label}' };

/** Fills `{name}` placeholders; the values are inserted as they are, never expanded again. Unknown placeholders stay. */
export function fillTemplate(template: string, values: Readonly<Record<string, string>>): string {
  return template.replace(/\{(\w+)\}/g, (whole, name: string) => (Object.hasOwn(values, name) ? values[name]! : whole));
}

/** Token ids of a raw prompt, as generation encodes it. */
export function promptTokens(text: string, tokenizer: Tokenizer): number[] {
  return tokenizer.encode(text, { addSpecialTokens: true });
}

/** Token ids that follow `prompt` when `continuation` is appended to it; `before` are the prompt's own, where they are known. */
export function continuationTokens(prompt: string, continuation: string, tokenizer: Tokenizer, before = promptTokens(prompt, tokenizer)): number[] {
  const whole = promptTokens(prompt + continuation, tokenizer);
  if (whole.length > before.length && before.every((id, i) => whole[i] === id)) return whole.slice(before.length);
  return tokenizer.encode(continuation);
}

/** The last `maxTokens` of a prompt; a leading begin-of-sequence token stays. */
export function lastTokens(prompt: readonly number[], maxTokens: number, bosTokenId: number | undefined): readonly number[] {
  const excess = prompt.length - maxTokens;
  if (excess <= 0) return prompt;
  const keep = bosTokenId !== undefined && prompt[0] === bosTokenId ? 1 : 0;
  return [...prompt.slice(0, keep), ...prompt.slice(keep + excess)];
}

/** Prompt and continuation of a label row, as evaluation scores it and tuning trains it. */
export function labelText(text: string, label: string, template: LabelTemplate = DEFAULT_LABEL_TEMPLATE): { prompt: string; continuation: string } {
  return { prompt: fillTemplate(template.prompt, { text }), continuation: fillTemplate(template.label, { label }) };
}

/** Chat messages as prompt tokens, ready for an answer. Throws FAILED_PRECONDITION / MODEL_UNSUPPORTED where the model has no chat template. */
export function chatPromptTokens(messages: readonly ChatMessage[], tokenizer: Tokenizer, chatTemplate: ChatTemplate | undefined, tools: readonly Tool[] = []): number[] {
  return tokenizer.encode(needTemplate(chatTemplate).render(messages, { addGenerationPrompt: true, tools }));
}

function needTemplate(chatTemplate: ChatTemplate | undefined): ChatTemplate {
  if (chatTemplate !== undefined) return chatTemplate;
  throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', 'this model has no chat template, so rows of messages have no defined text', {
    hint: 'Use prompt/completion rows, or a base model with a chat template.',
  });
}

/** Tokens and loss mask under construction; pieces are appended in order. */
class Pieces {
  readonly tokens: number[] = [];
  readonly lossMask: boolean[] = [];

  append(ids: readonly number[], counts: boolean): void {
    for (const id of ids) {
      this.lossMask.push(counts && this.tokens.length > 0);
      this.tokens.push(id);
    }
  }
  /** Counts up to and including the first id of `ends`; what follows is appended without counting. */
  appendAnswer(ids: readonly number[], ends: readonly number[], all: boolean): void {
    const end = ids.findIndex((id) => ends.includes(id));
    const length = end < 0 ? ids.length : end + 1;
    this.append(ids.slice(0, length), true);
    this.append(ids.slice(length), all);
  }
}

/**
 * Tokens and loss mask of one row.
 * completion: prompt + completion + end-of-sequence, counting completion and end. messages: the chat template, counting each
 * assistant turn up to its end token. text: the text + end-of-sequence, counting all. label: the label template, counting the
 * label and appending nothing: the answer is scored, never generated to its end. preference: the prompt with the chosen answer, as a
 * completion. `loss: 'all'` counts every token but the first.
 */
export function renderExample(example: PromptExample, tokenizer: Tokenizer, chatTemplate: ChatTemplate | undefined, options: RenderOptions = {}): RenderedExample {
  const pieces = new Pieces();
  const all = options.loss === 'all';
  const end = tokenizer.eosTokenIds.slice(0, 1);
  switch (example.kind) {
    case 'preference':
      return renderExample({ kind: 'completion', prompt: example.prompt, completion: example.chosen }, tokenizer, chatTemplate, options);
    case 'completion': {
      const before = promptTokens(example.prompt, tokenizer);
      pieces.append(before, all);
      pieces.append(continuationTokens(example.prompt, example.completion, tokenizer, before), true);
      pieces.append(end, true);
      break;
    }
    case 'text':
      pieces.append(promptTokens(example.text, tokenizer), true);
      pieces.append(end, true);
      break;
    case 'label': {
      const { prompt, continuation } = labelText(example.text, example.label, options.labelTemplate);
      const before = promptTokens(prompt, tokenizer);
      pieces.append(before, all);
      pieces.append(continuationTokens(prompt, continuation, tokenizer, before), true);
      break;
    }
    case 'messages':
      appendMessages(pieces, example.messages, tokenizer, needTemplate(chatTemplate), all);
      break;
  }
  return { tokens: pieces.tokens, lossMask: pieces.lossMask };
}

/**
 * Cuts the rendered conversation at the borders of assistant turns, which the template itself marks: rendering up to a turn
 * with a generation prompt, and through it. Where a template rewrites earlier turns, only turns with intact borders count.
 */
function appendMessages(pieces: Pieces, messages: readonly ChatMessage[], tokenizer: Tokenizer, template: ChatTemplate, all: boolean): void {
  const text = template.render(messages);
  let position = 0;
  messages.forEach((message, i) => {
    if (message.role !== 'assistant') return;
    const before = template.render(messages.slice(0, i), { addGenerationPrompt: true });
    const through = i + 1 === messages.length ? text : template.render(messages.slice(0, i + 1));
    if (before.length < position || !through.startsWith(before) || !text.startsWith(through)) return;
    pieces.append(tokenizer.encode(text.slice(position, before.length)), all);
    pieces.appendAnswer(tokenizer.encode(text.slice(before.length, through.length)), tokenizer.eosTokenIds, all);
    position = through.length;
  });
  pieces.append(tokenizer.encode(text.slice(position)), all);
}

/**
 * At most `maxTokens` of a row. The prompt loses its oldest tokens first (a leading begin-of-sequence token stays); if what
 * counts alone is too long, its tail goes.
 */
export function truncateRendered(rendered: RenderedExample, maxTokens: number, bosTokenId?: number): RenderedExample {
  const excess = rendered.tokens.length - maxTokens;
  if (excess <= 0) return rendered;
  const keepFirst = bosTokenId !== undefined && rendered.tokens[0] === bosTokenId ? 1 : 0;
  const firstCounted = rendered.lossMask.indexOf(true);
  // At least one token stays before the first that counts: it is predicted from something.
  const removable = Math.max(0, (firstCounted < 0 ? 0 : firstCounted - (keepFirst === 1 ? 0 : 1)) - keepFirst);
  const removed = Math.min(excess, removable);
  const cut = <T>(values: readonly T[]): T[] => [...values.slice(0, keepFirst), ...values.slice(keepFirst + removed)].slice(0, maxTokens);
  const lossMask = cut(rendered.lossMask);
  if (lossMask.length > 0) lossMask[0] = false;
  return { tokens: cut(rendered.tokens), lossMask };
}
