/**
 * Datasets: validated while they stream in, stored as one blob and one row, never changed.
 * Invariant: a stored dataset has no errors; an upload that fails in any way leaves nothing behind.
 */
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
import { JsonlCheck, readJsonl } from './check-jsonl.js';
import type { Dataset, DatasetStatistics, Example, ExampleKind, Finding, Report } from './dataset.js';
import { redactedRows, type Redactions } from './redacted-rows.js';
import { knownRows, validateJsonl, type ValidationOptions, type ValidationReport } from './validate.js';

export interface UploadOptions {
  readonly format: 'jsonl';
  /** What the client says the bytes' digest is (hex); another one is refused. */
  readonly sha256?: string;
  readonly maxBytes: number;
  /** Aborted when the client goes away. */
  readonly signal?: AbortSignal;
}

interface DatasetRow {
  tenant: string;
  id: string;
  ordinal: number;
  format: 'jsonl';
  kind: ExampleKind;
  sha256: string;
  statistics: DatasetStatistics;
  findings: Finding[];
  warning_count: number;
  create_time: Date;
}

const COLUMNS = 'tenant, id, ordinal, format, kind, sha256, statistics, findings, warning_count, create_time';

export class DatasetStore {
  constructor(
    private readonly database: Database,
    private readonly blobs: BlobStore,
    private readonly ledger: BlobLedger,
  ) {}

  /**
   * Takes a file in. INVALID_ARGUMENT / DATASET_INVALID with every finding (bounded) when a row is wrong, DIGEST_MISMATCH when the digest is
   * another, RESOURCE_EXHAUSTED / QUOTA_EXCEEDED beyond maxBytes, ALREADY_EXISTS for an id in use: stored datasets never change.
   */
  async upload(tenant: string, id: string, chunks: AsyncIterable<Uint8Array>, options: UploadOptions): Promise<Dataset> {
    await this.requireFree(tenant, id);
    const check = new JsonlCheck();
    const staged = await this.blobs.stage(checked(bounded(chunks, options), check));
    try {
      const report = check.report();
      const kind = accepted(report, options.sha256);
      await this.insert(tenant, id, kind, report, staged);
    } catch (error) {
      await staged.discard();
      throw isUniqueViolation(error) ? exists(tenant, id) : error;
    }
    return this.get(tenant, id);
  }

  /** INVALID_ARGUMENT for what is no id, ALREADY_EXISTS for one in use. */
  async requireFree(tenant: string, id: string): Promise<void> {
    requireResourceId('dataset_id', id);
    if ((await this.find(tenant, id)) !== undefined) throw exists(tenant, id);
  }

  async get(tenant: string, id: string): Promise<Dataset> {
    const row = await this.find(tenant, id);
    if (row === undefined) throw notFound('DATASET_NOT_FOUND', datasetName(tenant, id));
    return toDataset(row);
  }

  /** Newest first. */
  async list(request: PageRequest & { readonly tenant: string }): Promise<Page<Dataset>> {
    return listNewest(this.database, { table: 'datasets', columns: COLUMNS, where: { tenant: request.tenant } }, request, toDataset);
  }

  async delete(tenant: string, id: string): Promise<void> {
    const released = await this.database.transaction(async (tx) => {
      const rows = await tx.query('DELETE FROM datasets WHERE tenant = $1 AND id = $2 RETURNING id', [tenant, id]);
      if (rows.length === 0) throw notFound('DATASET_NOT_FOUND', datasetName(tenant, id));
      return this.ledger.release(tx, datasetName(tenant, id));
    });
    await this.ledger.sweep(released);
  }

  /** The rows in order. DATA_LOSS when the stored bytes are not the uploaded ones (known only at the end). */
  async *examples(dataset: Dataset): AsyncGenerator<Example & { readonly line: number }> {
    for await (const { line, example } of readJsonl(this.blobs.stream(dataset.sha256), new JsonlCheck())) {
      if (example !== undefined) yield { ...example, line };
    }
  }

  /** Reads the stored file again: findings in the order of lines, then the report. A stored dataset has warnings only, unless a meter refuses it. */
  async *validate(
    dataset: Dataset,
    options: Omit<ValidationOptions, 'compareWith'> & { readonly compareWith?: readonly Dataset[] } = {},
  ): AsyncGenerator<Finding | ValidationReport> {
    const compareWith = [];
    for (const other of options.compareWith ?? []) compareWith.push(await knownRows(other.name, this.examples(other)));
    yield* validateJsonl(this.blobs.stream(dataset.sha256), { ...options, compareWith });
  }

