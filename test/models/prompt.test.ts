import { beforeAll, describe, expect, test } from '@jest/globals';
import { LoricaError } from '../../src/common/errors.js';
import type { ChatTemplate } from '../../src/models/chat-template.js';
import { openCheckpoint } from '../../src/models/checkpoint.js';
import { chatPromptTokens, continuationTokens, fillTemplate, promptTokens, renderExample, truncateRendered, type RenderedExample } from '../../src/models/prompt.js';
import type { Tokenizer } from '../../src/models/tokenizer.js';

let tokenizer: Tokenizer;
let chatTemplate: ChatTemplate;

beforeAll(async () => {
  const checkpoint = await openCheckpoint('test/golden/tiny-llama');
  tokenizer = checkpoint.tokenizer;
  chatTemplate = checkpoint.chatTemplate!;
});

/** Text of the tokens that count, and of those that don't. */
function parts({ tokens, lossMask }: RenderedExample): { counted: string; rest: string } {
  return { counted: tokenizer.decode(tokens.filter((_, i) => lossMask[i])), rest: tokenizer.decode(tokens.filter((_, i) => !lossMask[i])) };
}

describe('rows become tokens and a loss mask', () => {
  test('completion: the completion and the end of sequence count', () => {
    const rendered = renderExample({ kind: 'completion', prompt: 'The fox', completion: ' jumps' }, tokenizer, undefined);
    expect(parts(rendered)).toEqual({ counted: ' jumps</s>', rest: 'The fox' });
    expect(rendered.tokens.at(-1)).toBe(tokenizer.eosTokenIds[0]);
  });

  test("loss 'all' counts everything but the first token", () => {
    const rendered = renderExample({ kind: 'completion', prompt: 'The fox', completion: ' jumps' }, tokenizer, undefined, { loss: 'all' });
    expect(rendered.lossMask).toEqual(rendered.tokens.map((_, i) => i > 0));
  });

  test('text: all of it and the end of sequence', () => {
    const rendered = renderExample({ kind: 'text', text: 'good' }, tokenizer, undefined);
    expect(tokenizer.decode(rendered.tokens)).toBe('good</s>');
    expect(rendered.lossMask.filter((counts) => !counts)).toHaveLength(1);
  });

  test('label: the template words the row, only the label counts, and no end of sequence follows', () => {
    const labelTemplate = { prompt: 'Review: {text}\nSentiment:', label: ' {label}' };
    const rendered = renderExample({ kind: 'label', text: 'a {label} of {text}', label: 'negative' }, tokenizer, undefined, { labelTemplate });
    expect(parts(rendered)).toEqual({ counted: ' negative', rest: 'Review: a {label} of {text}\nSentiment:' });
  });

  test('messages: every assistant turn counts up to its end token', () => {
    const messages = [
      { role: 'user', content: 'is it good' }, { role: 'assistant', content: 'yes' },
      { role: 'user', content: 'really' }, { role: 'assistant', content: 'no' },
    ];
    const rendered = renderExample({ kind: 'messages', messages }, tokenizer, chatTemplate);
    expect(tokenizer.decode(rendered.tokens)).toBe(chatTemplate.render(messages));
    expect(parts(rendered).counted).toBe('yes</s>no</s>');
  });

  test('messages without a template are refused', () => {
    const render = (): unknown => renderExample({ kind: 'messages', messages: [{ role: 'user', content: 'x' }] }, tokenizer, undefined);
    expect(render).toThrow(LoricaError);
    expect(render).toThrow('no chat template');
  });
});

describe('joins', () => {
  test('a continuation is what joint tokenization adds where the prompt stays as it is', () => {
    expect(continuationTokens('The quick', ' brown fox', tokenizer)).toEqual(promptTokens('The quick brown fox', tokenizer).slice(promptTokens('The quick', tokenizer).length));
  });

  test('where the join would change the prompt, the continuation is tokenized alone', () => {
    // Find a split inside one token: joint tokenization would swallow the border.
    const words = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.decode([id])).filter((word) => word.length === 2 && !word.startsWith('<'));
    const text = words.find((word) => tokenizer.encode(word).length === 1)!;
    const [before, after] = [text.slice(0, 1), text.slice(1)];
    expect(promptTokens(text, tokenizer).slice(0, promptTokens(before, tokenizer).length)).not.toEqual(promptTokens(before, tokenizer));
    expect(continuationTokens(before, after, tokenizer)).toEqual(tokenizer.encode(after));
  });

  test('a chat prompt ends where the answer begins', () => {
    const tokens = chatPromptTokens([{ role: 'user', content: 'is it good' }], tokenizer, chatTemplate);
    expect(tokenizer.decode(tokens)).toBe(chatTemplate.render([{ role: 'user', content: 'is it good' }], { addGenerationPrompt: true }));
  });

  test('placeholders are filled once; unknown ones stay', () => {
    expect(fillTemplate('{a}-{b}-{a}', { a: '{b}', constructor: 'x' })).toBe('{b}-{b}-{b}');
    expect(fillTemplate('{toString} {b}', { a: '1' })).toBe('{toString} {b}');
  });
});

describe('truncation keeps what counts', () => {
  const row = (length: number, from: number): RenderedExample => ({ tokens: Array.from({ length }, (_, i) => i), lossMask: Array.from({ length }, (_, i) => i >= from && i > 0) });

  test('the oldest prompt tokens go first, a leading begin-of-sequence token stays', () => {
    expect(truncateRendered(row(10, 7), 6).tokens).toEqual([4, 5, 6, 7, 8, 9]);
    expect(truncateRendered(row(10, 7), 6, 0).tokens).toEqual([0, 5, 6, 7, 8, 9]);
    expect(truncateRendered(row(10, 7), 10).tokens).toHaveLength(10);
  });

  test('a completion that is too long alone loses its tail, and is still predicted from one token', () => {
    const cut = truncateRendered(row(10, 3), 4);
    expect(cut.tokens).toEqual([2, 3, 4, 5]);
    expect(cut.lossMask).toEqual([false, true, true, true]);
    expect(truncateRendered(row(10, 1), 4).tokens).toEqual([0, 1, 2, 3]);
    expect(truncateRendered(row(10, 3), 4, 0).lossMask).toEqual([false, true, true, true]);
  });
});
