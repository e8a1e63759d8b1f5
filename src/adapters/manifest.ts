/**
 * What a version's digest is taken over: a small canonical JSON text that names the base, the settings that change the output, and the digest of the
 * tensor file. The file is canonical too (float32 LoRA matrices under PEFT's names, or a variant's tensors as they are; sorted; no metadata), so equal
 * content has one digest however it came: tuned here, or imported as another dtype or with other irrelevant settings.
 * Invariant: the text is never changed after publication; `digestOf(text)` is the version's digest.
 */
import { createHash } from 'node:crypto';
import type { HeadLabels } from './classification-head.js';
import type { LoraInput, VariantArchitecture, VariantInput } from './adapter.js';

export interface Manifest {
  readonly format: 'lorica.adapter.v1';
  readonly kind: 'lora' | 'variant';
  readonly baseDigest: string;
  /** LoRA only, sorted by module; scalings rounded to float32, which export to PEFT's alpha and back without loss. */
  readonly modules: readonly { readonly module: string; readonly rank: number; readonly scaling: number }[];
  readonly tensors: { readonly sha256: string; readonly bytes: number };
  /** Variants whose architecture is not the base's; the key is absent in all others. */
  readonly architecture?: VariantArchitecture;
  /** Of a classification head, its tensor in the file; the key is absent in content without one. */
  readonly head?: HeadLabels;
}

export function manifestText(content: LoraInput | VariantInput, baseDigest: string, tensors: Manifest['tensors']): string {
  const modules = content.kind === 'lora' ? [...content.modules.values()] : [];
  const manifest: Manifest = {
    format: 'lorica.adapter.v1',
    kind: content.kind,
    baseDigest,
    modules: modules
      .map(({ module, rank, scaling }) => ({ module, rank, scaling: Math.fround(scaling) }))
      .sort((a, b) => (a.module < b.module ? -1 : 1)),
    tensors: { sha256: tensors.sha256, bytes: tensors.bytes },
    ...(content.kind === 'variant' && content.architecture !== undefined && { architecture: canonicalArchitecture(content.architecture) }),
    ...(content.head !== undefined && { head: { labels: [...content.head.labels], template: content.head.template } }),
  };
  return JSON.stringify(manifest);
}

/** Its fields in the one order in which they are written. */
export function canonicalArchitecture({ layerOrigins, intermediateSizes, tieWordEmbeddings }: VariantArchitecture): VariantArchitecture {
  return { layerOrigins: [...layerOrigins], intermediateSizes: [...intermediateSizes], tieWordEmbeddings };
}

export function digestOf(manifest: string): string {
  return `sha256:${createHash('sha256').update(manifest).digest('hex')}`;
}
