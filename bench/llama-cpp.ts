/**
 * llama.cpp as a peer: its C library (include/llama.h of v0.5.0, as npm's @node-llama-cpp packages build it) called directly, so that its
 * own figures are measured and not those of a wrapper. Reads GGUF files, gives logits, and quantizes files with llama.cpp's quantizer.
 * `npm ci --prefix bench` installs it; nothing of the product imports this.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { packageRoot } from '../src/config/package-root.js';

/** A typed array of 64 bytes or less may lie on the moving heap; llama.cpp is given addresses. */
const LEAST_ELEMENTS = 128;
const TYPE_F32 = 0;
const TYPE_F16 = 1;
const FLASH_ATTENTION_OFF = 0;

/** `enum llama_ftype`. */
const FILE_TYPES = { F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 7 } as const;
export type LlamaFileType = keyof typeof FILE_TYPES;

type TypeSpec = Parameters<typeof koffi.alias>[1];
type Native = (...values: unknown[]) => unknown;

interface Library {
  readonly load: Native;
  readonly freeModel: Native;
  readonly createContext: Native;
  readonly freeContext: Native;
  readonly decode: Native;
  readonly logits: Native;
  readonly memory: Native;
  readonly clear: Native;
  readonly modelDefaults: Native;
  readonly contextDefaults: Native;
  readonly quantize: Native;
  readonly quantizeDefaults: Native;
  readonly vocabulary: Native;
  readonly vocabularySize: Native;
  /** Never unloaded: its threads do not survive that. */
  readonly handles: readonly unknown[];
}

let loaded: Library | undefined;

/** The folder of the prebuilt libraries. Throws when they are not installed. */
function folder(): string {
  const platform = `${process.platform === 'darwin' ? 'mac' : process.platform}-${process.arch}`;
  const path = join(packageRoot(), 'bench', 'node_modules', '@node-llama-cpp', platform, 'bins', platform);
  if (!existsSync(path)) throw new Error(`llama.cpp is not installed at ${path}: run npm ci --prefix bench`);
  return path;
}

function library(): Library {
  if (loaded !== undefined) return loaded;
  const at = folder();
  const ggml = koffi.load(join(at, 'libggml.v0.5.0.so'));
  const llama = koffi.load(join(at, 'libllama.v0.5.0.so'));
  const model = koffi.struct('llama_model_params', {
    devices: 'void *', tensor_buft_overrides: 'void *', n_gpu_layers: 'int32_t', split_mode: 'int', load_mode: 'int', lazy_mode: 'int', main_gpu: 'int32_t',
    tensor_split: 'void *', progress_callback: 'void *', progress_callback_user_data: 'void *', kv_overrides: 'void *',
    vocab_only: 'bool', check_tensors: 'bool', use_extra_bufts: 'bool', no_host: 'bool', no_alloc: 'bool', load_mtp: 'bool',
  });
  const context = koffi.struct('llama_context_params', {
    n_ctx: 'uint32_t', n_batch: 'uint32_t', n_ubatch: 'uint32_t', n_seq_max: 'uint32_t', n_rs_seq: 'uint32_t', n_outputs_max: 'uint32_t',
    n_outputs_max_per_seq: 'uint32_t', n_threads: 'int32_t', n_threads_batch: 'int32_t', ctx_type: 'int', rope_scaling_type: 'int', pooling_type: 'int',
    attention_type: 'int', flash_attn_type: 'int', rope_freq_base: 'float', rope_freq_scale: 'float', yarn_ext_factor: 'float', yarn_attn_factor: 'float',
    yarn_beta_fast: 'float', yarn_beta_slow: 'float', yarn_orig_ctx: 'uint32_t', defrag_thold: 'float', cb_eval: 'void *', cb_eval_user_data: 'void *',
    type_k: 'int', type_v: 'int', abort_callback: 'void *', abort_callback_data: 'void *', embeddings: 'bool', offload_kqv: 'bool', no_perf: 'bool',
    op_offload: 'bool', swa_full: 'bool', kv_unified: 'bool', samplers: 'void *', n_samplers: 'size_t', ctx_other: 'void *',
  });
  const quantize = koffi.struct('llama_model_quantize_params', {
    nthread: 'int32_t', ftype: 'int', output_tensor_type: 'int', token_embedding_type: 'int', allow_requantize: 'bool', quantize_output_tensor: 'bool',
    only_copy: 'bool', pure: 'bool', keep_split: 'bool', dry_run: 'bool', imatrix: 'void *', kv_overrides: 'void *', tt_overrides: 'void *',
    prune_layers: 'void *', max_buf_size: 'size_t',
  });
  const batch = koffi.struct('llama_batch', {
    n_tokens: 'int32_t', token: 'void *', embd: 'void *', pos: 'void *', n_seq_id: 'void *', seq_id: 'void *', logits: 'void *',
  });
  const silent = koffi.proto('void llama_log(int level, const char *text, void *data)');
  const logger = koffi.register(() => undefined, koffi.pointer(silent));
  (llama.func('llama_log_set', 'void', ['void *', 'void *']) as Native)(logger, null);
  (ggml.func('ggml_backend_load_all_from_path', 'void', ['str']) as Native)(at);
  (llama.func('llama_backend_init', 'void', []) as Native)();
  const bind = (name: string, result: TypeSpec, parameters: TypeSpec[]): Native => llama.func(name, result, parameters) as Native;
  loaded = {
    load: bind('llama_model_load_from_file', 'void *', ['str', model]),
    freeModel: bind('llama_model_free', 'void', ['void *']),
    createContext: bind('llama_init_from_model', 'void *', ['void *', context]),
    freeContext: bind('llama_free', 'void', ['void *']),
    decode: bind('llama_decode', 'int32_t', ['void *', batch]),
    logits: bind('llama_get_logits', 'void *', ['void *']),
    memory: bind('llama_get_memory', 'void *', ['void *']),
    clear: bind('llama_memory_clear', 'void', ['void *', 'bool']),
    modelDefaults: bind('llama_model_default_params', model, []),
    contextDefaults: bind('llama_context_default_params', context, []),
    quantize: bind('llama_model_quantize', 'uint32_t', ['str', 'str', koffi.pointer(quantize)]),
    quantizeDefaults: bind('llama_model_quantize_default_params', quantize, []),
    vocabulary: bind('llama_model_get_vocab', 'void *', ['void *']),
    vocabularySize: bind('llama_vocab_n_tokens', 'int32_t', ['void *']),
    handles: [ggml, llama],
  };
  return loaded;
}

