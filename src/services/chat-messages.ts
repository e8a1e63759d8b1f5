/**
 * A conversation's message → the port's type, with every rule checked and named by its field path. JSON texts (arguments of calls,
 * parameters of tools) are parsed here; the order of their keys is kept, because the template writes them into the prompt.
 */
import type { ChatMessages } from '../gen/lorica/v1/types.js';
import type { Fields } from './fields.js';
import type { ChatTool, ChatTurn, JsonObject } from './ports.js';

export const MAX_TEXT_CHARACTERS = 262_144;
const MAX_CALLS = 64;
const MAX_TOOLS = 128;
const TOOL_NAME = /^[\w.-]{1,128}$/;

export interface Conversation {
  readonly turns: readonly ChatTurn[];
  readonly tools: readonly ChatTool[];
}

/** At most 262,144 characters. */
export function checkText(field: string, text: string, fields: Fields): void {
  fields.check(field, text.length <= MAX_TEXT_CHARACTERS, `must be at most ${MAX_TEXT_CHARACTERS} characters, not ${text.length}`);
}

/** Broken rules go to `fields`; the result is then not to be used. */
export function readConversation(message: ChatMessages, field: string, fields: Fields): Conversation {
  fields.check(`${field}.messages`, message.messages.length > 0, 'must hold at least one message');
  const turns = message.messages.map(({ role, content, toolCalls, toolCallId, name }, i): ChatTurn => {
    const at = `${field}.messages[${i}]`;
    fields.check(`${at}.role`, role !== '', 'is required');
    checkText(`${at}.content`, content, fields);
    fields.check(`${at}.tool_calls`, toolCalls.length <= MAX_CALLS, `must be at most ${MAX_CALLS}, not ${toolCalls.length}`);
    const calls = toolCalls.map((call, j) => {
      fields.check(`${at}.tool_calls[${j}].id`, call.id.length <= 256, 'must be at most 256 characters');
      fields.check(`${at}.tool_calls[${j}].name`, call.name !== '', 'is required');
      const values = jsonObject(call.argumentsJson, `${at}.tool_calls[${j}].arguments_json`, fields);
      return { ...(call.id === '' ? {} : { id: call.id }), name: call.name, arguments: values };
    });
    return {
      role,
      content,
      ...(calls.length === 0 ? {} : { toolCalls: calls }),
      ...(toolCallId === '' ? {} : { toolCallId }),
      ...(name === '' ? {} : { name }),
    };
  });
  fields.check(`${field}.tools`, message.tools.length <= MAX_TOOLS, `must be at most ${MAX_TOOLS}, not ${message.tools.length}`);
  fields.distinct(`${field}.tools`, message.tools.map(({ name }) => name));
  const tools = message.tools.map(({ name, description, parametersJson }, i): ChatTool => {
    const at = `${field}.tools[${i}]`;
    fields.check(`${at}.name`, TOOL_NAME.test(name), 'must be letters, digits, underscores, dots and hyphens, 1 to 128');
    checkText(`${at}.description`, description, fields);
    return { name, description, parameters: jsonObject(parametersJson, `${at}.parameters_json`, fields) };
  });
  return { turns, tools };
}

function jsonObject(text: string, field: string, fields: Fields): JsonObject {
  checkText(field, text, fields);
  if (text === '') return {};
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
    fields.add(field, 'must be a JSON object');
  } catch (error) {
    fields.add(field, `must be a JSON object: ${(error as Error).message}`);
  }
  return {};
}
