/**
 * Aliases: the mutable part of the registry. A move is compare-and-set by etag, one at a time per adapter, and noted, so that it can be rolled back.
 * Invariant: an alias points to a version that exists; its etag changes with every move and never comes back.
 */
import { LoricaError } from '../common/errors.js';
import { listNewest, requireResourceId, type Database, type Page, type PageRequest } from '../storage/index.js';
import type { AdapterAlias, AliasMove, AliasMoveReason } from './adapter.js';
import { adapterNotFound, ALIAS_COLUMNS, aliasName, type AliasRow, normalDigest, toAlias, versionName } from './adapter-rows.js';

export interface AliasKey {
  readonly tenant: string;
  readonly adapter: string;
  readonly alias: string;
}

export interface MoveAlias extends AliasKey {
  /** The etag last read; '' for an alias that must not exist yet; absent to move it wherever it is. ABORTED / ETAG_MISMATCH otherwise. */
  readonly etag?: string;
}

interface MoveRow {
  ordinal: number;
  from_digest: string | null;
  to_digest: string;
}

export type AliasListener = (move: AliasMove) => void;

export class AdapterAliases {
  private readonly listeners = new Set<AliasListener>();

  constructor(private readonly database: Database) {}

  async get(key: AliasKey): Promise<AdapterAlias> {
    const row = await this.find(this.database, key);
    if (row === undefined) throw adapterNotFound(aliasName(key.tenant, key.adapter, key.alias));
    return toAlias(row);
  }

  /** Newest first. */
  async list(request: PageRequest & { readonly tenant: string; readonly adapter: string }): Promise<Page<AdapterAlias>> {
    return listNewest(this.database, { table: 'adapter_aliases', columns: ALIAS_COLUMNS, where: { tenant: request.tenant, adapter: request.adapter } }, request, toAlias);
  }

  /** Points the alias at a version. Pointing it where it points already changes nothing. */
  async set(input: MoveAlias & { readonly digest: string }): Promise<AdapterAlias> {
    requireResourceId('alias', input.alias);
    return this.exclusively(input, (tx, current) => this.move(tx, input, current, input.digest, 'set'));
  }

  /** Points the alias at what `from` (another alias, or a digest) points to now. */
  async promote(input: MoveAlias & { readonly from: string }): Promise<AdapterAlias> {
    requireResourceId('alias', input.alias);
    return this.exclusively(input, async (tx, current) => {
      const source = normalDigest(input.from) ?? (await this.find(tx, { ...input, alias: input.from }))?.digest;
      if (source === undefined) throw adapterNotFound(aliasName(input.tenant, input.adapter, input.from));
      return this.move(tx, input, current, source, 'promote');
    });
  }

  /** Points the alias back at the version before its last move that was not rolled back; again goes further back. */
  async rollback(input: MoveAlias): Promise<AdapterAlias> {
    return this.exclusively(input, async (tx, current) => {
      const name = aliasName(input.tenant, input.adapter, input.alias);
      if (current === undefined) throw adapterNotFound(name);
      const [last] = await tx.query<MoveRow>(
        `SELECT ordinal, from_digest, to_digest FROM adapter_alias_moves
         WHERE tenant = $1 AND adapter = $2 AND alias = $3 AND NOT undone AND reason <> 'rollback' ORDER BY ordinal DESC LIMIT 1`,
        [input.tenant, input.adapter, input.alias],
      );
      if (last?.from_digest == null)
        throw new LoricaError('FAILED_PRECONDITION', 'ADAPTER_NOT_FOUND', `${name} has no earlier version to go back to`);
      if (!(await this.versionExists(tx, input, last.from_digest))) {
        throw new LoricaError(
          'FAILED_PRECONDITION',
          'ADAPTER_NOT_FOUND',
          `${name} pointed to ${last.from_digest} before, which has been deleted`,
        );
      }
      await tx.query('UPDATE adapter_alias_moves SET undone = true WHERE ordinal = $1', [last.ordinal]);
      return this.move(tx, input, current, last.from_digest, 'rollback');
    });
  }

