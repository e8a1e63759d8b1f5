/**
 * Who calls: a bearer key, or, where the server has no keys (loopback only; main refuses anything else), the development identity
 * with the tenant named in the metadata.
 */
import type { Metadata } from '@grpc/grpc-js';
import { invalidFields, LoricaError } from '../common/errors.js';
import { developmentIdentity, type Identity, type TenantStore } from '../tenants/index.js';

export const TENANT_KEY = 'x-lorica-tenant';
export const DEVELOPMENT_TENANT = 'dev';
/** Tenants are metric labels: without keys a client could make up any number of them. */
const MAX_DEVELOPMENT_TENANTS = 100;

export type Authenticate = (metadata: Metadata) => Promise<Identity>;

/** Keys decide. UNAUTHENTICATED says the same for no key, a malformed one and an unknown one. */
export function authenticateByKey(tenants: Pick<TenantStore, 'authenticate'>): Authenticate {
  return async (metadata) => {
    const header = metadata.get('authorization')[0];
    const key = typeof header === 'string' ? /^Bearer (\S+)$/i.exec(header)?.[1] : undefined;
    const identity = key === undefined ? null : await tenants.authenticate(key);
    if (identity !== null) return identity;
    throw new LoricaError('UNAUTHENTICATED', 'UNAUTHENTICATED', 'a valid API key is required', {
      hint: 'Send metadata `authorization: Bearer KEY`; `lorica keys create` makes a key.',
    });
  };
}

/** Everybody is the tenant that `x-lorica-tenant` names (default "dev"), with every role. */
export function authenticateForDevelopment(): Authenticate {
  const seen = new Set<string>();
  return async (metadata) => {
    const given = metadata.get(TENANT_KEY)[0];
    const tenant = typeof given === 'string' && given !== '' ? given : DEVELOPMENT_TENANT;
    if (!/^[a-z][a-z0-9-]{0,62}$/.test(tenant))
      throw invalidFields([
        { field: TENANT_KEY, description: 'must be lower-case letters, digits and hyphens, 1 to 63, starting with a letter' },
      ]);
    if (!seen.has(tenant) && seen.size >= MAX_DEVELOPMENT_TENANTS) {
      throw new LoricaError(
        'RESOURCE_EXHAUSTED',
        'QUOTA_EXCEEDED',
        `without keys a server takes at most ${MAX_DEVELOPMENT_TENANTS} tenants`,
        { hint: 'Create keys for real tenants: lorica keys create.' },
      );
    }
    seen.add(tenant);
    return developmentIdentity(tenant);
  };
}
