/**
 * Word vectors as tenants upload them: files read and checked whole, then stored as blobs and one row, never changed.
 * Invariant: what is stored can be read; an upload that fails in any way leaves nothing behind. What the files say is the reader's to know.
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { LoricaError } from '../common/errors.js';
import {
  isUniqueViolation,
  notFound,
  listNewest,
  requireResourceId,
  type BlobLedger,
  type BlobStore,
  type Database,
  type Page,
  type PageRequest,
  type StagedBlob,
} from '../storage/index.js';

/** What a reader finds in the files. */
export interface EmbeddingsDescription {
  readonly format: 'glove' | 'word2vec' | 'word2vec-binary' | 'bert';
  readonly words: number;
  readonly continuations: number;
  readonly dimension: number;
  /** The files that were read; others are let go by. */
  readonly files: readonly string[];
}

/** Reads a folder of files whole. INVALID_ARGUMENT / EMBEDDINGS_INVALID where they are no word vectors. */
export type DescribeEmbeddings = (folder: string, signal: AbortSignal | undefined) => Promise<EmbeddingsDescription>;

export interface EmbeddingsFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface Embeddings extends Omit<EmbeddingsDescription, 'files'> {
  /** tenants/{tenant}/embeddings/{id} */
  readonly name: string;
  readonly tenant: string;
  readonly id: string;
  readonly files: readonly EmbeddingsFile[];
  readonly createTime: Date;
}

interface EmbeddingsRow extends Omit<Embeddings, 'name' | 'createTime'> {
  readonly ordinal: number;
  readonly create_time: Date;
}

export interface EmbeddingsUpload {
  /** Of all files together. */
  readonly maxBytes: number;
  readonly signal?: AbortSignal;
}

const COLUMNS = 'tenant, id, ordinal, format, words, continuations, dimension, files, create_time';
const MAX_FILES = 32;

export class EmbeddingStore {
  /** `workFolder`: where files lie while they are checked or read. */
  constructor(
    private readonly database: Database,
    private readonly blobs: BlobStore,
    private readonly ledger: BlobLedger,
    private readonly workFolder: string,
    private readonly describe: DescribeEmbeddings,
  ) {}

  /** Takes files in, piece by piece, one file after another. EMBEDDINGS_INVALID, QUOTA_EXCEEDED beyond maxBytes, ALREADY_EXISTS for an id in use. */
  async upload(tenant: string, id: string, pieces: AsyncIterable<{ file: string; data: Uint8Array }>, options: EmbeddingsUpload): Promise<Embeddings> {
    requireResourceId('embeddings_id', id);
    if ((await this.find(tenant, id)) !== undefined) throw exists(tenant, id);
    return this.inFolder(async (folder) => {
      await receive(folder, pieces, options);
      const description = await this.describe(folder, options.signal);
      await this.keep(tenant, id, folder, description);
      return this.get(tenant, id);
    });
  }

  async get(tenant: string, id: string): Promise<Embeddings> {
    const row = await this.find(tenant, id);
    if (row === undefined) throw notFound('EMBEDDINGS_NOT_FOUND', embeddingsName(tenant, id));
    return toEmbeddings(row);
  }

  /** Newest first. */
  async list(request: PageRequest & { readonly tenant: string }): Promise<Page<Embeddings>> {
    return listNewest(this.database, { table: 'embeddings', columns: COLUMNS, where: { tenant: request.tenant } }, request, toEmbeddings);
  }

  async delete(tenant: string, id: string): Promise<void> {
    const released = await this.database.transaction(async (tx) => {
      const rows = await tx.query('DELETE FROM embeddings WHERE tenant = $1 AND id = $2 RETURNING id', [tenant, id]);
      if (rows.length === 0) throw notFound('EMBEDDINGS_NOT_FOUND', embeddingsName(tenant, id));
      return this.ledger.release(tx, embeddingsName(tenant, id));
    });
    await this.ledger.sweep(released);
  }

