/** `lorica keys create`: a new API key, shown once; only its hash is kept, in a keys file or in the database. */
import { open, readFile, rename, rm } from 'node:fs/promises';
import type { ServerConfig } from '../config/config.js';
import { isResourceId, openDatabase } from '../storage/index.js';
import { keySha256, newApiKey, readKeysFile, TenantStore, type Role } from '../tenants/index.js';
import { invalidFields, LoricaError } from '../common/errors.js';

export interface NewKey {
  readonly tenant: string;
  readonly roles: readonly Role[];
  readonly secret: string;
  /** Where its hash was put. */
  readonly kept: string;
}

/** Into `config.keysFile` where one is set, else into the database. STORAGE_LOCKED while a server has the embedded database open. */
export async function createKey(
  config: Pick<ServerConfig, 'keysFile' | 'databaseUrl' | 'dataDir'>,
  tenant: string,
  roles: readonly string[],
): Promise<NewKey> {
  const wrong = roles.filter((role) => role !== 'tenant' && role !== 'operator');
  const violations = [
    ...(isResourceId(tenant)
      ? []
      : [{ field: '--tenant', description: 'must be lower-case letters, digits and hyphens, 1 to 63, starting with a letter' }]),
    ...(roles.length > 0 && wrong.length === 0 ? [] : [{ field: '--role', description: 'must be tenant or operator' }]),
  ];
  if (violations.length > 0) throw invalidFields(violations);
  const known = roles as readonly Role[];
  if (config.keysFile !== undefined) {
    const secret = newApiKey();
    await appendToFile(config.keysFile, { tenant, keySha256: keySha256(secret), roles: known });
    return { tenant, roles: known, secret, kept: config.keysFile };
  }
  const database = await openDatabase(config.databaseUrl === undefined ? { dataDir: config.dataDir } : { url: config.databaseUrl });
  try {
    const tenants = await TenantStore.open(database);
    await tenants.ensureTenant(tenant);
    const { secret } = await tenants.createApiKey({ tenant, roles: known });
    return { tenant, roles: known, secret, kept: config.databaseUrl === undefined ? `the database in ${config.dataDir}` : 'the database' };
  } finally {
    await database.close();
  }
}

async function appendToFile(path: string, entry: { tenant: string; keySha256: string; roles: readonly Role[] }): Promise<void> {
  let before: unknown[] = [];
  try {
    await readFile(path);
    before = [...(await readKeysFile(path))];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  try {
    await replaceFile(path, `${JSON.stringify([...before, entry], null, 2)}\n`);
  } catch (cause) {
    throw new LoricaError('FAILED_PRECONDITION', 'STORAGE_FAILED', `the keys file ${path} cannot be written`, {
      hint: `Its folder must exist, and this user must be allowed to write to it (${(cause as NodeJS.ErrnoException).code ?? 'unknown'}). No key was made.`,
      cause,
    });
  }
}

async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const handle = await open(temporary, 'w', 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
