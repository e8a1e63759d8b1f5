/**
 * What the registry holds: adapters (a name, mutable labels), their immutable content-addressed versions, and aliases that point to one
 * version each. Content is either LoRA matrices or whole changed tensors (a variant).
 */
import type { HostTensor } from '../tensor/host-tensor.js';

export type AdapterKind = 'lora' | 'variant';

export interface LoraModule {
  /** The base's linear layer, e.g. 'model.layers.0.self_attn.q_proj'. */
  readonly module: string;
  readonly rank: number;
  /** The product b·a is multiplied by this: alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA. A version keeps it as float32. */
  readonly scaling: number;
  /** [rank, in], row-major. */
  readonly a: Float32Array;
  /** [out, rank], row-major. */
  readonly b: Float32Array;
}

/** Scores labels from the final hidden state h of a text's last token: logits = weight · h, as transformers' *ForSequenceClassification. */
export interface ClassificationHead {
  /** 2 to 1,000, distinct; the order is that of the rows of `weight`. */
  readonly labels: readonly string[];
  /** What is read of a text; `{text}` stands for it. */
  readonly template: string;
  /** [labels, C], row-major. */
  readonly weight: Float32Array;
}

/** LoRA matrices (Hu et al. 2021) by module name; none where there is only a head. */
export interface LoraInput {
  readonly kind: 'lora';
  readonly modules: ReadonlyMap<string, LoraModule>;
  readonly head?: ClassificationHead;
}

/** How a variant's model differs from its base in more than the values of tensors. */
export interface VariantArchitecture {
  /** Of every layer the base's layer whose tensors it has where the variant holds none of its own. */
  readonly layerOrigins: readonly number[];
  /** Inner width of every layer's feed-forward unit. */
  readonly intermediateSizes: readonly number[];
  /** False where the base's is true: the head is a tensor of its own, by default the base's embedding. */
  readonly tieWordEmbeddings: boolean;
}

/** Tensors that differ from the base's under their Hugging Face names; float32, float16 or bfloat16. */
export interface VariantInput {
  readonly kind: 'variant';
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly head?: ClassificationHead;
  /** Absent where it is the base's. */
  readonly architecture?: VariantArchitecture;
}

export type AdapterContent =
  | { readonly kind: 'lora'; readonly digest: string; readonly modules: ReadonlyMap<string, LoraModule>; readonly head?: ClassificationHead }
  | (VariantInput & { readonly digest: string });

export interface Adapter {
  /** tenants/{tenant}/adapters/{id} */
  readonly name: string;
  readonly tenant: string;
  readonly id: string;
  readonly displayName: string;
  readonly description: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly createTime: Date;
  readonly updateTime: Date;
  readonly etag: string;
}

export interface AdapterVersion {
  /** tenants/{tenant}/adapters/{adapter}/versions/{64 hex digits} */
  readonly name: string;
  readonly tenant: string;
  readonly adapter: string;
  /** 'sha256:…' over the canonical content (see manifest.ts). */
  readonly digest: string;
  readonly kind: AdapterKind;
  readonly baseModel: string;
  readonly baseDigest: string;
  /** Size of the stored tensors. */
  readonly bytes: number;
  readonly parameterCount: number;
  readonly tuningJob?: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createTime: Date;
}

export interface AdapterAlias {
  /** tenants/{tenant}/adapters/{adapter}/aliases/{alias} */
  readonly name: string;
  readonly tenant: string;
  readonly adapter: string;
  readonly alias: string;
  /** Digest of the version it points to. */
  readonly digest: string;
  readonly updateTime: Date;
  readonly etag: string;
}

export type AliasMoveReason = 'set' | 'promote' | 'rollback';

export interface AliasMove {
  readonly tenant: string;
  readonly adapter: string;
  readonly alias: string;
  readonly from?: string;
  readonly to: string;
  readonly reason: AliasMoveReason;
  readonly time: Date;
}

/** One piece of one file of an adapter folder; pieces of a file come in order, files one after another. */
export interface FilePiece {
  readonly file: string;
  readonly data: Uint8Array;
}

/** Every tensor of the base by its Hugging Face name, e.g. 'model.layers.0.self_attn.q_proj.weight' → [out, in]. */
export type BaseShapes = ReadonlyMap<string, readonly number[]>;

/** What content may hold and must hold on a base. */
export interface Fit {
  /** Every tensor of the model. */
  readonly shapes: BaseShapes;
  /** Tensors that the base has no values for. */
  readonly required: ReadonlySet<string>;
}

/** The model that a variant of this architecture is, the base itself without one. Throws ADAPTER_INCOMPATIBLE for one that the base can't have. */
export type FitOf = (architecture: VariantArchitecture | undefined) => Fit;
