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

  test.each([
    ['a list without end', '{% for i in range(1000000000000) %}x{% endfor %}', /stopped after 500 ms/],
    ['loops in loops', '{% for a in range(9000) %}{% for b in range(9000) %}{% if a == b %}x{% endif %}{% endfor %}{% endfor %}', /stopped after 500 ms/],
    ['a text that doubles', "{% set ns = namespace(s='0123456789') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}", /string length|characters/],
    ['a text of 40 million characters', "{% set ns = namespace(s='0123456789') %}{% for i in range(22) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}", /41943040 characters/],
    ['a macro that calls itself', '{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}', /call stack/],
    ['a list that grows while it is read', '{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l | length }}', /stopped|array length|memory/i],
  ])('a hostile template is stopped: %s', (_name, source, why) => {
    const render = (): string => compileChatTemplate(source, tokens).render([{ role: 'user', content: 'x' }]);
    expect(render).toThrow(expect.objectContaining({ reason: 'INVALID_FIELD', message: expect.stringMatching(why) }));
    expect(compileChatTemplate('{{ messages[0].content }}', tokens).render([{ role: 'user', content: 'x' }])).toBe('x');
  });

  test.each([
    ['nested without end', '{{ ' + '('.repeat(200_000) + ' }}'],
    ['conditions nested without end', '{% if true %}'.repeat(60_000)],
    ['longer than any', 'x'.repeat(2 ** 20 + 1)],
  ])('a template %s is not compiled', (_name, source) => {
    expect(() => compileChatTemplate(source, tokens)).toThrow(expect.objectContaining({ reason: 'MODEL_UNSUPPORTED' }));
  });

  test.each([
    ...["'' == false", 'none == false', "'1' == 1", "{'a': 1} != {'a': 1}", '[1] == [1, 2]', "'' == none"].map((text) => [`{{ 'yes' if ${text} else 'no' }}`, 'no']),
    ...['0 == false', '1 == true', "{'a': [1, 2.0]} == {'a': [1.0, 2]}", '[1] != [1, 2]', 'missing == also_missing'].map((text) => [`{{ 'yes' if ${text} else 'no' }}`, 'yes']),
    ["{% for i in range(4) %}{{ i }}{% if i == 1 %}a{% continue %}{% endif %}{% if i == 2 %}b{% break %}{% endif %};{% endfor %}", '0;1a2b'],
    ["{% for i in [1, 2] %}{% for j in [1, 2] %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", '11 21 '],
    ["[{{ missing | upper }}{{ missing | trim }}]", '[]'],
    ['a\r\nb', 'a\nb'],
  ])('%s means what it means in Python', (source, text) => {
    expect(compileChatTemplate(source, tokens).render([])).toBe(text);
  });

  test('a text and a mapping can not be added', () => {
    expect(() => compileChatTemplate("{{ 'x' + {'a': 1} }}", tokens).render([])).toThrow(expect.objectContaining({ reason: 'INVALID_FIELD' }));
  });

  test('tools, their calls and their answers reach the template; no tools are none', () => {
    const source =
      '{% if tools is none %}none{% else %}{{ tools | tojson }}{% endif %}{% for m in messages %}|{{ m.role }}{% for c in m.tool_calls or [] %} {{ c.id }} {{ c.function | tojson }}{% endfor %} {{ m.tool_call_id }} {{ m.name }}{% endfor %}';
    const template = compileChatTemplate(source, tokens);
    const messages: ChatMessage[] = [
      { role: 'assistant', content: '', toolCalls: [{ id: 'c1', name: 'f', arguments: { z: 1, a: 'b' } }] },
      { role: 'tool', content: '3', toolCallId: 'c1', name: 'f' },
    ];
    expect(template.render(messages, { tools: [{ name: 'f', description: 'd', parameters: { type: 'object' } }] })).toBe(
      '[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]' +
        '|assistant c1 {"name": "f", "arguments": {"z": 1, "a": "b"}}  |tool c1 f',
    );
    expect(template.render([{ role: 'user', content: 'x' }])).toBe('none|user  ');
  });

  test('strftime_now gives a date', () => {
    const text = compileChatTemplate("{{ strftime_now('%Y-%m-%d') }}", tokens).render([]);
    expect(text).toMatch(/^20\d\d-\d\d-\d\d$/);
  });

  test('tokens that a tokenizer lacks are empty', () => {
    expect(compileChatTemplate('[{{ bos_token }}|{{ eos_token }}]', {}).render([])).toBe('[|]');
  });
});
