/** EmbeddingService: word vectors in files, checked as they come; nothing is stored unless all of it can be read. */
import { invalidFields } from '../common/errors.js';
import type { Embeddings, EmbeddingStore } from '../datasets/index.js';
import * as proto from '../gen/lorica/v1/embedding_service.js';
import type { CallContext, Handlers } from './call.js';
import { Fields } from './fields.js';
import { FilePieces } from './file-chunks.js';
import { needName, parseName, type ParsedName } from './names.js';
import type { Once } from './once.js';

export interface EmbeddingDependencies {
  readonly embeddings: EmbeddingStore;
  readonly once: Once;
  readonly maxDatasetBytes: number;
}

const FORMATS = {
  glove: proto.EmbeddingsFormat.EMBEDDINGS_FORMAT_GLOVE,
  word2vec: proto.EmbeddingsFormat.EMBEDDINGS_FORMAT_WORD2VEC,
  'word2vec-binary': proto.EmbeddingsFormat.EMBEDDINGS_FORMAT_WORD2VEC_BINARY,
  bert: proto.EmbeddingsFormat.EMBEDDINGS_FORMAT_BERT,
} as const;

function embeddingsMessage({ name, format, words, continuations, dimension, files, createTime }: Embeddings): proto.Embeddings {
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  return { name, format: FORMATS[format], words, continuations, dimension, bytes, createTime, files: files.map((file) => ({ ...file })) };
}

async function* pieces(rest: AsyncIterator<proto.UploadEmbeddingsRequest>): AsyncGenerator<{ file: string; data: Uint8Array }> {
  const files = new FilePieces();
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) {
    if (next.value.payload?.$case !== 'chunk')
      throw invalidFields([{ field: 'payload', description: 'messages after the header must hold chunks' }]);
    yield files.accept(next.value.payload.value);
  }
}

export function embeddingHandlers({ embeddings, once, maxDatasetBytes }: EmbeddingDependencies): Handlers<typeof proto.EmbeddingServiceService> {
  const name = (value: string, context: CallContext, fields = new Fields()): ParsedName =>
    needName('embeddings', 'name', value, context.identity, fields);

  return {
    uploadEmbeddings: async (requests, context) => {
      const rest = requests[Symbol.asyncIterator]();
      const first = await rest.next();
      if (first.done === true || first.value.payload?.$case !== 'header')
        throw invalidFields([{ field: 'payload', description: 'the first message must hold the header' }]);
      const header = first.value.payload.value;
      const fields = new Fields();
      const parent = parseName('tenant', 'header.parent', header.parent, context.identity, fields);
      fields.id('header.embeddings_id', header.embeddingsId);
      fields.done();
      const options = { maxBytes: maxDatasetBytes, signal: context.signal };
      return embeddingsMessage(await embeddings.upload(parent!.tenant, header.embeddingsId, pieces(rest), options));
    },
    getEmbeddings: async (request, context) => {
      const { tenant, ids } = name(request.name, context);
      return embeddingsMessage(await embeddings.get(tenant, ids[0]!));
    },
    listEmbeddings: async (request, context) => {
      const fields = new Fields();
      fields.page(request.pageSize);
      const { tenant } = needName('tenant', 'parent', request.parent, context.identity, fields);
      const page = await embeddings.list({ tenant, pageSize: request.pageSize, pageToken: request.pageToken });
      return { embeddings: page.items.map(embeddingsMessage), nextPageToken: page.nextPageToken };
    },
    deleteEmbeddings: async (request, context) => {
      const fields = new Fields();
      fields.requestId('request_id', request.requestId);
      const parsed = name(request.name, context, fields);
      return once.run(
        context,
        request,
        { name: parsed.name },
        {
          first: async () => {
            await embeddings.delete(parsed.tenant, parsed.ids[0]!);
            return {};
          },
          nameOf: () => parsed.name,
          again: async () => ({}),
        },
      );
    },
  };
}
