/**
 * Adapter folders as streams of file pieces. In: PEFT's two files, or a variant's two, and what a classification head adds. Only safetensors is read: a pickle can run code.
 */
import { invalidFields, LoricaError } from '../common/errors.js';
import { parseSafetensors } from '../tensor/safetensors.js';
import type { FilePiece, LoraInput, VariantArchitecture, VariantInput } from './adapter.js';
import { HEAD_FILE, partHead, readHead } from './classification-head.js';
import { parsePeftConfig } from './peft-config.js';
import { toModules } from './peft-tensors.js';

export const LORA_FILES = { settings: 'adapter_config.json', tensors: 'adapter_model.safetensors' } as const;
export const VARIANT_FILES = { settings: 'variant.json', tensors: 'model.safetensors' } as const;
const READ: readonly string[] = [...Object.values(LORA_FILES), ...Object.values(VARIANT_FILES), HEAD_FILE];

export const PIECE_BYTES = 1 << 20;

export interface ImportLimits {
  readonly baseModel: string;
  readonly baseDigest: string;
  /** Of all files together. */
  readonly maxBytes: number;
}

/** Reads a folder; other files in it (a README, a tokenizer) are let go by. */
export async function readAdapterFolder(source: AsyncIterable<FilePiece>, limits: ImportLimits): Promise<LoraInput | VariantInput> {
  const { files, passed } = await collect(source, limits.maxBytes);
  const [lora, variant] = [LORA_FILES, VARIANT_FILES].map(({ settings, tensors }) => [files.get(settings), files.get(tensors)] as const);
  if (lora?.[0] !== undefined && lora[1] !== undefined) {
    const config = parsePeftConfig(lora[0]);
    const { weight, others } = partHead(parseSafetensors(lora[1], LORA_FILES.tensors), 'lora');
    if ((weight !== undefined) !== config.classification) {
      const description = `${weight === undefined ? 'is SEQ_CLS, and there is no' : 'must be SEQ_CLS for the'} tensor score.weight`;
      throw invalidFields([{ field: `${LORA_FILES.settings}: task_type`, description }]);
    }
    const head = weight === undefined ? {} : { head: readHead(weight, files.get(HEAD_FILE)) };
    return { kind: 'lora', modules: toModules(others, config, limits.baseModel), ...head };
  }
  if (variant?.[0] !== undefined && variant[1] !== undefined) {
    const architecture = readVariantSettings(variant[0], limits);
    const { weight, others: tensors } = partHead(parseSafetensors(variant[1], VARIANT_FILES.tensors), 'variant');
    const head = weight === undefined ? {} : { head: readHead(weight, files.get(HEAD_FILE)) };
    return { kind: 'variant', tensors, ...(architecture === undefined ? {} : { architecture }), ...head };
  }
  const pickles = passed.filter((name) => /\.(bin|pt|pth|pkl|ckpt)$/.test(name));
  const hint =
    pickles.length > 0 ? `${pickles.join(', ')} cannot be read: save the adapter as safetensors.` : 'Send the two files that PEFT saves.';
  throw invalidFields(
    [
      {
        field: 'files',
        description: `need ${Object.values(LORA_FILES).join(' and ')} (or ${Object.values(VARIANT_FILES).join(' and ')}); got ${[...files.keys(), ...passed].join(', ') || 'none'}`,
      },
    ],
    hint,
  );
}

export function variantSettings(baseModel: string, baseDigest: string, architecture: VariantArchitecture | undefined): Record<string, unknown> {
  return {
    format: 'lorica.variant.v1',
    base_model: baseModel,
    base_digest: baseDigest,
    ...(architecture === undefined
      ? {}
      : {
          architecture: {
            layer_origins: architecture.layerOrigins,
            intermediate_sizes: architecture.intermediateSizes,
            tie_word_embeddings: architecture.tieWordEmbeddings,
          },
        }),
  };
}

async function collect(source: AsyncIterable<FilePiece>, maxBytes: number): Promise<{ files: Map<string, Uint8Array>; passed: string[] }> {
  const pieces = new Map<string, Uint8Array[]>();
  const passed = new Set<string>();
  let bytes = 0;
  for await (const { file, data } of source) {
    bytes += data.length;
    if (bytes > maxBytes) throw new LoricaError('RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED', `the adapter is larger than ${maxBytes} bytes`);
    if (!READ.includes(file)) {
      if (passed.size < 50) passed.add(file.slice(0, 100));
      continue;
    }
    const list = pieces.get(file) ?? [];
    pieces.set(file, list);
    list.push(data);
  }
  const files = new Map<string, Uint8Array>();
  for (const [file, list] of pieces) {
    files.set(file, Buffer.concat(list));
    list.length = 0;
  }
  return { files, passed: [...passed] };
}

/** The architecture that the settings name, if any. Throws where they are not a variant's of this base. */
function readVariantSettings(settings: Uint8Array, limits: ImportLimits): VariantArchitecture | undefined {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(settings).toString('utf8'));
  } catch {
    value = undefined;
  }
  const { format, base_digest: digest, architecture } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  if (format !== 'lorica.variant.v1')
    throw invalidFields([{ field: 'variant.json', description: 'must be a JSON object with "format": "lorica.variant.v1"' }]);
  if (digest !== limits.baseDigest) {
    throw new LoricaError(
      'INVALID_ARGUMENT',
      'ADAPTER_INCOMPATIBLE',
      `the variant belongs to a base with the digest ${String(digest)}; ${limits.baseModel} has ${limits.baseDigest}`,
    );
  }
  return architecture === undefined ? undefined : readArchitecture(architecture);
}

/** Whether the numbers can be the base's is the fit's to say. */
function readArchitecture(value: unknown): VariantArchitecture {
  const {
    layer_origins: layerOrigins,
    intermediate_sizes: intermediateSizes,
    tie_word_embeddings: tieWordEmbeddings,
  } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  if (!isNumbers(layerOrigins) || !isNumbers(intermediateSizes) || typeof tieWordEmbeddings !== 'boolean') {
    throw invalidFields([
      {
        field: 'variant.json: architecture',
        description: 'must hold layer_origins and intermediate_sizes, lists of whole numbers, and tie_word_embeddings',
      },
    ]);
  }
  return { layerOrigins, intermediateSizes, tieWordEmbeddings };
}

function isNumbers(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((one) => Number.isSafeInteger(one) && one >= 0);
}
