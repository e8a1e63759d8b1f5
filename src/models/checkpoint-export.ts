/**
 * Checkpoints out: an opened base, or the base with an adapter or variant merged in, as a Hugging Face folder that transformers
 * loads or as a GGUF file that llama.cpp loads. One tensor is in memory at a time; nothing half-written is left.
 */
import { LoricaError } from '../common/errors.js';
import type { GgufStorage } from '../tensor/gguf-quantize.js';
import type { Checkpoint } from './checkpoint-types.js';
import { writeGgufModel } from './gguf-write.js';
import { writeHfFolder } from './hf-folder-write.js';
import { evenWidths } from './even-widths.js';
import { mergedModel, type WeightChange } from './merged-weights.js';

export type ExportFormat =
  | { readonly kind: 'huggingFace'; readonly dtype: 'float32' | 'float16' | 'bfloat16' }
  | { readonly kind: 'gguf'; readonly storage: GgufStorage };

/**
 * Writes `checkpoint`, with `change` merged in, to `path` (a folder for huggingFace, a file for gguf). Where layers differ in feed-forward
 * width, which neither format can say, all are brought to the widest with neurons that compute nothing. With a classification head the
 * folder is one of the family's class for sequence classification. Throws MODEL_UNSUPPORTED naming what the format can't hold (a GGUF file
 * holds no such head), STORAGE_FULL or STORAGE_FAILED.
 */
export async function exportCheckpoint(checkpoint: Checkpoint, path: string, format: ExportFormat, change?: WeightChange): Promise<void> {
  const { id, tokenizer, tokenizerJson, chatTemplate } = checkpoint;
  const head = change?.head;
  if (head !== undefined && format.kind === 'gguf') {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `a classification head (${head.labels.length} labels) can not be written as GGUF`, {
      hint: 'Export a Hugging Face folder, or the adapter itself.',
    });
  }
  const merged = change === undefined ? checkpoint : mergedModel(checkpoint, change);
  const { config, weights } = evenWidths(merged.config, merged.weights);
  if (format.kind === 'gguf') {
    const template = chatTemplate && { chatTemplate: chatTemplate.source };
    await writeGgufModel(path, { name: id, config, weights, storage: format.storage, tokenizerJson, ...template });
    return;
  }
  const text = (tokenId: number | undefined): string | null => (tokenId === undefined ? null : (tokenizer.token(tokenId) ?? null));
  const tokenizerConfig = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: text(config.bosTokenId),
    eos_token: text(config.eosTokenIds[0]),
    model_max_length: config.maxPositionTokens,
    clean_up_tokenization_spaces: false,
    ...(head && { pad_token: text(config.eosTokenIds[0]) }),
    ...(chatTemplate && { chat_template: chatTemplate.source }),
  };
  await writeHfFolder(path, { config, tensors: weights, dtype: format.dtype, tokenizerJson, tokenizerConfig, ...(head && { head }) });
}
