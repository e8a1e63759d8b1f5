/**
 * The base models of this server: configured, imported, embedded. Each is opened once and shared by engine, tuning and evaluation.
 * Invariant: an id never changes its files while the server runs. A configured model that can't be opened stops the start; an
 * imported one is listed with its problem.
 */
import { readdir, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';
import type { Logger } from '../common/logger.js';
import type { AdapterContent, FitOf } from '../adapters/index.js';
import type { ModelProvider } from '../engine/index.js';
import { isHubReference, pullFromHub, pullModel, type PullProgress } from '../models/catalogue.js';
import { openCheckpoint, type Checkpoint } from '../models/checkpoint.js';
import { weightShapes } from '../models/config.js';
import { variantFit } from '../models/variant-architecture.js';
import { modelName, type ExportedFiles, type ExportFormat, type ImportProgress, type ModelInfo, type ModelLibrary, type TextModel } from '../services/index.js';
import { writeExport } from './exports.js';
import type { ImportedModels } from './imported-models.js';
import { textModel } from './text-model.js';

interface Entry {
  readonly info: ModelInfo;
  readonly checkpoint: Checkpoint | undefined;
  /** Why there is no checkpoint. */
  readonly failure: unknown;
}

export interface LibraryOptions {
  readonly configured: ReadonlyMap<string, string>;
  readonly embedded: { readonly id: string; readonly path: string } | undefined;
  readonly imported: ImportedModels;
  readonly modelCache: string | undefined;
  /** Where exported files lie while they are sent. */
  readonly exportsFolder: string;
  readonly maxContextTokens: number;
  readonly logger: Logger;
}

export class FileModelLibrary implements ModelLibrary, ModelProvider {
  private readonly entries = new Map<string, Entry>();
  /** Of removed models: sequences may still run on them. */
  private readonly retired: Checkpoint[] = [];
  private changing: Promise<unknown> = Promise.resolve();

  private constructor(private readonly options: LibraryOptions) {}

  /** Opens every model. Throws what a configured one throws. */
  static async open(options: LibraryOptions): Promise<FileModelLibrary> {
    const library = new FileModelLibrary(options);
    try {
      for (const [id, source] of options.configured) {
        const path = isHubReference(source) ? (await pullFromHub(source)).path : source;
        library.entries.set(id, await openEntry(id, path, 'configured'));
      }
      for (const [id, { path }] of options.imported.all()) if (!library.entries.has(id)) await library.tryOpen(id, path, 'imported');
      const { embedded } = options;
      if (embedded !== undefined && !library.entries.has(embedded.id)) await library.tryOpen(embedded.id, embedded.path, 'embedded');
    } catch (error) {
      await library.close();
      throw error;
    }
    return library;
  }

  list(): Promise<readonly ModelInfo[]> {
    return Promise.resolve([...this.entries.values()].map(({ info }) => info).sort((a, b) => (a.id < b.id ? -1 : 1)));
  }

  async get(id: string): Promise<ModelInfo> {
    return this.entry(id).info;
  }

  async checkpoint(id: string): Promise<Checkpoint> {
    const { checkpoint, failure } = this.entry(id);
    if (checkpoint === undefined) throw failure;
    return checkpoint;
  }

  async text(id: string): Promise<TextModel> {
    return textModel(await this.checkpoint(id), this.options.maxContextTokens);
  }

  async fit(id: string): Promise<FitOf> {
    return variantFit((await this.checkpoint(id)).config);
  }

  importPath(id: string, path: string): Promise<ModelInfo> {
    return this.alone(() => this.register(id, path));
  }

  async importCatalogue(
    catalogueId: string,
    id: string | undefined,
    onProgress: (progress: ImportProgress) => void,
    signal: AbortSignal,
  ): Promise<ModelInfo> {
    const pulled = await pullModel(catalogueId, {
      ...(this.options.modelCache === undefined ? {} : { cacheDir: this.options.modelCache }),
      onProgress: (progress) => onProgress(importProgress(progress)),
      signal,
    });
    return this.alone(() => this.register(id ?? catalogueId, pulled.path, pulled.digest));
  }

  async importHub(
    reference: string,
    id: string,
    onProgress: (progress: ImportProgress) => void,
    signal: AbortSignal,
  ): Promise<ModelInfo> {
    const { path } = await pullFromHub(reference, { onProgress: (progress) => onProgress(importProgress(progress)), signal });
    return this.alone(() => this.register(id, path));
  }

  async export(id: string, change: AdapterContent | undefined, format: ExportFormat): Promise<ExportedFiles> {
    return writeExport(await this.checkpoint(id), change, format, this.options.exportsFolder);
  }

  remove(id: string): Promise<void> {
    return this.alone(async () => {
      const { info, checkpoint } = this.entry(id);
      if (info.origin !== 'imported') {
        throw new LoricaError('FAILED_PRECONDITION', 'MODEL_NOT_FOUND', `${modelName(id)} is ${info.origin}, not imported`, {
          hint: 'Take it out of LORICA_MODELS instead.',
          metadata: { resource: modelName(id) },
        });
      }
      await this.options.imported.delete(id);
      this.entries.delete(id);
      if (checkpoint !== undefined) this.retired.push(checkpoint);
    });
  }

  async close(): Promise<void> {
    for (const { checkpoint } of this.entries.values()) await checkpoint?.close();
    for (const checkpoint of this.retired) await checkpoint.close();
    this.entries.clear();
    this.retired.length = 0;
  }

  private entry(id: string): Entry {
    const entry = this.entries.get(id);
    if (entry !== undefined) return entry;
    throw new LoricaError('NOT_FOUND', 'MODEL_NOT_FOUND', `${modelName(id)} does not exist`, {
      hint: `Models here: ${[...this.entries.keys()].sort().join(', ') || 'none'}.`,
      metadata: { resource: modelName(id) },
    });
  }

  private async tryOpen(id: string, path: string, origin: 'imported' | 'embedded'): Promise<void> {
    try {
      this.entries.set(id, await openEntry(id, path, origin));
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      this.options.logger.error('a model can not be used', { model: id, path, error });
      this.entries.set(id, { info: { ...NOTHING, id, origin, problem }, checkpoint: undefined, failure: error });
    }
  }

  private async register(id: string, path: string, knownDigest?: string): Promise<ModelInfo> {
    const entry = await openEntry(id, path, 'imported', knownDigest);
    const existing = this.entries.get(id);
    if (existing?.checkpoint !== undefined) {
      await entry.checkpoint?.close();
      if (existing.info.digest === entry.info.digest) return existing.info;
      throw new LoricaError('ALREADY_EXISTS', 'ALREADY_EXISTS', `${modelName(id)} exists with other files (${existing.info.digest})`, {
        hint: 'Choose another id, or delete the model first.',
        metadata: { resource: modelName(id) },
      });
    }
    await this.options.imported.set(id, { path: await realpath(path), digest: entry.info.digest });
    this.entries.set(id, entry);
    return entry.info;
  }

  /** Changes of the library, one after the other. */
  private alone<T>(change: () => Promise<T>): Promise<T> {
    const next = this.changing.then(change);
    this.changing = next.catch(() => undefined);
    return next;
  }
}

function importProgress({ source, phase, bytes, totalBytes }: PullProgress): ImportProgress {
  return { phase: `${phase} from ${source}`, bytesDone: bytes, bytesTotal: totalBytes };
}

const NOTHING = {
  digest: '',
  family: '',
  parameters: 0,
  layers: 0,
  hiddenSize: 0,
  vocabSize: 0,
  maxPositionTokens: 0,
  hasChatTemplate: false,
  storedAs: '',
  bytes: 0,
} as const;

async function openEntry(id: string, path: string, origin: ModelInfo['origin'], knownDigest?: string): Promise<Entry> {
  const checkpoint = await openCheckpoint(path, { id, ...(knownDigest === undefined ? {} : { knownDigest }) });
  const { config, weights } = checkpoint;
  const stored = new Map<string, number>();
  let parameters = 0;
  for (const [name, shape] of weightShapes(config)) {
    const elements = shape.reduce((product, dimension) => product * dimension, 1);
    parameters += elements;
    stored.set(weights.storedAs(name), (stored.get(weights.storedAs(name)) ?? 0) + elements);
  }
  const info: ModelInfo = {
    id,
    origin,
    problem: '',
    digest: checkpoint.digest,
    family: config.family,
    parameters,
    layers: config.layers,
    hiddenSize: config.hiddenSize,
    vocabSize: config.vocabSize,
    maxPositionTokens: config.maxPositionTokens,
    hasChatTemplate: checkpoint.chatTemplate !== undefined,
    storedAs: [...stored].sort((a, b) => b[1] - a[1])[0]?.[0] ?? '',
    bytes: await bytesOf(path),
  };
  return { info, checkpoint, failure: undefined };
}

/** Bytes of a file, or of the files directly in a folder. */
async function bytesOf(path: string): Promise<number> {
  const status = await stat(path);
  if (!status.isDirectory()) return status.size;
  const sizes = await Promise.all((await readdir(path)).map(async (file) => stat(join(path, file))));
  return sizes.reduce((sum, one) => sum + (one.isFile() ? one.size : 0), 0);
}