export interface LlamaOptions {
  readonly contextTokens: number;
  readonly threads: number;
  /** Of the KV cache; llama.cpp's default is float16. */
  readonly cache?: 'float32' | 'float16';
}

/** One model with one sequence. */
export class LlamaModel {
  readonly vocabSize: number;
  readonly #library: Library;
  readonly #model: unknown;
  readonly #context: unknown;
  /** Of a batch; fields, because a local array may be collected as soon as its address is taken. */
  readonly #ids: Int32Array;
  readonly #wanted: Int8Array;

  /** Loads a GGUF file, mapped as llama.cpp does by default. Throws when llama.cpp refuses it. */
  constructor(path: string, { contextTokens, threads, cache = 'float32' }: LlamaOptions) {
    this.#library = library();
    const model = this.#library.load(path, this.#library.modelDefaults());
    if (model === null) throw new Error(`llama.cpp does not load ${path}`);
    this.#model = model;
    this.#ids = new Int32Array(Math.max(contextTokens, LEAST_ELEMENTS));
    this.#wanted = new Int8Array(Math.max(contextTokens, LEAST_ELEMENTS));
    const type = cache === 'float32' ? TYPE_F32 : TYPE_F16;
    this.#context = this.#library.createContext(model, {
      ...(this.#library.contextDefaults() as object),
      n_ctx: contextTokens, n_batch: contextTokens, n_ubatch: Math.min(contextTokens, 512), n_threads: threads, n_threads_batch: threads,
      type_k: type, type_v: type, ...(cache === 'float32' && { flash_attn_type: FLASH_ATTENTION_OFF }),
    });
    if (this.#context === null) throw new Error(`llama.cpp makes no context for ${path}`);
    this.vocabSize = this.#library.vocabularySize(this.#library.vocabulary(model)) as number;
  }

  /** Feeds tokens after those fed before; logits [tokens, V], or of the last token alone [1, V]. */
  decode(tokens: readonly number[], which: 'all' | 'last'): Float32Array {
    this.#ids.set(tokens);
    this.#wanted.fill(which === 'all' ? 1 : 0);
    this.#wanted[tokens.length - 1] = 1;
    const batch = {
      n_tokens: tokens.length, token: koffi.address(this.#ids), embd: null, pos: null, n_seq_id: null, seq_id: null, logits: koffi.address(this.#wanted),
    };
    const status = this.#library.decode(this.#context, batch) as number;
    if (status !== 0) throw new Error(`llama_decode gave ${status} for ${tokens.length} tokens`);
    return koffi.decode(this.#library.logits(this.#context), 'float', (which === 'all' ? tokens.length : 1) * this.vocabSize) as Float32Array;
  }

  /** Forgets all tokens. */
  clear(): void {
    this.#library.clear(this.#library.memory(this.#context), true);
  }

  dispose(): void {
    this.#library.freeContext(this.#context);
    this.#library.freeModel(this.#model);
  }
}

/** Writes `target`, a GGUF file quantized by llama.cpp from `source` (F32 or F16), with llama.cpp's own choice of type per tensor. */
export function quantizeGguf(source: string, target: string, type: LlamaFileType, threads: number): void {
  const { quantize, quantizeDefaults } = library();
  const status = quantize(source, target, { ...(quantizeDefaults() as object), ftype: FILE_TYPES[type], nthread: threads }) as number;
  if (status !== 0) throw new Error(`llama.cpp gave ${status} quantizing ${source} to ${type}`);
}
