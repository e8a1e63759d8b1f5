/**
 * The bytes of versions: written once in their canonical form, read back verified. Keeps nothing in memory: what is resident is the engine's affair.
 */
import { LoricaError } from '../common/errors.js';
import type { BlobStore, Database, StagedBlob } from '../storage/index.js';
import type { HostTensor } from '../tensor/host-tensor.js';
import { parseSafetensors, readSafetensorsHeader, readTensor, safetensorsPieces } from '../tensor/safetensors.js';
import type { AdapterContent, AdapterVersion, FilePiece, LoraInput, LoraModule, VariantInput } from './adapter.js';
import { HEAD_FILE, HEAD_TENSORS, headSettings, headTensor, partHead } from './classification-head.js';
import { LORA_FILES, PIECE_BYTES, VARIANT_FILES, variantSettings } from './adapter-files.js';
import { digestOf, manifestText, type Manifest } from './manifest.js';
import { formatPeftConfig } from './peft-config.js';
import { fromModules } from './peft-tensors.js';

export interface StagedContent {
  readonly manifest: string;
  readonly digest: string;
  readonly bytes: number;
  readonly parameterCount: number;
  readonly blob: StagedBlob;
}

export class AdapterContents {
  constructor(
    private readonly database: Database,
    private readonly blobs: BlobStore,
  ) {}

  /** Writes content aside; the caller keeps or discards the blob. */
  async stage(content: LoraInput | VariantInput, baseDigest: string): Promise<StagedContent> {
    const tensors = canonicalTensors(content);
    const blob = await this.blobs.stage(safetensorsPieces(tensors));
    const manifest = manifestText(content, baseDigest, blob);
    const parameterCount = [...tensors.values()].reduce((sum, tensor) => sum + tensor.data.length, 0);
    return { manifest, digest: digestOf(manifest), bytes: blob.bytes, parameterCount, blob };
  }

  /** The content of a version; DATA_LOSS / DIGEST_MISMATCH if what is stored is not what was published. */
  async load(version: AdapterVersion): Promise<AdapterContent> {
    const manifest = await this.manifest(version);
    const { weight, others: tensors } = partHead(await this.tensors(manifest.tensors.sha256), manifest.kind);
    if ((weight === undefined) !== (manifest.head === undefined)) throw damaged(version);
    const head = weight === undefined ? {} : { head: { ...manifest.head!, weight: weight.data as Float32Array } };
    if (manifest.kind === 'variant') {
      const { architecture } = manifest;
      return { kind: 'variant', digest: version.digest, tensors, ...(architecture === undefined ? {} : { architecture }), ...head };
    }
    const matrix = (module: string, which: 'A' | 'B'): Float32Array => {
      const tensor = tensors.get(`base_model.model.${module}.lora_${which}.weight`);
      if (tensor === undefined) throw damaged(version);
      return tensor.data as Float32Array;
    };
    const modules = manifest.modules.map((entry): [string, LoraModule] => [
      entry.module,
      { ...entry, a: matrix(entry.module, 'A'), b: matrix(entry.module, 'B') },
    ]);
    return { kind: 'lora', digest: version.digest, modules: new Map(modules), ...head };
  }

  /** The version as the files of a folder: PEFT's, or a variant's; with a classification head one more. The tensor file is the stored one, digest checked as it streams. */
  async *files(version: AdapterVersion): AsyncGenerator<FilePiece> {
    const manifest = await this.manifest(version);
    const names = manifest.kind === 'lora' ? LORA_FILES : VARIANT_FILES;
    const settings =
      manifest.kind === 'lora'
        ? formatPeftConfig(await this.modules(version), version.baseModel, manifest.head !== undefined)
        : variantSettings(version.baseModel, version.baseDigest, manifest.architecture);
    const json = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value, null, 2)}\n`, 'utf8');
    yield { file: names.settings, data: json(settings) };
    if (manifest.head !== undefined) yield { file: HEAD_FILE, data: json(headSettings(manifest.head)) };
    for await (const chunk of this.blobs.stream(manifest.tensors.sha256)) {
      for (let at = 0; at < chunk.length; at += PIECE_BYTES) yield { file: names.tensors, data: chunk.subarray(at, at + PIECE_BYTES) };
    }
  }

  private async modules(version: AdapterVersion): Promise<readonly LoraModule[]> {
    const content = await this.load(version);
    return content.kind === 'lora' ? [...content.modules.values()] : [];
  }

  private async manifest(version: AdapterVersion): Promise<Manifest> {
    const [row] = await this.database.query<{ manifest: string }>(
      'SELECT manifest FROM adapter_versions WHERE tenant = $1 AND adapter = $2 AND digest = $3',
      [version.tenant, version.adapter, version.digest],
    );
    if (row === undefined || digestOf(row.manifest) !== version.digest) throw damaged(version);
    return JSON.parse(row.manifest) as Manifest;
  }

  /** All tensors of a blob. From a local file one by one, so that only they are held, not the file as well. */
  private async tensors(sha256: string): Promise<ReadonlyMap<string, HostTensor>> {
    if (this.blobs.path === undefined) return parseSafetensors(await this.blobs.read(sha256), `blob sha256:${sha256}`);
    for await (const chunk of this.blobs.stream(sha256)) if (chunk.length === 0) break;
    const path = this.blobs.path(sha256);
    const header = await readSafetensorsHeader(path);
    const tensors = new Map<string, HostTensor>();
    for (const name of header.tensors.keys()) tensors.set(name, await readTensor(header, name));
    return tensors;
  }
}

/** Every tensor of the canonical file: LoRA matrices under PEFT's names or a variant's tensors, and the head. Shares memory. */
function canonicalTensors(content: LoraInput | VariantInput): ReadonlyMap<string, HostTensor> {
  const tensors = content.kind === 'lora' ? fromModules(content.modules.values()) : content.tensors;
  return content.head === undefined ? tensors : new Map([...tensors, [HEAD_TENSORS[content.kind], headTensor(content.head)]]);
}

function damaged(version: AdapterVersion): LoricaError {
  return new LoricaError('DATA_LOSS', 'DIGEST_MISMATCH', `${version.name} is damaged or was deleted`, {
    hint: 'Restore the data folder from a backup, or import the adapter again.',
  });
}
