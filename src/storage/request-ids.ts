/**
 * Request ids: a client that repeats a call (a lost answer, a retry) gets the first answer again instead of a second resource.
 * Invariant: within 24 hours a (tenant, method, request id) stands for one body and one resource name.
 */
import { createHash } from 'node:crypto';
import { systemClock, type Clock } from '../common/clock.js';
import { LoricaError } from '../common/errors.js';
import type { Database } from './database.js';

const KEPT_MS = 24 * 3_600_000;

export interface RequestKey {
  readonly tenant: string;
  /** The RPC, e.g. 'CreateTuningJob'. */
  readonly method: string;
  readonly requestId: string;
  /** requestDigestOf the request without its request id. */
  readonly requestDigest: string;
}

export function requestDigestOf(body: Uint8Array | string): string {
  return createHash('sha256').update(body).digest('hex');
}

export class RequestIds {
  constructor(
    private readonly database: Database,
    private readonly clock: Clock = systemClock,
  ) {}

  /** The name that an earlier call with this key made; INVALID_ARGUMENT / REQUEST_ID_REUSED if its body was another one. */
  async find(key: RequestKey, tx: Database = this.database): Promise<string | undefined> {
    const rows = await tx.query<{ digest: string; response_name: string }>(
      'SELECT digest, response_name FROM request_ids WHERE tenant = $1 AND method = $2 AND request_id = $3 AND create_time > $4',
      [key.tenant, key.method, key.requestId, new Date(this.clock.nowMs() - KEPT_MS)],
    );
    const row = rows[0];
    if (row === undefined) return undefined;
    if (row.digest !== key.requestDigest) {
      throw new LoricaError(
        'INVALID_ARGUMENT',
        'REQUEST_ID_REUSED',
        `request id ${key.requestId} was used for another ${key.method} request`,
        {
          violations: [{ field: 'request_id', description: 'was used with another body in the last 24 hours' }],
          hint: 'Use a new UUID for a new request; repeat an id only with the same body.',
        },
      );
    }
    return row.response_name;
  }

  /**
   * Runs `create` unless this key was seen, in one transaction with the note of its result: `name` is what `create` returned, now (`first`)
   * or then. Of two calls at once one creates and the other waits for it.
   */
  async once(key: RequestKey, create: (tx: Database) => Promise<string>): Promise<{ readonly name: string; readonly first: boolean }> {
    return this.database.transaction(async (tx) => {
      await tx.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 1))', [JSON.stringify([key.tenant, key.method, key.requestId])]);
      const known = await this.find(key, tx);
      if (known !== undefined) return { name: known, first: false };
      const name = await create(tx);
      await this.record(key, name, tx);
      return { name, first: true };
    });
  }

  /** Notes the answer of a call whose work was too long for one transaction (an upload). The first note of a key stays. */
  async record(key: RequestKey, responseName: string, tx: Database = this.database): Promise<void> {
    const now = this.clock.nowMs();
    await tx.query('DELETE FROM request_ids WHERE create_time <= $1', [new Date(now - KEPT_MS)]);
    await tx.query(
      'INSERT INTO request_ids (tenant, method, request_id, digest, response_name, create_time) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING',
      [key.tenant, key.method, key.requestId, key.requestDigest, responseName, new Date(now)],
    );
  }
}
