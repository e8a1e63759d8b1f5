/**
 * The keys file: JSON `[{ "tenant": "acme", "keySha256": "<64 hex digits>", "roles": ["tenant"] }]`, for deployments that keep keys in a mounted
 * secret. It holds hashes only. All of its mistakes are reported at once; a file with any is refused whole.
 */
import { readFile } from 'node:fs/promises';
import { type FieldViolation, LoricaError } from '../common/errors.js';
import { isResourceId } from '../storage/index.js';
import type { Role } from './tenant.js';

export interface FileKey {
  readonly tenant: string;
  readonly keySha256: string;
  readonly roles: readonly Role[];
}

const FIELDS = ['tenant', 'keySha256', 'roles'];

export function isRole(value: unknown): value is Role {
  return value === 'tenant' || value === 'operator';
}

export async function readKeysFile(path: string): Promise<readonly FileKey[]> {
  let entries: unknown;
  try {
    entries = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    const why =
      error instanceof SyntaxError ? 'is not valid JSON' : `cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`;
    throw new LoricaError('FAILED_PRECONDITION', 'INVALID_FIELD', `the keys file ${path} ${why}`, {
      hint: 'It is a JSON list of {"tenant", "keySha256", "roles"}.',
    });
  }
  const violations: FieldViolation[] = [];
  const bad = (field: string, description: string): void => void violations.push({ field, description });
  const keys = Array.isArray(entries) ? entries.map((entry: unknown, index) => parse(entry, `[${index}]`, bad)) : [];
  if (!Array.isArray(entries)) bad('$', 'must be a list');
  else if (new Set(keys.map((key) => key.keySha256)).size < keys.length) bad('keySha256', 'two entries have the same key');
  if (violations.length > 0) {
    const text = violations.map(({ field, description }) => `${field}: ${description}`).join('; ');
    throw new LoricaError('FAILED_PRECONDITION', 'INVALID_FIELD', `the keys file ${path} is wrong: ${text}`, { violations });
  }
  return keys;
}

function parse(entry: unknown, at: string, bad: (field: string, description: string) => void): FileKey {
  const value = (typeof entry === 'object' && entry !== null ? entry : {}) as Record<string, unknown>;
  const { tenant, keySha256, roles = ['tenant'] } = value;
  for (const name of Object.keys(value)) if (!FIELDS.includes(name)) bad(`${at}.${name}`, 'unknown field');
  if (typeof tenant !== 'string' || !isResourceId(tenant)) bad(`${at}.tenant`, 'must be a tenant id');
  if (typeof keySha256 !== 'string' || !/^[0-9a-f]{64}$/i.test(keySha256))
    bad(`${at}.keySha256`, 'must be the 64 hex digits of the sha256 of the key');
  if (!Array.isArray(roles) || roles.length === 0 || !roles.every(isRole)) bad(`${at}.roles`, 'must be a list of "tenant" and "operator"');
  return { tenant: String(tenant), keySha256: String(keySha256).toLowerCase(), roles: Array.isArray(roles) ? roles.filter(isRole) : [] };
}
