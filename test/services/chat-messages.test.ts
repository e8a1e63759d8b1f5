import { describe, expect, test } from '@jest/globals';
import { ChatMessages } from '../../src/gen/lorica/v1/types.js';
import { readConversation } from '../../src/services/chat-messages.js';
import { Fields } from '../../src/services/fields.js';

const read = (message: Parameters<typeof ChatMessages.fromPartial>[0]) => {
  const fields = new Fields();
  return { conversation: readConversation(ChatMessages.fromPartial(message), 'messages', fields), violations: fields.violations };
};

describe('a conversation', () => {
  test('keeps the order of keys in JSON texts, and leaves out what is not given', () => {
    const { conversation, violations } = read({
      messages: [
        { role: 'user', content: 'x' },
        { role: 'assistant', toolCalls: [{ id: 'c1', name: 'f', argumentsJson: '{"z": 1, "a": {"y": 2, "b": 3}}' }, { name: 'g' }] },
        { role: 'tool', content: '4', toolCallId: 'c1', name: 'f' },
      ],
      tools: [{ name: 'f', description: 'd', parametersJson: '{"type": "object", "properties": {}}' }],
    });
    expect(violations).toEqual([]);
    expect(conversation.turns[0]).toEqual({ role: 'user', content: 'x' });
    expect(JSON.stringify(conversation.turns[1]!.toolCalls)).toBe('[{"id":"c1","name":"f","arguments":{"z":1,"a":{"y":2,"b":3}}},{"name":"g","arguments":{}}]');
    expect(conversation.turns[2]).toEqual({ role: 'tool', content: '4', toolCallId: 'c1', name: 'f' });
    expect(conversation.tools).toEqual([{ name: 'f', description: 'd', parameters: { type: 'object', properties: {} } }]);
  });

  test('names every broken field', () => {
    const { violations } = read({
      messages: [{ content: 'x' }, { role: 'assistant', toolCalls: [{ name: '', argumentsJson: '[1]' }, { name: 'f', argumentsJson: '{' }] }],
      tools: [{ name: 'a b' }, { name: 'f', parametersJson: '3' }, { name: 'f' }],
    });
    expect(violations.map(({ field }) => field)).toEqual([
      'messages.messages[0].role',
      'messages.messages[1].tool_calls[0].name',
      'messages.messages[1].tool_calls[0].arguments_json',
      'messages.messages[1].tool_calls[1].arguments_json',
      'messages.tools[2]',
      'messages.tools[0].name',
      'messages.tools[1].parameters_json',
    ]);
    expect(read({}).violations.map(({ field }) => field)).toEqual(['messages.messages']);
  });
});
