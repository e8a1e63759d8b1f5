/** Opens a checkpoint: decides what lies at the path, reads all but the weights, and checks that the parts fit together. */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { LoricaError } from '../common/errors.js';
import { readGgufHeader } from '../tensor/gguf.js';
import { openForReading } from '../tensor/file-range.js';
import { compileChatTemplate, type ChatTemplate } from './chat-template.js';
import type { Checkpoint, OpenOptions } from './checkpoint-types.js';
import { parseHfConfig, type DecoderConfig } from './config.js';
import { sha256File, sha256Files } from './file-digest.js';
import { ggufWeights, readGgufConfig } from './gguf-model.js';
import { openHfWeights, readHfFolder, type HfFolder } from './hf-folder.js';
import { createTokenizer, type Tokenizer } from './tokenizer.js';
import { tokenizerJsonFromGguf } from './tokenizer-gguf.js';

/**
 * `path` is a Hugging Face folder or a GGUF file. Throws CHECKPOINT_MISSING, CHECKPOINT_CORRUPT, MODEL_UNSUPPORTED (naming the
 * feature), INVALID_FIELD (an impossible config) or TOKENIZER_INVALID.
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  const full = resolve(path);
  const found = await stat(full).catch((cause: unknown) => {
    throw new LoricaError('NOT_FOUND', 'CHECKPOINT_MISSING', `there is no model at ${full}`, {
      cause,
      hint: 'Give a Hugging Face folder or a .gguf file, or fetch one with "lorica models pull".',
    });
  });
  if (found.isDirectory()) return openFolder(full, options);
  if (full.endsWith('.safetensors')) {
    throw new LoricaError('INVALID_ARGUMENT', 'CHECKPOINT_MISSING', `${full} holds weights only`, { hint: 'Give the folder that also holds config.json and tokenizer.json.' });
  }
  return openGguf(full, options);
}

async function openGguf(path: string, options: OpenOptions): Promise<Checkpoint> {
  const gguf = await readGgufHeader(path);
  const file = await openForReading(path);
  const digest = digestBeside(options, (signal) => sha256File(path, signal));
  try {
    const config = await readGgufConfig(gguf, file);
    const weights = ggufWeights(gguf, file, config);
    const tokenizerJson = tokenizerJsonFromGguf(gguf.metadata, path);
    const tokenizer = createTokenizer({
      json: tokenizerJson,
      ...(config.bosTokenId !== undefined && { bosTokenId: config.bosTokenId }),
      eosTokenIds: config.eosTokenIds,
      label: path,
    });
    checkVocabulary(path, config, tokenizer);
    const template = gguf.metadata.get('tokenizer.chat_template');
    return {
      id: options.id ?? basename(path).replace(/\.gguf$/, ''),
      config,
      weights,
      tokenizer,
      tokenizerJson,
      chatTemplate: typeof template === 'string' ? chatTemplate(template, tokenizer) : undefined,
      digest: await digest.done,
      path,
      close: () => file.close(),
    };
  } catch (error) {
    digest.stop();
    await file.close();
    throw error;
  }
}

async function openFolder(path: string, options: OpenOptions): Promise<Checkpoint> {
  const folder = await readHfFolder(path);
  const parsed = parseHfConfig(folder.config);
  const digest = digestBeside(options, (signal) => folderDigest(folder, signal));
  try {
    return await openWithDigest(path, options, folder, parsed, digest.done);
  } catch (error) {
    digest.stop();
    throw error;
  }
}

async function openWithDigest(path: string, options: OpenOptions, folder: HfFolder, parsed: DecoderConfig, digest: Promise<string>): Promise<Checkpoint> {
  const tokenizer = createTokenizer({ json: folder.tokenizer, ...specialIds(folder, parsed), label: path });
  const config: DecoderConfig = { ...parsed, ...(tokenizer.bosTokenId !== undefined && { bosTokenId: tokenizer.bosTokenId }), eosTokenIds: tokenizer.eosTokenIds };
  checkVocabulary(path, config, tokenizer);
  const { weights, close } = await openHfWeights(folder, config);
  try {
    return {
      id: options.id ?? basename(path),
      config,
      weights,
      tokenizer,
      tokenizerJson: folder.tokenizer,
      chatTemplate: folder.chatTemplate === undefined ? undefined : chatTemplate(folder.chatTemplate, tokenizer),
      digest: await digest,
      path,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** bos and eos as ids: what generation_config.json, config.json and tokenizer_config.json say, together. */
function specialIds(folder: HfFolder, config: DecoderConfig): { bosTokenId?: number; eosTokenIds: readonly number[] } {
  const added = (folder.tokenizer as { added_tokens?: { id: number; content: string }[] } | null)?.added_tokens ?? [];
  const byText = (value: unknown): number | undefined => {
    const text = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
    return added.find((token) => token.content === text)?.id;
  };
  const generation = folder.generationConfig['eos_token_id'];
  const fromGeneration = (Array.isArray(generation) ? generation : [generation]).filter((id): id is number => Number.isInteger(id));
  const bosTokenId = byText(folder.tokenizerConfig['bos_token']) ?? config.bosTokenId;
  const eos = [...fromGeneration, ...config.eosTokenIds, byText(folder.tokenizerConfig['eos_token'])];
  return { ...(bosTokenId !== undefined && { bosTokenId }), eosTokenIds: [...new Set(eos.filter((id) => id !== undefined))] };
}

/** Rows of an embedding beyond the tokenizer's are padding; this many at most, or a fiftieth of the vocabulary. */
const PADDING_ROWS = 64;

function checkVocabulary(path: string, config: DecoderConfig, tokenizer: Tokenizer): void {
  const spare = config.vocabSize - tokenizer.vocabSize;
  if (spare >= 0 && spare <= Math.max(PADDING_ROWS, config.vocabSize / 50)) return;
  throw new LoricaError(
    'INVALID_ARGUMENT',
    'TOKENIZER_INVALID',
    `the tokenizer of ${path} has ${tokenizer.vocabSize} tokens, the model's embedding ${config.vocabSize} rows`,
    { hint: 'Tokenizer and weights come from different models; fetch both again.' },
  );
}

function chatTemplate(source: string, tokenizer: Tokenizer): ChatTemplate {
  const text = (id: number | undefined): string => (id === undefined ? '' : (tokenizer.token(id) ?? ''));
  return compileChatTemplate(source, { bosToken: text(tokenizer.bosTokenId), eosToken: text(tokenizer.eosTokenIds[0]) });
}

/** The digest that is known, or one that is computed while the rest is opened; `stop` ends that. */
function digestBeside(options: OpenOptions, compute: (signal: AbortSignal) => Promise<string>): { done: Promise<string>; stop: () => void } {
  const abort = new AbortController();
  const done = options.knownDigest === undefined ? compute(abort.signal).then((hex) => `sha256:${hex}`) : Promise.resolve(options.knownDigest);
  // Whoever opens hears of it by `done`, unless something else failed before.
  done.catch(() => undefined);
  return { done, stop: () => abort.abort() };
}

async function folderDigest(folder: HfFolder, signal: AbortSignal): Promise<string> {
  const digests = await sha256Files(folder.files.map((name) => join(folder.path, name)), signal);
  const hash = createHash('sha256');
  folder.files.forEach((name, i) => hash.update(`${digests[i]!}  ${name}\n`));
  return hash.digest('hex');
}