  /** Lays the files out in a folder for as long as `read` takes. DATA_LOSS when the stored bytes are not the uploaded ones. */
  async withFiles<T>(embeddings: Embeddings, read: (folder: string) => Promise<T>): Promise<T> {
    return this.inFolder(async (folder) => {
      for (const { name, sha256 } of embeddings.files) await pipeline(this.blobs.stream(sha256), createWriteStream(join(folder, name)));
      return read(folder);
    });
  }

  private async inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
    await mkdir(this.workFolder, { recursive: true });
    const folder = await mkdtemp(join(this.workFolder, 'embeddings-'));
    try {
      return await work(folder);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  private async keep(tenant: string, id: string, folder: string, { files, ...description }: EmbeddingsDescription): Promise<void> {
    const staged: { readonly name: string; readonly blob: StagedBlob }[] = [];
    try {
      for (const name of files) staged.push({ name, blob: await this.blobs.stage(createReadStream(join(folder, name)) as AsyncIterable<Buffer>) });
      await this.database.transaction(async (tx) => {
        const kept = staged.map(({ name, blob: { bytes, sha256 } }): EmbeddingsFile => ({ name, bytes, sha256 }));
        const { format, words, continuations, dimension } = description;
        await tx.query('INSERT INTO embeddings (tenant, id, format, words, continuations, dimension, files) VALUES ($1, $2, $3, $4, $5, $6, $7)', [
          tenant,
          id,
          format,
          words,
          continuations,
          dimension,
          JSON.stringify(kept),
        ]);
        for (const { blob } of staged) await this.ledger.keep(tx, blob, embeddingsName(tenant, id));
      });
    } catch (error) {
      for (const { blob } of staged) await blob.discard();
      throw isUniqueViolation(error) ? exists(tenant, id) : error;
    }
  }

  private async find(tenant: string, id: string): Promise<EmbeddingsRow | undefined> {
    const [row] = await this.database.query<EmbeddingsRow>(`SELECT ${COLUMNS} FROM embeddings WHERE tenant = $1 AND id = $2`, [tenant, id]);
    return row;
  }
}

export function embeddingsName(tenant: string, id: string): string {
  return `tenants/${tenant}/embeddings/${id}`;
}

/** Writes pieces to files of the folder. */
async function receive(folder: string, pieces: AsyncIterable<{ file: string; data: Uint8Array }>, { maxBytes, signal }: EmbeddingsUpload): Promise<void> {
  let bytes = 0;
  let out: { readonly name: string; readonly stream: ReturnType<typeof createWriteStream> } | undefined;
  const finish = async (): Promise<void> => {
    const stream = out?.stream;
    if (stream !== undefined) await new Promise<void>((resolve, reject) => stream.once('error', reject).end(resolve));
    out = undefined;
  };
  try {
    for await (const { file, data } of pieces) {
      if (signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'the upload was cancelled');
      bytes += data.length;
      if (bytes > maxBytes) throw new LoricaError('RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED', `the files are larger than ${maxBytes} bytes`);
      if (out?.name !== file) {
        await finish();
        if ((await readdir(folder)).length >= MAX_FILES) throw new LoricaError('INVALID_ARGUMENT', 'EMBEDDINGS_INVALID', `there are more than ${MAX_FILES} files`);
        out = { name: file, stream: createWriteStream(join(folder, file), { flags: 'a' }) };
      }
      const { stream } = out;
      if (!stream.write(data)) await new Promise<void>((resolve, reject) => stream.once('error', reject).once('drain', resolve));
    }
    await finish();
  } catch (error) {
    out?.stream.destroy();
    throw error;
  }
}

function exists(tenant: string, id: string): LoricaError {
  return new LoricaError('ALREADY_EXISTS', 'ALREADY_EXISTS', `${embeddingsName(tenant, id)} exists already`, {
    hint: 'Word vectors never change: upload under another id, or delete these first.',
  });
}

function toEmbeddings({ ordinal: _, create_time: createTime, ...row }: EmbeddingsRow): Embeddings {
  return { ...row, name: embeddingsName(row.tenant, row.id), createTime };
}