  /**
   * Stores a copy in which placeholders stand for personal data, under the rules of an upload. Blank lines, line ends and byte order marks are
   * not carried over.
   */
  async redact(
    dataset: Dataset,
    id: string,
    options: Omit<UploadOptions, 'format' | 'sha256'>,
  ): Promise<{ readonly dataset: Dataset; readonly redactions: Redactions }> {
    const redactions: Redactions = new Map();
    const rows = redactedRows(this.examples(dataset), redactions);
    return { dataset: await this.upload(dataset.tenant, id, rows, { ...options, format: 'jsonl' }), redactions };
  }

  private async insert(tenant: string, id: string, kind: ExampleKind, report: Report, staged: StagedBlob): Promise<void> {
    await this.database.transaction(async (tx) => {
      await tx.query(
        'INSERT INTO datasets (tenant, id, format, kind, sha256, statistics, findings, warning_count) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)',
        [tenant, id, 'jsonl', kind, staged.sha256, JSON.stringify(report.statistics), JSON.stringify(report.findings), report.warningCount],
      );
      await this.ledger.keep(tx, staged, datasetName(tenant, id));
    });
  }

  private async find(tenant: string, id: string): Promise<DatasetRow | undefined> {
    const [row] = await this.database.query<DatasetRow>(`SELECT ${COLUMNS} FROM datasets WHERE tenant = $1 AND id = $2`, [tenant, id]);
    return row;
  }
}

export function datasetName(tenant: string, id: string): string {
  return `tenants/${tenant}/datasets/${id}`;
}

function exists(tenant: string, id: string): LoricaError {
  return new LoricaError('ALREADY_EXISTS', 'ALREADY_EXISTS', `${datasetName(tenant, id)} exists already`, {
    hint: 'Datasets never change: upload under another id, or delete this one first.',
  });
}

/** Passes bytes on while they are checked: one pass, no second copy. */
async function* checked(chunks: AsyncIterable<Uint8Array>, check: JsonlCheck): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    check.push(chunk);
    yield chunk;
  }
  check.end();
}

async function* bounded(chunks: AsyncIterable<Uint8Array>, options: UploadOptions): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const chunk of chunks) {
    if (options.signal?.aborted === true) throw new LoricaError('CANCELLED', 'CANCELLED', 'the upload was cancelled');
    bytes += chunk.length;
    if (bytes > options.maxBytes)
      throw new LoricaError('RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED', `the dataset is larger than ${options.maxBytes} bytes`, {
        hint: 'Split it into several datasets.',
      });
    yield chunk;
  }
}

/** The kind of a file without errors; throws otherwise. */
function accepted(report: Report, sha256: string | undefined): ExampleKind {
  if (sha256 !== undefined && sha256 !== '' && sha256.toLowerCase() !== report.sha256) {
    throw new LoricaError(
      'INVALID_ARGUMENT',
      'DIGEST_MISMATCH',
      `the bytes received have sha256 ${report.sha256}, the request says ${sha256}`,
      { hint: 'Upload again: the file changed or was damaged on its way.' },
    );
  }
  if (report.errorCount === 0 && report.kind !== undefined) return report.kind;
  const errors = report.findings.filter((finding) => finding.severity === 'error');
  const violations = errors.map((error) => ({
    field: error.line === 0 ? 'file' : `line ${error.line}: ${error.path}`,
    description: error.message,
    reason: error.code,
  }));
  const first = violations[0];
  const message = `the dataset has ${report.errorCount} error${report.errorCount === 1 ? '' : 's'}${first === undefined ? '' : `; the first: ${first.field} ${first.description}`}`;
  throw new LoricaError('INVALID_ARGUMENT', 'DATASET_INVALID', message, {
    violations,
    hint: 'Nothing was stored. Mend the lines named here and upload again.',
    metadata: { errors: String(report.errorCount) },
  });
}

function toDataset(row: DatasetRow): Dataset {
  return {
    name: datasetName(row.tenant, row.id),
    tenant: row.tenant,
    id: row.id,
    format: row.format,
    kind: row.kind,
    sha256: row.sha256,
    statistics: row.statistics,
    findings: row.findings,
    warningCount: row.warning_count,
    createTime: row.create_time,
    etag: `"${row.sha256.slice(0, 16)}"`,
  };
}
