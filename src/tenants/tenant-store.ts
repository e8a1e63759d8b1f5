/**
 * Tenants and their API keys. A key is `lrc_` and 256 random bits; it is shown once and kept only as its sha256 (no salt or slow hash is needed for
 * a secret that cannot be guessed).
 * Invariant: no answer, error or timing tells how much of a wrong key was right.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { invalidFields, LoricaError } from '../common/errors.js';
import {
  isUniqueViolation,
  notFound,
  listNewest,
  requireResourceId,
  type Database,
  type Page,
  type PageRequest,
} from '../storage/index.js';
import { type FileKey, isRole, readKeysFile } from './keys-file.js';
import type { ApiKey, Identity, Role, Tenant } from './tenant.js';

const PREFIX = 'lrc_';
const MAX_KEY_CHARACTERS = 512;

interface TenantRow {
  id: string;
  ordinal: number;
  display_name: string;
  create_time: Date;
}

interface KeyRow {
  id: string;
  ordinal: number;
  tenant: string;
  key_sha256: string;
  roles: string;
  create_time: Date;
  revoke_time: Date | null;
}

const KEY_COLUMNS = 'id, ordinal, tenant, key_sha256, roles, create_time, revoke_time';

export function keySha256(key: string): string {
  return createHash('sha256').update(key, 'utf8').digest('hex');
}

/** A new secret: `lrc_` and 43 base64url characters. */
export function newApiKey(): string {
  return PREFIX + randomBytes(32).toString('base64url');
}

/** Who a caller is on a loopback address without keys: everything, for one tenant. */
export function developmentIdentity(tenant = 'default'): Identity {
  return { tenant, roles: ['tenant', 'operator'] };
}

export class TenantStore {
  private constructor(
    private readonly database: Database,
    private readonly fileKeys: readonly FileKey[],
  ) {}

  /** With a keys file, its tenants exist and its keys are good beside those of the database. */
  static async open(database: Database, options: { readonly keysFile?: string } = {}): Promise<TenantStore> {
    const fileKeys = options.keysFile === undefined ? [] : await readKeysFile(options.keysFile);
    const store = new TenantStore(database, fileKeys);
    for (const tenant of new Set(fileKeys.map((key) => key.tenant))) await store.ensureTenant(tenant);
    return store;
  }

  /** The identity a key proves; null for anything else. */
  async authenticate(key: string): Promise<Identity | null> {
    if (key.length > MAX_KEY_CHARACTERS) return null;
    const sha256 = keySha256(key);
    const digest = Buffer.from(sha256, 'hex');
    let found: Identity | null = null;
    for (const candidate of this.fileKeys) {
      if (timingSafeEqual(digest, Buffer.from(candidate.keySha256, 'hex'))) {
        found = { tenant: candidate.tenant, roles: candidate.roles, keyId: `file-${candidate.keySha256.slice(0, 8)}` };
      }
    }
    // The index is searched by hash: its timing tells about the hash of a guess, which says nothing about a key.
    const [row] = await this.database.query<KeyRow>(`SELECT ${KEY_COLUMNS} FROM api_keys WHERE key_sha256 = $1 AND revoke_time IS NULL`, [
      sha256,
    ]);
    if (row !== undefined && timingSafeEqual(digest, Buffer.from(row.key_sha256, 'hex')))
      found = { tenant: row.tenant, roles: parseRoles(row.roles), keyId: row.id };
    return found;
  }

  /** Whether any key is good; without one only a loopback address may be served. */
  async hasKeys(): Promise<boolean> {
    if (this.fileKeys.length > 0) return true;
    return (await this.database.query('SELECT 1 FROM api_keys WHERE revoke_time IS NULL LIMIT 1')).length > 0;
  }

  async createTenant(input: { readonly id: string; readonly displayName?: string }): Promise<Tenant> {
    requireResourceId('tenant_id', input.id);
    try {
      await this.database.query('INSERT INTO tenants (id, display_name) VALUES ($1, $2)', [input.id, input.displayName ?? '']);
    } catch (error) {
      if (isUniqueViolation(error)) throw new LoricaError('ALREADY_EXISTS', 'ALREADY_EXISTS', `tenants/${input.id} exists already`);
      throw error;
    }
    return this.getTenant(input.id);
  }

  /** Makes sure that a tenant exists. */
  async ensureTenant(id: string): Promise<Tenant> {
    requireResourceId('tenant_id', id);
    await this.database.query(`INSERT INTO tenants (id, display_name) VALUES ($1, '') ON CONFLICT DO NOTHING`, [id]);
    return this.getTenant(id);
  }

  async getTenant(id: string): Promise<Tenant> {
    const [row] = await this.database.query<TenantRow>('SELECT id, ordinal, display_name, create_time FROM tenants WHERE id = $1', [id]);
    if (row === undefined) throw notFound('TENANT_NOT_FOUND', `tenants/${id}`);
    return toTenant(row);
  }

  /** Newest first. */
  async listTenants(request: PageRequest): Promise<Page<Tenant>> {
    return listNewest(this.database, { table: 'tenants', columns: 'id, ordinal, display_name, create_time', where: {} }, request, toTenant);
  }

  /** A new key; `secret` is not kept and cannot be shown again. */
  async createApiKey(input: {
    readonly tenant: string;
    readonly roles: readonly Role[];
  }): Promise<{ readonly apiKey: ApiKey; readonly secret: string }> {
    if (input.roles.length === 0 || !input.roles.every(isRole))
      throw invalidFields([{ field: 'roles', description: 'must hold "tenant", "operator" or both' }]);
    await this.getTenant(input.tenant);
    const secret = newApiKey();
    const id = `key-${randomBytes(8).toString('hex')}`;
    const [row] = await this.database.query<KeyRow>(
      `INSERT INTO api_keys (id, tenant, key_sha256, roles) VALUES ($1, $2, $3, $4) RETURNING ${KEY_COLUMNS}`,
      [id, input.tenant, keySha256(secret), [...new Set(input.roles)].join(',')],
    );
    return { apiKey: toApiKey(row as KeyRow), secret };
  }

  /** Newest first, revoked ones too. */
  async listApiKeys(request: PageRequest & { readonly tenant: string }): Promise<Page<ApiKey>> {
    return listNewest(this.database, { table: 'api_keys', columns: KEY_COLUMNS, where: { tenant: request.tenant } }, request, toApiKey);
  }

  /** From now on the key proves nothing. Revoking twice changes nothing. */
  async revokeApiKey(tenant: string, keyId: string): Promise<ApiKey> {
    const [row] = await this.database.query<KeyRow>(
      `UPDATE api_keys SET revoke_time = coalesce(revoke_time, now()) WHERE tenant = $1 AND id = $2 RETURNING ${KEY_COLUMNS}`,
      [tenant, keyId],
    );
    if (row === undefined) throw notFound('API_KEY_NOT_FOUND', `tenants/${tenant}/apiKeys/${keyId}`);
    return toApiKey(row);
  }
}

function parseRoles(text: string): readonly Role[] {
  return text.split(',').filter(isRole);
}

function toTenant(row: TenantRow): Tenant {
  return { name: `tenants/${row.id}`, id: row.id, displayName: row.display_name, createTime: row.create_time };
}

function toApiKey(row: KeyRow): ApiKey {
  return {
    name: `tenants/${row.tenant}/apiKeys/${row.id}`,
    tenant: row.tenant,
    id: row.id,
    roles: parseRoles(row.roles),
    createTime: row.create_time,
    ...(row.revoke_time === null ? {} : { revokeTime: row.revoke_time }),
  };
}
