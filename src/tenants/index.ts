/** Tenants: who calls, proved by an API key. */
export type { ApiKey, Identity, Role, Tenant } from './tenant.js';
export { developmentIdentity, keySha256, newApiKey, TenantStore } from './tenant-store.js';
export { readKeysFile, type FileKey } from './keys-file.js';
