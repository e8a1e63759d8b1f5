/** Rows of the adapter tables as resources, and their names. */
import { invalidFields, type FieldViolation, type LoricaError } from '../common/errors.js';
import { isResourceId, notFound } from '../storage/index.js';
import type { Adapter, AdapterAlias, AdapterKind, AdapterVersion } from './adapter.js';

export interface AdapterRow {
  tenant: string;
  id: string;
  ordinal: number;
  display_name: string;
  description: string;
  labels: Record<string, string>;
  create_time: Date;
  update_time: Date;
  revision: number;
}

export interface VersionRow {
  tenant: string;
  adapter: string;
  digest: string;
  ordinal: number;
  kind: AdapterKind;
  base_model: string;
  base_digest: string;
  bytes: number;
  parameter_count: number;
  tuning_job: string | null;
  metadata: Record<string, string>;
  create_time: Date;
}

export interface AliasRow {
  tenant: string;
  adapter: string;
  alias: string;
  ordinal: number;
  digest: string;
  update_time: Date;
  revision: number;
}

export const ADAPTER_COLUMNS = 'tenant, id, ordinal, display_name, description, labels, create_time, update_time, revision';
export const VERSION_COLUMNS =
  'tenant, adapter, digest, ordinal, kind, base_model, base_digest, bytes, parameter_count, tuning_job, metadata, create_time';
export const ALIAS_COLUMNS = 'tenant, adapter, alias, ordinal, digest, update_time, revision';

const DIGEST = /^(?:sha256:)?([0-9a-f]{64})$/;
const MAX_ENTRIES = 64;
const MAX_KEY_CHARACTERS = 63;
const MAX_VALUE_CHARACTERS = 1024;

export function adapterName(tenant: string, adapter: string): string {
  return `tenants/${tenant}/adapters/${adapter}`;
}

export function versionName(tenant: string, adapter: string, digest: string): string {
  return `${adapterName(tenant, adapter)}/versions/${digest.replace('sha256:', '')}`;
}

export function aliasName(tenant: string, adapter: string, alias: string): string {
  return `${adapterName(tenant, adapter)}/aliases/${alias}`;
}

/** The one error for an adapter, version or alias that this tenant does not have, whoever else has it. */
export function adapterNotFound(name: string): LoricaError {
  return notFound('ADAPTER_NOT_FOUND', name);
}

/** 'sha256:…' from that or from the bare 64 hex digits; undefined for anything else. */
export function normalDigest(text: string): string | undefined {
  const hex = DIGEST.exec(text)?.[1];
  return hex === undefined ? undefined : `sha256:${hex}`;
}

/** Reads 'adapter@alias' or 'adapter@sha256:…'. */
export function parseReference(
  reference: string,
): { readonly adapter: string; readonly alias: string } | { readonly adapter: string; readonly digest: string } {
  const at = reference.indexOf('@');
  const [adapter, selector] = [reference.slice(0, Math.max(at, 0)), reference.slice(at + 1)];
  if (at > 0 && isResourceId(adapter)) {
    if (isResourceId(selector)) return { adapter, alias: selector };
    if (/^sha256:[0-9a-f]{64}$/.test(selector)) return { adapter, digest: selector };
  }
  throw invalidFields(
    [{ field: 'target', description: `${JSON.stringify(reference)} does not name a version` }],
    'Write adapter@alias, or adapter@sha256: with 64 hex digits.',
  );
}

/** Throws INVALID_ARGUMENT unless the map is small enough to be kept as labels or metadata. */
export function requireTextMap(field: string, map: Readonly<Record<string, string>>): void {
  const violations: FieldViolation[] = [];
  const entries = Object.entries(map);
  if (entries.length > MAX_ENTRIES)
    violations.push({ field, description: `has ${entries.length} entries, at most ${MAX_ENTRIES} are kept` });
  for (const [key, value] of entries.slice(0, MAX_ENTRIES)) {
    if (key === '' || key.length > MAX_KEY_CHARACTERS)
      violations.push({
        field: `${field}[${JSON.stringify(key.slice(0, MAX_KEY_CHARACTERS))}]`,
        description: `a key has 1 to ${MAX_KEY_CHARACTERS} characters`,
      });
    if (value.length > MAX_VALUE_CHARACTERS)
      violations.push({ field: `${field}.${key}`, description: `is longer than ${MAX_VALUE_CHARACTERS} characters` });
  }
  if (violations.length > 0) throw invalidFields(violations);
}

export function toAdapter(row: AdapterRow): Adapter {
  return {
    name: adapterName(row.tenant, row.id),
    tenant: row.tenant,
    id: row.id,
    displayName: row.display_name,
    description: row.description,
    labels: row.labels,
    createTime: row.create_time,
    updateTime: row.update_time,
    etag: `"${row.revision}"`,
  };
}

export function toVersion(row: VersionRow): AdapterVersion {
  return {
    name: versionName(row.tenant, row.adapter, row.digest),
    tenant: row.tenant,
    adapter: row.adapter,
    digest: row.digest,
    kind: row.kind,
    baseModel: row.base_model,
    baseDigest: row.base_digest,
    bytes: row.bytes,
    parameterCount: row.parameter_count,
    ...(row.tuning_job === null ? {} : { tuningJob: row.tuning_job }),
    metadata: row.metadata,
    createTime: row.create_time,
  };
}

export function toAlias(row: AliasRow): AdapterAlias {
  return {
    name: aliasName(row.tenant, row.adapter, row.alias),
    tenant: row.tenant,
    adapter: row.adapter,
    alias: row.alias,
    digest: row.digest,
    updateTime: row.update_time,
    etag: `"${row.revision}"`,
  };
}