  /** Removes the alias and what is known of its moves. */
  async delete(input: MoveAlias): Promise<void> {
    await this.exclusively(input, async (tx, current) => {
      if (current === undefined) throw adapterNotFound(aliasName(input.tenant, input.adapter, input.alias));
      const key = [input.tenant, input.adapter, input.alias];
      await tx.query('DELETE FROM adapter_aliases WHERE tenant = $1 AND adapter = $2 AND alias = $3', key);
      await tx.query('DELETE FROM adapter_alias_moves WHERE tenant = $1 AND adapter = $2 AND alias = $3', key);
      return { alias: toAlias(current) };
    });
  }

  /** Called after each move of this process has been committed, in order of commitment for one adapter. Returns how to stop listening. */
  onMoved(listener: AliasListener): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  async find(database: Database, key: AliasKey): Promise<AliasRow | undefined> {
    const [row] = await database.query<AliasRow>(
      `SELECT ${ALIAS_COLUMNS} FROM adapter_aliases WHERE tenant = $1 AND adapter = $2 AND alias = $3`,
      [key.tenant, key.adapter, key.alias],
    );
    return row;
  }

  /** Runs a change while no other changes this adapter's aliases or versions, after the etag has been compared; then tells the listeners. */
  private async exclusively(
    input: MoveAlias,
    change: (tx: Database, current: AliasRow | undefined) => Promise<{ readonly alias: AdapterAlias; readonly move?: AliasMove }>,
  ): Promise<AdapterAlias> {
    const { alias, move } = await this.database.transaction(async (tx) => {
      await lockAdapter(tx, input.tenant, input.adapter);
      const current = await this.find(tx, input);
      if (input.etag !== undefined && input.etag !== (current === undefined ? '' : toAlias(current).etag)) {
        throw new LoricaError(
          'ABORTED',
          'ETAG_MISMATCH',
          `${aliasName(input.tenant, input.adapter, input.alias)} has been moved since it was read`,
          { hint: 'Read the alias again and decide anew.' },
        );
      }
      return change(tx, current);
    });
    if (move !== undefined) for (const listener of this.listeners) listener(move);
    return alias;
  }

  private async move(
    tx: Database,
    key: AliasKey,
    current: AliasRow | undefined,
    digest: string,
    reason: AliasMoveReason,
  ): Promise<{ alias: AdapterAlias; move?: AliasMove }> {
    const { tenant, adapter, alias } = key;
    const to = normalDigest(digest);
    if (to === undefined || !(await this.versionExists(tx, key, to))) throw adapterNotFound(versionName(tenant, adapter, digest));
    if (current?.digest === to) return { alias: toAlias(current) };
    const [noted] = await tx.query<{ ordinal: number; time: Date }>(
      'INSERT INTO adapter_alias_moves (tenant, adapter, alias, from_digest, to_digest, reason) VALUES ($1, $2, $3, $4, $5, $6) RETURNING ordinal, time',
      [tenant, adapter, alias, current?.digest ?? null, to, reason],
    );
    const { ordinal, time } = noted as { ordinal: number; time: Date };
    const [row] = await tx.query<AliasRow>(
      `INSERT INTO adapter_aliases (tenant, adapter, alias, digest, revision) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (tenant, adapter, alias) DO UPDATE SET digest = excluded.digest, revision = excluded.revision, update_time = now() RETURNING ${ALIAS_COLUMNS}`,
      [tenant, adapter, alias, to, ordinal],
    );
    const from = current === undefined ? {} : { from: current.digest };
    return { alias: toAlias(row as AliasRow), move: { tenant, adapter, alias, ...from, to, reason, time } };
  }

  private async versionExists(tx: Database, key: AliasKey, digest: string): Promise<boolean> {
    return (
      (
        await tx.query('SELECT 1 FROM adapter_versions WHERE tenant = $1 AND adapter = $2 AND digest = $3', [
          key.tenant,
          key.adapter,
          digest,
        ])
      ).length > 0
    );
  }
}

/** Changes to one adapter's versions and aliases exclude each other until the transaction ends, also between processes. */
export async function lockAdapter(tx: Database, tenant: string, adapter: string): Promise<void> {
  await tx.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 2))', [`${tenant}/${adapter}`]);
}
