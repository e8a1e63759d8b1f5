/**
 * The registry of adapters: publishing, importing, resolving, loading, and the resources around them.
 * Invariant: a version never changes and its digest says what it is; a name of another tenant cannot be told from one that nobody has.
 */
import { invalidFields, LoricaError } from '../common/errors.js';
import {
  type BlobLedger,
  type BlobStore,
  type Database,
  listNewest,
  requireResourceId,
  type Page,
  type PageRequest,
} from '../storage/index.js';
import type { Adapter, AdapterAlias, AdapterContent, AdapterVersion, FilePiece, FitOf, LoraInput, VariantInput } from './adapter.js';
import { AdapterAliases, type AliasListener, lockAdapter, type MoveAlias } from './adapter-aliases.js';
import { AdapterContents, type StagedContent } from './adapter-content.js';
import { readAdapterFolder } from './adapter-files.js';
import {
  ADAPTER_COLUMNS,
  adapterName,
  adapterNotFound,
  type AdapterRow,
  normalDigest,
  parseReference,
  requireTextMap,
  toAdapter,
  toVersion,
  VERSION_COLUMNS,
  versionName,
  type VersionRow,
} from './adapter-rows.js';
import { requireFit } from './compatibility.js';

export interface NewVersion {
  readonly tenant: string;
  readonly adapter: string;
  readonly baseModel: string;
  readonly baseDigest: string;
  readonly fit: FitOf;
  /** Resource name of the job that made it. */
  readonly tuningJob?: string;
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface AdapterUpdate {
  readonly displayName?: string;
  readonly description?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

type OfAdapter = PageRequest & { readonly tenant: string; readonly adapter: string };

const MAX_NAME_CHARACTERS = 255;
const MAX_DESCRIPTION_CHARACTERS = 4096;

export class AdapterRegistry {
  private readonly aliases: AdapterAliases;
  private readonly contents: AdapterContents;

  constructor(
    private readonly database: Database,
    blobs: BlobStore,
    private readonly ledger: BlobLedger,
  ) {
    this.aliases = new AdapterAliases(database);
    this.contents = new AdapterContents(database, blobs);
  }

  /** Stores a version, and the adapter if it is new. The same content again gives the version that is there. INVALID_ARGUMENT / ADAPTER_INCOMPATIBLE if it does not fit the base. */
  async publish(input: NewVersion & { readonly content: LoraInput | VariantInput }): Promise<AdapterVersion> {
    requireResourceId('adapter_id', input.adapter);
    requireTextMap('metadata', input.metadata ?? {});
    await requireFit(input.content, input.fit, input.baseModel);
    const staged = await this.contents.stage(input.content, input.baseDigest);
    try {
      const stored = await this.database.transaction((tx) => this.insert(tx, input, staged));
      if (!stored) await staged.blob.discard();
    } catch (error) {
      await staged.blob.discard();
      throw error;
    }
    return this.getVersion(input.tenant, input.adapter, staged.digest);
  }

  /** Publishes the files of a PEFT folder (adapter_config.json, adapter_model.safetensors) or of a variant (variant.json, model.safetensors). */
  async importFiles(input: NewVersion & { readonly pieces: AsyncIterable<FilePiece>; readonly maxBytes: number }): Promise<AdapterVersion> {
    requireResourceId('adapter_id', input.adapter);
    const content = await readAdapterFolder(input.pieces, input);
    return this.publish({ ...input, content });
  }

  /** The files of a version as PEFT (or importFiles) reads them, one after another, in pieces of at most 1 MiB. */
  exportFiles(version: AdapterVersion): AsyncIterable<FilePiece> {
    return this.contents.files(version);
  }

  /** The version that 'adapter@alias' or 'adapter@sha256:…' names now. */
  async resolve(tenant: string, reference: string): Promise<AdapterVersion> {
    const target = parseReference(reference);
    const absent = adapterNotFound(`${adapterName(tenant, target.adapter)}@${reference.slice(target.adapter.length + 1)}`);
    const digest = 'digest' in target ? target.digest : (await this.aliases.find(this.database, { tenant, ...target }))?.digest;
    const row = digest === undefined ? undefined : await this.version(tenant, target.adapter, digest);
    if (row === undefined) throw absent;
    return toVersion(row);
  }

  /** The content of a version, verified. DATA_LOSS / DIGEST_MISMATCH if what is stored is not what was published. */
  load(version: AdapterVersion): Promise<AdapterContent> {
    return this.contents.load(version);
  }

  async getAdapter(tenant: string, id: string): Promise<Adapter> {
    const [row] = await this.database.query<AdapterRow>(`SELECT ${ADAPTER_COLUMNS} FROM adapters WHERE tenant = $1 AND id = $2`, [
      tenant,
      id,
    ]);
    if (row === undefined) throw adapterNotFound(adapterName(tenant, id));
    return toAdapter(row);
  }

  /** Newest first. */
  async listAdapters(request: PageRequest & { readonly tenant: string }): Promise<Page<Adapter>> {
    return listNewest(this.database, { table: 'adapters', columns: ADAPTER_COLUMNS, where: { tenant: request.tenant } }, request, toAdapter);
  }

  /** Changes the given fields. ABORTED / ETAG_MISMATCH if `etag` is given and not the adapter's. */
  async updateAdapter(tenant: string, id: string, update: AdapterUpdate, etag?: string): Promise<Adapter> {
    requireTextMap('labels', update.labels ?? {});
    requireLength('display_name', update.displayName, MAX_NAME_CHARACTERS);
    requireLength('description', update.description, MAX_DESCRIPTION_CHARACTERS);
    const before = await this.getAdapter(tenant, id);
    const rows = await this.database.query(
      `UPDATE adapters SET display_name = coalesce($3, display_name), description = coalesce($4, description), labels = coalesce($5::json, labels),
         update_time = now(), revision = revision + 1 WHERE tenant = $1 AND id = $2 AND ($6::text IS NULL OR revision::text = $6) RETURNING id`,
      [
        tenant,
        id,
        update.displayName ?? null,
        update.description ?? null,
        update.labels === undefined ? null : JSON.stringify(update.labels),
        etag?.replaceAll('"', '') ?? null,
      ],
    );
    if (rows.length === 0)
      throw new LoricaError('ABORTED', 'ETAG_MISMATCH', `${before.name} has changed since it was read`, {
        hint: 'Read the adapter again and decide anew.',
      });
    return this.getAdapter(tenant, id);
  }

  /** Removes an adapter with its versions; FAILED_PRECONDITION / ADAPTER_IN_USE while an alias points to one. */
  async deleteAdapter(tenant: string, id: string): Promise<void> {
    await this.sweeping(tenant, id, async (tx) => {
      const key = [tenant, id];
      const used = await tx.query<{ alias: string }>(
        'SELECT alias FROM adapter_aliases WHERE tenant = $1 AND adapter = $2 ORDER BY alias',
        key,
      );
      if (used.length > 0) throw inUse(adapterName(tenant, id), used);
      const versions = await tx.query<{ digest: string }>(
        'DELETE FROM adapter_versions WHERE tenant = $1 AND adapter = $2 RETURNING digest',
        key,
      );
      const removed = await tx.query('DELETE FROM adapters WHERE tenant = $1 AND id = $2 RETURNING id', key);
      if (removed.length === 0) throw adapterNotFound(adapterName(tenant, id));
      return versions.map(({ digest }) => versionName(tenant, id, digest));
    });
  }

  /** `digest` is 'sha256:…' or its hex digits alone. */
  async getVersion(tenant: string, adapter: string, digest: string): Promise<AdapterVersion> {
    const known = normalDigest(digest);
    const row = known === undefined ? undefined : await this.version(tenant, adapter, known);
    if (row === undefined) throw adapterNotFound(versionName(tenant, adapter, digest));
    return toVersion(row);
  }

  /** Newest first. */
  async listVersions(request: OfAdapter): Promise<Page<AdapterVersion>> {
    await this.getAdapter(request.tenant, request.adapter);
    return listNewest(this.database, { table: 'adapter_versions', columns: VERSION_COLUMNS, where: { tenant: request.tenant, adapter: request.adapter } }, request, toVersion);
  }

  /** Removes a version; FAILED_PRECONDITION / ADAPTER_IN_USE while an alias points to it. Sequences that run on it keep what they loaded. */
  async deleteVersion(tenant: string, adapter: string, digest: string): Promise<void> {
    const version = await this.getVersion(tenant, adapter, digest);
    await this.sweeping(tenant, adapter, async (tx) => {
      const key = [tenant, adapter, version.digest];
      const used = await tx.query<{ alias: string }>(
        'SELECT alias FROM adapter_aliases WHERE tenant = $1 AND adapter = $2 AND digest = $3 ORDER BY alias',
        key,
      );
      if (used.length > 0) throw inUse(version.name, used);
      await tx.query('DELETE FROM adapter_versions WHERE tenant = $1 AND adapter = $2 AND digest = $3', key);
      return [version.name];
    });
  }

  getAlias(tenant: string, adapter: string, alias: string): Promise<AdapterAlias> {
    return this.aliases.get({ tenant, adapter, alias });
  }

  async listAliases(request: OfAdapter): Promise<Page<AdapterAlias>> {
    await this.getAdapter(request.tenant, request.adapter);
    return this.aliases.list(request);
  }

  /** Points an alias at a version, by compare-and-set if an etag is given. */
  setAlias(input: MoveAlias & { readonly digest: string }): Promise<AdapterAlias> {
    return this.aliases.set(input);
  }

  /** Points an alias at what `from` (another alias, or a digest) points to. */
  promote(input: MoveAlias & { readonly from: string }): Promise<AdapterAlias> {
    return this.aliases.promote(input);
  }

  /** Points an alias back at the version before its last move. */
  rollback(input: MoveAlias): Promise<AdapterAlias> {
    return this.aliases.rollback(input);
  }

  deleteAlias(input: MoveAlias): Promise<void> {
    return this.aliases.delete(input);
  }

  /** Called after each committed move of an alias by this process. Returns how to stop listening. */
  onAliasMoved(listener: AliasListener): () => void {
    return this.aliases.onMoved(listener);
  }

  /** False when the version is there already. */
  private async insert(
    tx: Database,
    input: NewVersion & { readonly content: LoraInput | VariantInput },
    staged: StagedContent,
  ): Promise<boolean> {
    await lockAdapter(tx, input.tenant, input.adapter);
    await tx.query(
      `INSERT INTO adapters (tenant, id, display_name, description, labels) VALUES ($1, $2, '', '', '{}') ON CONFLICT DO NOTHING`,
      [input.tenant, input.adapter],
    );
    const rows = await tx.query(
      `INSERT INTO adapter_versions (tenant, adapter, digest, kind, base_model, base_digest, manifest, bytes, parameter_count, tuning_job, metadata)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING digest`,
      [
        input.tenant,
        input.adapter,
        staged.digest,
        input.content.kind,
        input.baseModel,
        input.baseDigest,
        staged.manifest,
        staged.bytes,
        staged.parameterCount,
        input.tuningJob ?? null,
        JSON.stringify(input.metadata ?? {}),
      ],
    );
    if (rows.length === 0) return false;
    await this.ledger.keep(tx, staged.blob, versionName(input.tenant, input.adapter, staged.digest));
    return true;
  }

  private async version(tenant: string, adapter: string, digest: string): Promise<VersionRow | undefined> {
    const [row] = await this.database.query<VersionRow>(
      `SELECT ${VERSION_COLUMNS} FROM adapter_versions WHERE tenant = $1 AND adapter = $2 AND digest = $3`,
      [tenant, adapter, digest],
    );
    return row;
  }

  /** Runs a removal that names the owners whose bytes go with it. */
  private async sweeping(tenant: string, adapter: string, remove: (tx: Database) => Promise<readonly string[]>): Promise<void> {
    const digests = await this.database.transaction(async (tx) => {
      await lockAdapter(tx, tenant, adapter);
      const released: string[] = [];
      for (const owner of await remove(tx)) released.push(...(await this.ledger.release(tx, owner)));
      return released;
    });
    await this.ledger.sweep(digests);
  }
}

function inUse(name: string, used: readonly { readonly alias: string }[]): LoricaError {
  const aliases = used.map(({ alias }) => alias).join(', ');
  return new LoricaError(
    'FAILED_PRECONDITION',
    'ADAPTER_IN_USE',
    `${name} is what ${used.length === 1 ? 'an alias points' : 'aliases point'} to: ${aliases}`,
    {
      hint: 'Move or delete the alias first.',
      metadata: { aliases },
    },
  );
}

function requireLength(field: string, text: string | undefined, maximum: number): void {
  if (text !== undefined && text.length > maximum) throw invalidFields([{ field, description: `is longer than ${maximum} characters` }]);
}
