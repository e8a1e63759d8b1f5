/**
 * One row of a dataset: JSON to an Example, or everything that is wrong with it.
 * The kinds, by their fields: prompt + completion, messages, text + label, text,
 * prompt + chosen + rejected. Other fields are errors: a misspelt one must not pass unseen.
 */
import type { DatasetMessage, Example, ExampleKind } from './dataset.js';
import type { FindingCode } from './finding-codes.js';

export interface RowError {
  readonly code: FindingCode;
  /** JSON path, e.g. $.messages[0].content. */
  readonly path: string;
  readonly message: string;
}

export type ParsedRow = { readonly example: Example } | { readonly errors: readonly RowError[] };

const FIELDS: Readonly<Record<ExampleKind, readonly string[]>> = {
  completion: ['prompt', 'completion'],
  messages: ['messages'],
  label: ['text', 'label'],
  text: ['text'],
  preference: ['prompt', 'chosen', 'rejected'],
};
const KINDS_TEXT = 'prompt and completion, messages, text, text and label, or prompt, chosen and rejected';
const MAX_MESSAGES = 1_000;
const MAX_ROLE_CHARACTERS = 64;

/** Parses one line of JSON text. */
export function parseRow(text: string): ParsedRow {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { errors: [{ code: 'INVALID_JSON', path: '$', message: `not valid JSON: ${jsonProblem(error)}` }] };
  }
  if (!isObject(value)) return { errors: [{ code: 'NOT_AN_OBJECT', path: '$', message: `a row is a JSON object, this is ${typeName(value)}` }] };
  const kind = kindOf(value);
  if (kind === undefined) {
    const names = Object.keys(value).slice(0, 8).map(shown);
    return {
      errors: [
        { code: 'UNKNOWN_KIND', path: '$', message: `has ${names.length === 0 ? 'no fields' : `the fields ${names.join(', ')}`}: a row has ${KINDS_TEXT}` },
      ],
    };
  }
  return check(value, kind);
}

/** JSON.parse's own words, without the piece of data that newer engines quote. */
function jsonProblem(error: unknown): string {
  return (error as Error).message.replace(/,? *(\.\.\.)?".*$/s, '').replace(/^Unexpected token .*? in JSON/s, 'unexpected character');
}

function kindOf(row: Record<string, unknown>): ExampleKind | undefined {
  if ('chosen' in row || 'rejected' in row) return 'preference';
  if ('prompt' in row || 'completion' in row) return 'completion';
  if ('messages' in row) return 'messages';
  if ('label' in row) return 'label';
  return 'text' in row ? 'text' : undefined;
}

function check(row: Record<string, unknown>, kind: ExampleKind): ParsedRow {
  const errors: RowError[] = [];
  for (const name of Object.keys(row)) {
    if (!FIELDS[kind].includes(name))
      errors.push({ code: 'UNKNOWN_FIELD', path: member('$', name), message: `unknown field in a row with ${FIELDS[kind].join(' and ')}` });
  }
  const string = (name: string): string => requireString(row[name], `$.${name}`, errors);
  const example: Example =
    kind === 'completion'
      ? { kind, prompt: string('prompt'), completion: string('completion') }
      : kind === 'messages'
        ? { kind, messages: messages(row['messages'], errors) }
        : kind === 'label'
          ? { kind, text: string('text'), label: string('label') }
          : kind === 'preference'
            ? { kind, prompt: string('prompt'), chosen: string('chosen'), rejected: string('rejected') }
            : { kind, text: string('text') };
  if (example.kind === 'preference' && errors.length === 0 && example.chosen === example.rejected)
    errors.push({ code: 'EQUAL_ANSWERS', path: '$.rejected', message: 'is the chosen answer: nothing is preferred' });
  return errors.length > 0 ? { errors } : { example };
}

function messages(value: unknown, errors: RowError[]): DatasetMessage[] {
  if (!Array.isArray(value)) {
    errors.push({ code: 'WRONG_TYPE', path: '$.messages', message: `must be a list, this is ${typeName(value)}` });
    return [];
  }
  if (value.length === 0) errors.push({ code: 'EMPTY_VALUE', path: '$.messages', message: 'must not be empty' });
  if (value.length > MAX_MESSAGES) {
    errors.push({ code: 'VALUE_TOO_LARGE', path: '$.messages', message: `has ${value.length} messages, at most ${MAX_MESSAGES} are taken` });
    return [];
  }
  return value.map((entry: unknown, index) => {
    const path = `$.messages[${index}]`;
    if (!isObject(entry)) {
      errors.push({ code: 'WRONG_TYPE', path, message: `must be an object, this is ${typeName(entry)}` });
      return { role: '', content: '' };
    }
    for (const name of Object.keys(entry)) {
      if (name !== 'role' && name !== 'content')
        errors.push({ code: 'UNKNOWN_FIELD', path: member(path, name), message: 'unknown field in a message with role and content' });
    }
    const role = requireString(entry['role'], `${path}.role`, errors);
    if (role.length > MAX_ROLE_CHARACTERS)
      errors.push({ code: 'VALUE_TOO_LARGE', path: `${path}.role`, message: `is longer than ${MAX_ROLE_CHARACTERS} characters` });
    return { role, content: requireString(entry['content'], `${path}.content`, errors) };
  });
}

function requireString(value: unknown, path: string, errors: RowError[]): string {
  if (value === undefined) errors.push({ code: 'MISSING_FIELD', path, message: 'is missing' });
  else if (typeof value !== 'string') errors.push({ code: 'WRONG_TYPE', path, message: `must be a string, this is ${typeName(value)}` });
  else if (value === '') errors.push({ code: 'EMPTY_VALUE', path, message: 'must not be empty' });
  else if (/\p{Surrogate}/u.test(value))
    errors.push({ code: 'LONE_SURROGATE', path, message: 'holds half of a surrogate pair (an escape such as \\ud800 on its own)' });
  else return value;
  return '';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

/** A field name in an error, cut to what a name can reasonably be. */
function shown(name: string): string {
  return name.length > 40 ? `${name.slice(0, 40)}…` : name;
}

function member(path: string, name: string): string {
  return /^[A-Za-z_]\w{0,39}$/.test(name) ? `${path}.${name}` : `${path}[${JSON.stringify(shown(name))}]`;
}

/** All text of a row, for its length and its identity. */
export function textOf(example: Example): readonly string[] {
  switch (example.kind) {
    case 'completion':
      return [example.prompt, example.completion];
    case 'messages':
      return example.messages.flatMap((message) => [message.role, message.content]);
    case 'label':
      return [example.text, example.label];
    case 'text':
      return [example.text];
    case 'preference':
      return [example.prompt, example.chosen, example.rejected];
  }
}
