/**
 * Resource names: parsing, writing, and the rule that the name addresses while the credential authorizes.
 * Invariant: a well-formed name in another tenant gives the same NOT_FOUND as a name that does not exist; nothing is looked up
 * for it, so neither text nor time tells the two apart.
 */
import { LoricaError, type ErrorReason } from '../common/errors.js';
import type { Identity } from '../tenants/index.js';
import type { Fields } from './fields.js';

const ID = '[a-z][a-z0-9-]{0,62}';
const TENANT = `tenants/(-|${ID})`;

/** What a kind of name looks like, and the reason given when it is not there. */
interface Kind {
  readonly pattern: RegExp;
  readonly form: string;
  readonly reason: ErrorReason;
}

const kind = (source: string, form: string, reason: ErrorReason): Kind => ({ pattern: new RegExp(`^${source}$`), form, reason });

const KINDS = {
  tenant: kind(TENANT, 'tenants/{tenant} or tenants/-', 'TENANT_NOT_FOUND'),
  dataset: kind(`${TENANT}/datasets/(${ID})`, 'tenants/{tenant}/datasets/{dataset}', 'DATASET_NOT_FOUND'),
  embeddings: kind(`${TENANT}/embeddings/(${ID})`, 'tenants/{tenant}/embeddings/{embeddings}', 'EMBEDDINGS_NOT_FOUND'),
  tuningJob: kind(`${TENANT}/tuningJobs/(${ID})`, 'tenants/{tenant}/tuningJobs/{job}', 'JOB_NOT_FOUND'),
  evaluation: kind(`${TENANT}/evaluations/(${ID})`, 'tenants/{tenant}/evaluations/{evaluation}', 'EVALUATION_NOT_FOUND'),
  adapter: kind(`${TENANT}/adapters/(${ID})`, 'tenants/{tenant}/adapters/{adapter}', 'ADAPTER_NOT_FOUND'),
  adapterVersion: kind(
    `${TENANT}/adapters/(${ID})/versions/([0-9a-f]{64})`,
    'tenants/{tenant}/adapters/{adapter}/versions/{64 hex digits}',
    'ADAPTER_NOT_FOUND',
  ),
  adapterAlias: kind(
    `${TENANT}/adapters/(${ID})/aliases/(${ID})`,
    'tenants/{tenant}/adapters/{adapter}/aliases/{alias}',
    'ADAPTER_NOT_FOUND',
  ),
  reference: kind(
    `${TENANT}/adapters/(${ID})(?:@(${ID}|sha256:[0-9a-f]{64})|/versions/([0-9a-f]{64}))`,
    'tenants/{tenant}/adapters/{adapter}@{alias or sha256:…}',
    'ADAPTER_NOT_FOUND',
  ),
} as const;

export type NameKind = keyof typeof KINDS;

/** A parsed name, its tenant resolved to the caller's own. */
export interface ParsedName {
  /** The canonical name, never with `tenants/-`. */
  readonly name: string;
  readonly tenant: string;
  /** The captured ids after the tenant, in order. */
  readonly ids: readonly string[];
}

/** The error for a name that does not exist or belongs to somebody else. */
export function notFound(kindOfName: NameKind, name: string): LoricaError {
  return new LoricaError('NOT_FOUND', KINDS[kindOfName].reason, `${name} does not exist`, { metadata: { resource: name } });
}

/**
 * Parses a name of the caller's tenant. A malformed one is added to `fields` (the result is then undefined); one of another
 * tenant throws NOT_FOUND.
 */
export function parseName(kindOfName: NameKind, field: string, value: string, identity: Identity, fields: Fields): ParsedName | undefined {
  const match = KINDS[kindOfName].pattern.exec(value);
  if (match === null) {
    fields.add(
      field,
      value === '' ? `is required, of the form ${KINDS[kindOfName].form}` : `must be of the form ${KINDS[kindOfName].form}`,
    );
    return undefined;
  }
  const [tenant = '', ...ids] = match.slice(1).filter((part: string | undefined) => part !== undefined);
  if (tenant !== '-' && tenant !== identity.tenant) throw notFound(kindOfName, value);
  return { name: value.replace(/^tenants\/[^/]+/, `tenants/${identity.tenant}`), tenant: identity.tenant, ids };
}

/** Parses the only name of a request; throws INVALID_ARGUMENT when malformed. */
export function needName(kindOfName: NameKind, field: string, value: string, identity: Identity, fields: Fields): ParsedName {
  const parsed = parseName(kindOfName, field, value, identity, fields);
  fields.done();
  return parsed!;
}

/** The id of `models/{id}`, or undefined with a violation added. */
export function parseModelName(field: string, value: string, fields: Fields): string | undefined {
  const match = /^models\/([a-z0-9][a-z0-9._-]{0,62})$/.exec(value);
  if (match === null) fields.add(field, value === '' ? 'is required, of the form models/{model}' : 'must be of the form models/{model}');
  return match?.[1];
}

export const modelName = (id: string): string => `models/${id}`;

/** 'sha256:…' → the version's resource name. */
export const versionName = (tenant: string, adapter: string, digest: string): string =>
  `tenants/${tenant}/adapters/${adapter}/versions/${digest.replace(/^sha256:/, '')}`;
