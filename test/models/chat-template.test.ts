import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compileChatTemplate, type ChatMessage } from '../../src/models/chat-template.js';
import { GOLDEN } from '../golden/smollm2.js';

interface Rendering { template: string; conversation: number; prompt: boolean; text?: string; error?: string }
interface GoldenChat { bos: string; eos: string; templates: Record<string, string>; conversations: ChatMessage[][]; renderings: Rendering[] }
const golden = JSON.parse(readFileSync(join(GOLDEN, 'smollm2', 'chat.json'), 'utf8')) as GoldenChat;
const tokens = { bosToken: golden.bos, eosToken: golden.eos };

describe('chat templates', () => {
  test.each(Object.keys(golden.templates))('%s renders as in transformers, refusals included', (name) => {
    const template = compileChatTemplate(golden.templates[name] as string, tokens);
    const rows = golden.renderings.filter((row) => row.template === name);
    expect(rows).toHaveLength(golden.conversations.length * 2);
    for (const row of rows) {
      const render = (): string => template.render(golden.conversations[row.conversation] as ChatMessage[], { addGenerationPrompt: row.prompt });
      if (row.error === undefined) expect(render()).toBe(row.text);
      else expect(render).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(row.error) }));
    }
  });

  test('at least one refusal was compared', () => {
    expect(golden.renderings.filter((row) => row.error !== undefined).length).toBeGreaterThan(2);
  });

  test('a template that is no Jinja is unsupported', () => {
    expect(() => compileChatTemplate('{% for m in %}', tokens)).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED' }));
  });

  test('a template that fails while rendering is a refusal, and sees nothing but role and content', () => {
    expect(() => compileChatTemplate('{{ nothing.at.all() }}', tokens).render([])).toThrow(expect.objectContaining({ reason: 'INVALID_FIELD' }));
    const message = { role: 'user', content: 'c', secret: 'hidden' };
    expect(compileChatTemplate('{% for m in messages %}{{ m.secret }}{{ m.content }}{% endfor %}', tokens).render([message])).toBe('c');
    expect(compileChatTemplate('{% if process is defined or globalThis is defined %}seen{% else %}hidden{% endif %}', tokens).render([])).toBe('hidden');
  });

  test('strftime_now gives a date', () => {
    const text = compileChatTemplate("{{ strftime_now('%Y-%m-%d') }}", tokens).render([]);
    expect(text).toMatch(/^20\d\d-\d\d-\d\d$/);
  });

  test('tokens that a tokenizer lacks are empty', () => {
    expect(compileChatTemplate('[{{ bos_token }}|{{ eos_token }}]', {}).render([])).toBe('[|]');
  });
});
