/**
 * `lorica export TARGET --out PATH`: a checkpoint from a running server as files for other tools. Every file is written beside its name
 * and renamed once its digest is right; what is at PATH already is never overwritten.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { invalidFields, LoricaError } from '../common/errors.js';
import { connect, ExportType, type ExportCheckpointHeader } from '../client/index.js';

export interface ExportOptions {
  readonly address: string;
  readonly key?: string;
  readonly tenant?: string;
  readonly out: string;
  readonly format: 'huggingface' | 'gguf';
  readonly type?: 'float32' | 'float16' | 'bfloat16' | 'q8_0';
  readonly write: (line: string) => void;
}

const TYPES = {
  float32: ExportType.EXPORT_TYPE_FLOAT32,
  float16: ExportType.EXPORT_TYPE_FLOAT16,
  bfloat16: ExportType.EXPORT_TYPE_BFLOAT16,
  q8_0: ExportType.EXPORT_TYPE_Q8_0,
} as const;

/** Writes one line a file. Throws INVALID_FIELD where `out` exists, DIGEST_MISMATCH, LoricaCallError; nothing unfinished is left. */
export async function exportTarget(target: string, options: ExportOptions): Promise<void> {
  const { out, format, write } = options;
  if ((await stat(out).catch(() => undefined)) !== undefined) throw invalidFields([{ field: '--out', description: `${out} exists already` }]);
  const client = connect({
    address: options.address,
    ...(options.key === undefined ? {} : { apiKey: options.key }),
    ...(options.tenant === undefined ? {} : { tenant: options.tenant }),
  });
  const partial = `${out}.partial`;
  const pathOf = (name: string): string => (format === 'gguf' ? partial : join(partial, name));
  try {
    await rm(partial, { recursive: true, force: true });
    await mkdir(format === 'gguf' ? dirname(partial) : partial, { recursive: true });
    const type = options.type === undefined ? ExportType.EXPORT_TYPE_UNSPECIFIED : TYPES[options.type];
    const request = { target, format: { $case: format === 'gguf' ? ('gguf' as const) : ('huggingFace' as const), value: { type } } };
    let header: ExportCheckpointHeader | undefined;
    let file: Incoming | undefined;
    for await (const { payload } of client.models.exportCheckpoint(request)) {
      if (payload?.$case === 'header') header = payload.value;
      if (payload?.$case !== 'chunk') continue;
      const { file: name, chunk } = payload.value;
      if (file?.name !== name) {
        await file?.finish(header);
        file = await Incoming.open(name, pathOf(name));
      }
      await file.write(chunk!.data);
    }
    await file?.finish(header);
    await rename(partial, out);
    for (const { name, bytes } of header?.files ?? []) write(`${format === 'gguf' ? out : join(out, name)}  ${bytes} bytes`);
  } finally {
    client.close();
    await rm(partial, { recursive: true, force: true });
  }
}

/** A file as it arrives. */
class Incoming {
  private readonly hash = createHash('sha256');

  private constructor(
    readonly name: string,
    private readonly handle: FileHandle,
  ) {}

  /** Names come from the server: one that leads elsewhere is refused. */
  static async open(name: string, path: string): Promise<Incoming> {
    if (!/^[\w.-]+$/.test(name) || name.startsWith('.')) throw new LoricaError('DATA_LOSS', 'INTERNAL', `the server sends a file ${JSON.stringify(name)}`);
    return new Incoming(name, await open(path, 'w'));
  }

  async write(data: Uint8Array): Promise<void> {
    this.hash.update(data);
    await this.handle.writeFile(data);
  }

  async finish(header: ExportCheckpointHeader | undefined): Promise<void> {
    await this.handle.sync();
    await this.handle.close();
    const digest = this.hash.digest('hex');
    const promised = header?.files.find(({ name }) => name === this.name)?.sha256;
    if (digest !== promised) throw new LoricaError('DATA_LOSS', 'DIGEST_MISMATCH', `${this.name} arrived with the sha256 ${digest}, not ${promised ?? 'the one promised'}`);
  }
}
