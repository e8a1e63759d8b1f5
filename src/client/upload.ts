/** Client streams as one call each: a header, then chunks of at most 1 MiB, sent no faster than the server takes them. */
import { createHash } from 'node:crypto';
import { DatasetServiceService, UploadDatasetHeader, type UploadDatasetRequest } from '../gen/lorica/v1/dataset_service.js';
import { EmbeddingServiceService, UploadEmbeddingsHeader, type Embeddings, type UploadEmbeddingsRequest } from '../gen/lorica/v1/embedding_service.js';
import { AdapterServiceService, ImportAdapterHeader, type ImportAdapterRequest } from '../gen/lorica/v1/adapter_service.js';
import type { AdapterVersion, Dataset } from '../gen/lorica/v1/resources.js';
import type { FileChunk } from '../gen/lorica/v1/types.js';
import { toCallError } from './call-error.js';
import { callMetadata, callOptions, cancelOn, type CallSettings, type Channel, type DeepPartial } from './stub.js';

const CHUNK_BYTES = 1 << 20;

function* chunksOf(bytes: Uint8Array): Generator<FileChunk> {
  for (let offset = 0; offset < bytes.length; offset += CHUNK_BYTES)
    yield { offset, data: Buffer.from(bytes.subarray(offset, offset + CHUNK_BYTES)) };
}

/** Uploads a file as a dataset. The digest is added to the header, so that what is stored is what was sent. */
export function uploadDataset(
  channel: Channel,
  header: DeepPartial<UploadDatasetHeader>,
  bytes: Uint8Array,
  settings: CallSettings = {},
): Promise<Dataset> {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const messages = function* (): Generator<UploadDatasetRequest> {
    yield { payload: { $case: 'header', value: UploadDatasetHeader.fromPartial({ sha256, ...header } as UploadDatasetHeader) } };
    for (const chunk of chunksOf(bytes)) yield { payload: { $case: 'chunk', value: chunk } };
  };
  return send<UploadDatasetRequest, Dataset>(channel, DatasetServiceService.uploadDataset, messages(), settings);
}

/** Imports an adapter's files by name, such as adapter_config.json and adapter_model.safetensors. */
export function importAdapter(
  channel: Channel,
  header: DeepPartial<ImportAdapterHeader>,
  files: Readonly<Record<string, Uint8Array>>,
  settings: CallSettings = {},
): Promise<AdapterVersion> {
  const messages = function* (): Generator<ImportAdapterRequest> {
    yield { payload: { $case: 'header', value: ImportAdapterHeader.fromPartial(header as ImportAdapterHeader) } };
    for (const [file, bytes] of Object.entries(files))
      for (const chunk of chunksOf(bytes)) yield { payload: { $case: 'chunk', value: { file, chunk } } };
  };
  return send<ImportAdapterRequest, AdapterVersion>(channel, AdapterServiceService.importAdapter, messages(), settings);
}

/** Uploads word vectors: one GloVe or word2vec file, or the files of a BERT checkpoint (safetensors with vocab.txt or tokenizer.json), by name. */
export function uploadEmbeddings(
  channel: Channel,
  header: DeepPartial<UploadEmbeddingsHeader>,
  files: Readonly<Record<string, Uint8Array>>,
  settings: CallSettings = {},
): Promise<Embeddings> {
  const messages = function* (): Generator<UploadEmbeddingsRequest> {
    yield { payload: { $case: 'header', value: UploadEmbeddingsHeader.fromPartial(header as UploadEmbeddingsHeader) } };
    for (const [file, bytes] of Object.entries(files))
      for (const chunk of chunksOf(bytes)) yield { payload: { $case: 'chunk', value: { file, chunk } } };
  };
  return send<UploadEmbeddingsRequest, Embeddings>(channel, EmbeddingServiceService.uploadEmbeddings, messages(), settings);
}

interface Definition<Q, R> {
  readonly path: string;
  readonly requestSerialize: (message: Q) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => R;
}

async function send<Q, R>(channel: Channel, method: Definition<Q, R>, messages: Iterable<Q>, settings: CallSettings): Promise<R> {
  let ended = false;
  let wake: () => void = () => undefined;
  let undo: () => void = () => undefined;
  const answer = new Promise<R>((resolve, reject) => {
    const call = channel.client.makeClientStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      callMetadata(channel, settings),
      callOptions(settings),
      (error, value) => {
        ended = true;
        wake();
        if (error === null) resolve(value as R);
        else reject(toCallError(error));
      },
    );
    // A stream that the server has ended already: its status comes through the callback.
    call.on('error', () => undefined);
    undo = cancelOn(settings.signal, call);
    const feed = async (): Promise<void> => {
      for (const message of messages) {
        if (ended) return;
        if (!call.write(message)) await new Promise<void>((resume) => call.once('drain', (wake = resume)));
      }
      if (!ended) call.end();
    };
    feed().catch(reject);
  });
  return answer.finally(undo);
}
