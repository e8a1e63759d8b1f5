import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChatMessage } from '../../src/models/chat-template.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import type { Tokenizer } from '../../src/models/tokenizer.js';
import { GOLDEN, openSmollm2 } from '../golden/smollm2.js';
import { pushAll } from './push-all.js';

type Case = { text: string; ids: number[] };
const json = (name: string): unknown => JSON.parse(readFileSync(join(GOLDEN, name), 'utf8'));

describe('the tokenizer of SmolLM2, from its GGUF file', () => {
  let checkpoint: Checkpoint;
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    checkpoint = await openSmollm2();
    tokenizer = checkpoint.tokenizer;
  });
  afterAll(() => checkpoint.close());
  const cases = json('smollm2/tokens.json') as Case[];

  test('200 texts give the ids of the reference tokenizer', () => {
    expect(cases).toHaveLength(200);
    expect(cases.map(({ text }) => tokenizer.encode(text))).toEqual(cases.map(({ ids }) => ids));
  });

  test('every text comes back, whole and token by token, never with half a character', () => {
    for (const { text, ids } of cases) {
      expect(tokenizer.decode(ids)).toBe(text);
      const parts = pushAll(tokenizer, ids);
      expect(parts.join('')).toBe(text);
      for (const part of parts) expect(part).not.toMatch(/[\p{Cs}\ufffd]/u);
    }
  });

  test('an emoji arrives with its last token', () => {
    const parts = pushAll(tokenizer, tokenizer.encode('🙂'));
    expect(parts.filter((part) => part !== '')).toEqual(['🙂']);
    expect(parts.at(-2)).toBe('🙂');
  });

  test('text that ends inside a character says so at the end only', () => {
    const cut = tokenizer.encode('ok🙂').slice(0, -1);
    expect(pushAll(tokenizer, cut).at(-1)).toBe('\ufffd');
    expect(tokenizer.decode(cut)).toBe('ok\ufffd');
  });

  test('special tokens written in the text are read only where that is wanted', () => {
    const text = 'a<|im_end|>b';
    expect(tokenizer.encode(text)).toContain(2);
    const plain = tokenizer.encode(text, { parseSpecial: false });
    expect(plain).not.toContain(2);
    expect(tokenizer.decode(plain)).toBe(text);
  });

  test('special tokens can be left out of the text', () => {
    const ids = tokenizer.encode('<|im_start|>user\nHi<|im_end|>\n');
    expect(tokenizer.decode(ids)).toBe('<|im_start|>user\nHi<|im_end|>\n');
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('user\nHi\n');
  });

  test('ids, names and the vocabulary agree with the file', () => {
    expect(tokenizer.vocabSize).toBe(49152);
    expect([tokenizer.bosTokenId, tokenizer.eosTokenIds]).toEqual([1, [2]]);
    expect([tokenizer.token(1), tokenizer.tokenId('<|im_end|>'), tokenizer.token(49152)]).toEqual(['<|im_start|>', 2, undefined]);
    expect(tokenizer.encode('Hi', { addSpecialTokens: true })).toEqual(tokenizer.encode('Hi'));
    expect(tokenizer.decode([49152, -1])).toBe('');
    expect(tokenizer.decode([])).toBe('');
  });

  test("the model's own chat template renders as in transformers", () => {
    const golden = json('smollm2/chat.json') as { conversations: ChatMessage[][]; renderings: { template: string; conversation: number; prompt: boolean; text: string }[] };
    const rows = golden.renderings.filter((row) => row.template === 'model');
    expect(rows).toHaveLength(16);
    for (const row of rows) {
      expect(checkpoint.chatTemplate?.render(golden.conversations[row.conversation] as ChatMessage[], { addGenerationPrompt: row.prompt })).toBe(row.text);
    }
  });
});
