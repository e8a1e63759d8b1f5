/**
 * JSON ↔ the plain objects that proto-loader takes and gives: field names in snake_case or camelCase, timestamps as text, field masks
 * as "a,b", bytes as base64. Unlike proto-loader it refuses what it does not know, with the path of each mistake.
 */
import type { PackageDefinition } from '@grpc/proto-loader';
import { invalidFields, type FieldViolation } from '../common/errors.js';

/** The parts of a descriptor that are needed, as proto-loader gives them. */
export interface MessageType {
  readonly name: string;
  readonly field: readonly { readonly name: string; readonly label: string; readonly type: string; readonly typeName: string }[];
  readonly nestedType: readonly MessageType[];
}

const INTEGERS = ['TYPE_INT32', 'TYPE_UINT32', 'TYPE_SINT32', 'TYPE_INT64', 'TYPE_UINT64', 'TYPE_SINT64', 'TYPE_FIXED32', 'TYPE_FIXED64'];
const PACKAGE = 'lorica.v1';

type Field = MessageType['field'][number];

const camel = (name: string): string => name.replace(/_([a-z0-9])/g, (_all, letter: string) => letter.toUpperCase());

export class JsonMessages {
  constructor(private readonly definitions: PackageDefinition) {}

  /** INVALID_ARGUMENT / INVALID_FIELD that lists every unknown field and wrong value. */
  fromJson(json: unknown, type: MessageType): Record<string, unknown> {
    const violations: FieldViolation[] = [];
    const message = this.message(json, type, '', violations);
    if (violations.length > 0) throw invalidFields(violations);
    return message;
  }

  /** Field names in camelCase; what is not set is left out. */
  toJson(message: unknown, type: MessageType): unknown {
    if (type.name === 'Timestamp') {
      const { seconds = 0, nanos = 0 } = message as { seconds?: number; nanos?: number };
      return new Date(seconds * 1000 + nanos / 1e6).toISOString();
    }
    if (type.name === 'FieldMask') return ((message as { paths?: string[] }).paths ?? []).join(',');
    const out: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(message as Record<string, unknown>)) {
      const field = type.field.find(({ name }) => name === key);
      if (field === undefined || value === null || value === undefined) continue;
      const inner = this.typeOf(field, type);
      const one = (element: unknown): unknown => (inner === undefined || element === null ? element : this.toJson(element, inner));
      if (isMap(field, type)) out[camel(key)] = value;
      else out[camel(key)] = Array.isArray(value) ? value.map(one) : one(value);
    }
    return out;
  }

  private message(json: unknown, type: MessageType, path: string, violations: FieldViolation[]): Record<string, unknown> {
    if (type.name === 'FieldMask' && typeof json === 'string') return { paths: json.split(',').filter((part) => part !== '') };
    if (type.name === 'Timestamp' && typeof json === 'string' && !Number.isNaN(Date.parse(json))) {
      const ms = Date.parse(json);
      return { seconds: Math.floor(ms / 1000), nanos: (((ms % 1000) + 1000) % 1000) * 1e6 };
    }
    const out: Record<string, unknown> = {};
    if (json === null || typeof json !== 'object' || Array.isArray(json)) {
      violations.push({ field: path === '' ? 'request' : path, description: 'must be a JSON object' });
      return out;
    }
    for (const [key, value] of Object.entries(json)) {
      const field = type.field.find(({ name }) => name === key || camel(name) === key);
      const at = path === '' ? key : `${path}.${key}`;
      if (field === undefined)
        violations.push({
          field: at,
          description: `unknown field; ${type.name} has: ${type.field.map(({ name }) => camel(name)).join(', ') || 'none'}`,
        });
      else if (value !== null) out[field.name] = this.fieldValue(value, field, type, at, violations);
    }
    return out;
  }

  private fieldValue(value: unknown, field: Field, type: MessageType, path: string, violations: FieldViolation[]): unknown {
    if (isMap(field, type)) {
      if (typeof value !== 'object' || Array.isArray(value)) violations.push({ field: path, description: 'must be a JSON object' });
      return value;
    }
    if (field.label !== 'LABEL_REPEATED') return this.single(value, field, type, path, violations);
    if (Array.isArray(value)) return value.map((element: unknown, i) => this.single(element, field, type, `${path}[${i}]`, violations));
    violations.push({ field: path, description: 'must be a list' });
    return [];
  }

  private single(value: unknown, field: Field, type: MessageType, path: string, violations: FieldViolation[]): unknown {
    const wrong = (description: string): unknown => {
      violations.push({ field: path, description });
      return undefined;
    };
    switch (field.type) {
      case 'TYPE_MESSAGE': {
        const inner = this.typeOf(field, type);
        return inner === undefined ? wrong('is of a type that is not known here') : this.message(value, inner, path, violations);
      }
      case 'TYPE_ENUM': {
        const names = this.enumNames(field.typeName);
        const full = names.find((name) => name === value || name.endsWith(`_${String(value)}`));
        return full ?? wrong(`must be one of ${names.join(', ')}, not ${JSON.stringify(value)}`);
      }
      case 'TYPE_BOOL':
        return typeof value === 'boolean' ? value : wrong('must be true or false');
      case 'TYPE_STRING':
        return typeof value === 'string' ? value : wrong('must be a text');
      case 'TYPE_BYTES':
        return typeof value === 'string' && /^[A-Za-z0-9+/\-_]*={0,2}$/.test(value)
          ? Buffer.from(value, 'base64')
          : wrong('must be base64');
    }
    const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
    if (typeof number !== 'number' || Number.isNaN(number)) return wrong('must be a number');
    const wide = field.type.endsWith('64');
    const fits = wide ? Number.isSafeInteger(number) : Number.isInteger(number) && Math.abs(number) <= 0x7fff_ffff;
    return INTEGERS.includes(field.type) && !fits ? wrong(`must be a whole number of at most ${wide ? '2^53 - 1' : '2^31 - 1'}`) : number;
  }

  private typeOf(field: Field, parent: MessageType): MessageType | undefined {
    if (field.type !== 'TYPE_MESSAGE') return undefined;
    return parent.nestedType.find(({ name }) => name === field.typeName) ?? (this.find(field.typeName) as MessageType | undefined);
  }

  private enumNames(typeName: string): string[] {
    return ((this.find(typeName) as { value?: { name: string }[] } | undefined)?.value ?? []).map(({ name }) => name);
  }

  private find(typeName: string): unknown {
    const name = typeName.replace(/^\./, '');
    const definition = this.definitions[`${PACKAGE}.${name}`] ?? this.definitions[name];
    return definition !== undefined && 'type' in definition ? definition.type : undefined;
  }
}

function isMap(field: Field, type: MessageType): boolean {
  const entry = type.nestedType.find(({ name }) => name === field.typeName);
  return (
    field.label === 'LABEL_REPEATED' &&
    entry !== undefined &&
    entry.field.length === 2 &&
    entry.field[0]?.name === 'key' &&
    entry.field[1]?.name === 'value'
  );
}
