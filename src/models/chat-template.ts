/**
 * Chat templates: the Jinja program that a checkpoint carries, rendered with the variables that Hugging Face's
 * `apply_chat_template` gives it. A template is data from a stranger: it runs in the interpreter of @huggingface/jinja, which
 * reaches nothing outside and brings `raise_exception` and `strftime_now`; whatever it throws becomes a LoricaError. Its source, its
 * time and its output are bounded, so that a hostile one costs half a second at most.
 */
import { createContext, Script } from 'node:vm';
import type { Template } from '@huggingface/jinja';
import { LoricaError } from '../common/errors.js';
import { parseTemplate } from './chat-template-jinja.js';

/** A value of JSON. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json;
}

/** A call of a tool that the assistant asks for. */
export interface ToolCall {
  readonly id?: string;
  readonly name: string;
  readonly arguments: JsonObject;
}

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  /** Calls that this turn of the assistant makes. */
  readonly toolCalls?: readonly ToolCall[];
  /** The call that this turn of the role `tool` answers, and the tool's name: some templates need the one, some the other. */
  readonly toolCallId?: string;
  readonly name?: string;
}

/** A function that the assistant may call. */
export interface Tool {
  readonly name: string;
  readonly description: string;
  /** JSON Schema of the arguments. */
  readonly parameters: JsonObject;
}

export interface RenderOptions {
  /** Ends the text where the assistant's next turn begins. Default false. */
  readonly addGenerationPrompt?: boolean;
  readonly tools?: readonly Tool[];
}

export interface ChatTemplate {
  /** The template's own text. */
  readonly source: string;
  /** Throws INVALID_FIELD when the template refuses the conversation. */
  render(messages: readonly ChatMessage[], options?: RenderOptions): string;
}

/** The longest template published is about 30,000 characters. */
const MAX_SOURCE_CHARACTERS = 1 << 20;
/** Far above any prompt that a context window takes. */
const MAX_OUTPUT_CHARACTERS = 1 << 24;
/** Rendering takes a millisecond or two; a loop without end is stopped after this. */
const TIME_LIMIT_MS = 500;

const scope: { work?: () => unknown } = {};
const context = createContext(scope);
const call = new Script('work()');

class Stopped extends Error {}

/** Runs `work`, stopped by V8 when it takes longer than the limit; loops in the interpreter's own functions are stopped too. */
function withinTimeLimit<T>(work: () => T): T {
  // Under a limit already: that one stops it.
  if (scope.work !== undefined) return work();
  scope.work = work;
  try {
    return call.runInContext(context, { timeout: TIME_LIMIT_MS }) as T;
  } catch (error) {
    const stopped = (error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT';
    throw stopped ? new Stopped(`it was stopped after ${TIME_LIMIT_MS} ms`, { cause: error }) : error;
  } finally {
    delete scope.work;
  }
}

/** A message under the names that templates know; what it doesn't have is undefined there. */
function messageVariable({ role, content, toolCalls, toolCallId, name }: ChatMessage): Record<string, unknown> {
  return {
    role,
    content,
    ...(toolCalls === undefined || toolCalls.length === 0 ? {} : { tool_calls: toolCalls.map(callVariable) }),
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(name === undefined ? {} : { name }),
  };
}

function callVariable({ id, name, arguments: values }: ToolCall): Record<string, unknown> {
  return { ...(id === undefined ? {} : { id }), type: 'function', function: { name, arguments: values } };
}

/** The schema of a function as transformers and OpenAI write it. */
function toolVariable({ name, description, parameters }: Tool): Record<string, unknown> {
  return { type: 'function', function: { name, description, parameters } };
}

/**
 * Runs `work`, which renders many times, under one limit for all: arming the limit costs more than a rendering. Undefined when it was
 * stopped; each rendering may then be tried under a limit of its own.
 */
export function underOneTimeLimit<T extends object>(work: () => T): T | undefined {
  try {
    return withinTimeLimit(work);
  } catch (error) {
    if (error instanceof Stopped) return undefined;
    throw error;
  }
}

/** Compiles a template. `tokens` are the texts of bos and eos, empty when the tokenizer has none. Throws MODEL_UNSUPPORTED when it can't be parsed. */
export function compileChatTemplate(
  source: string,
  tokens: { readonly bosToken?: string; readonly eosToken?: string },
): ChatTemplate {
  let template: Template;
  try {
    if (source.length > MAX_SOURCE_CHARACTERS) throw new Error(`it has ${source.length} characters, more than ${MAX_SOURCE_CHARACTERS}`);
    template = withinTimeLimit(() => parseTemplate(source));
  } catch (cause) {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the chat template can't be parsed: ${(cause as Error).message}`, { cause });
  }
  return {
    source,
    render(messages, options = {}) {
      try {
        const variables = {
          messages: messages.map(messageVariable),
          tools: options.tools === undefined || options.tools.length === 0 ? null : options.tools.map(toolVariable),
          documents: null,
          add_generation_prompt: options.addGenerationPrompt ?? false,
          bos_token: tokens.bosToken ?? '',
          eos_token: tokens.eosToken ?? '',
        };
        const text = withinTimeLimit(() => template.render(variables));
        if (text.length > MAX_OUTPUT_CHARACTERS) throw new Error(`it made ${text.length} characters, more than ${MAX_OUTPUT_CHARACTERS}`);
        return text;
      } catch (cause) {
        const why = (cause as Error).message;
        throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `the model's chat template refuses these messages: ${why}`, {
          cause,
          violations: [{ field: 'messages', description: why }],
        });
      }
    },
  };
}
