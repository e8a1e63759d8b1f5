/** ModelService: base models. Everybody reads; importing, exporting and deleting need the role `operator`. */
import { LoricaError } from '../common/errors.js';
import { ExportType, type ExportCheckpointRequest, type ImportModelResponse, type ModelServiceService } from '../gen/lorica/v1/model_service.js';
import type { CallContext, Handlers } from './call.js';
import { Fields } from './fields.js';
import { modelName, parseModelName } from './names.js';
import type { Once } from './once.js';
import type { ExportFormat, ImportProgress, ModelInfo, ModelLibrary } from './ports.js';
import { modelMessage } from './resources.js';
import type { Targets } from './targets.js';

export interface ModelDependencies {
  readonly models: ModelLibrary;
  readonly targets: Targets;
  readonly once: Once;
}

/** Progress messages are at least this far apart. */
const PROGRESS_MS = 250;

function needOperator({ identity }: CallContext): void {
  if (identity.roles.includes('operator')) return;
  throw new LoricaError('PERMISSION_DENIED', 'PERMISSION_DENIED', 'importing, exporting and deleting base models needs a key with the role operator', {
    hint: 'lorica keys create --tenant TENANT --role operator makes one.',
  });
}

const HUGGING_FACE_TYPES: Partial<Record<ExportType, 'float32' | 'float16' | 'bfloat16'>> = {
  [ExportType.EXPORT_TYPE_UNSPECIFIED]: 'bfloat16',
  [ExportType.EXPORT_TYPE_FLOAT32]: 'float32',
  [ExportType.EXPORT_TYPE_FLOAT16]: 'float16',
  [ExportType.EXPORT_TYPE_BFLOAT16]: 'bfloat16',
};

const GGUF_TYPES: Partial<Record<ExportType, 'float32' | 'float16' | 'q8_0'>> = {
  [ExportType.EXPORT_TYPE_UNSPECIFIED]: 'float16',
  [ExportType.EXPORT_TYPE_FLOAT32]: 'float32',
  [ExportType.EXPORT_TYPE_FLOAT16]: 'float16',
  [ExportType.EXPORT_TYPE_Q8_0]: 'q8_0',
};

function readFormat(format: ExportCheckpointRequest['format'], fields: Fields): ExportFormat | undefined {
  if (format === undefined) {
    fields.add('format', 'is required: hugging_face or gguf');
    return undefined;
  }
  if (format.$case === 'huggingFace') {
    const type = HUGGING_FACE_TYPES[format.value.type];
    fields.check('hugging_face.type', type !== undefined, 'must be float32, float16 or bfloat16');
    return type && { kind: 'huggingFace', type };
  }
  const type = GGUF_TYPES[format.value.type];
  fields.check('gguf.type', type !== undefined, 'must be float32, float16 or Q8_0');
  return type && { kind: 'gguf', type };
}

export function modelHandlers({ models, targets, once }: ModelDependencies): Handlers<typeof ModelServiceService> {
  return {
    getModel: async (request) => {
      const fields = new Fields();
      const id = parseModelName('name', request.name, fields);
      fields.done();
      return modelMessage(await models.get(id!));
    },
    listModels: async (request) => {
      const fields = new Fields();
      fields.page(request.pageSize);
      const after = request.pageToken === '' ? '' : Buffer.from(request.pageToken, 'base64url').toString('utf8');
      fields.check('page_token', after === '' || after.startsWith('models/'), 'is not a token of this list');
      fields.done();
      const size = request.pageSize === 0 ? 50 : request.pageSize;
      const rest = (await models.list()).filter(({ id }) => modelName(id) > after);
      const page = rest.slice(0, size);
      const last = page.at(-1);
      return {
        models: page.map(modelMessage),
        nextPageToken: rest.length > size && last !== undefined ? Buffer.from(modelName(last.id)).toString('base64url') : '',
      };
    },
    async *importModel(request, context) {
      needOperator(context);
      const fields = new Fields();
      const { source } = request;
      if (source === undefined) fields.add('source', 'is required: path, catalogue_id or hub');
      fields.modelId('model_id', request.modelId, { optional: source?.$case === 'catalogueId' });
      if (source?.$case === 'path') fields.check('path', source.value.startsWith('/'), 'must be an absolute path on the server');
      fields.done();
      yield* progressing((report) => {
        const { modelId } = request;
        if (source!.$case === 'path') return models.importPath(modelId, source!.value);
        if (source!.$case === 'hub') return models.importHub(source!.value, modelId, report, context.signal);
        return models.importCatalogue(source!.value, modelId === '' ? undefined : modelId, report, context.signal);
      });
    },
    async *exportCheckpoint(request, context) {
      needOperator(context);
      const fields = new Fields();
      const format = readFormat(request.format, fields);
      fields.done();
      const { resolved, servedBy } = await targets.resolve(request.target, 'target', context.identity);
      const written = await models.export(resolved.modelId, await resolved.adapter?.load(), format!);
      try {
        yield { payload: { $case: 'header', value: { source: servedBy, files: [...written.files] } } };
        for (const { name } of written.files) {
          let offset = 0;
          for await (const data of written.read(name)) {
            yield { payload: { $case: 'chunk', value: { file: name, chunk: { offset, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength) } } } };
            offset += data.length;
          }
        }
      } finally {
        await written.dispose();
      }
    },
    deleteModel: async (request, context) => {
      needOperator(context);
      const fields = new Fields();
      fields.requestId('request_id', request.requestId);
      const id = parseModelName('name', request.name, fields);
      fields.done();
      return once.run(
        context,
        request,
        { name: request.name },
        {
          first: async () => {
            await models.remove(id!);
            return {};
          },
          nameOf: () => request.name,
          again: async () => ({}),
        },
      );
    },
  };
}

/** Runs `work` and yields the newest progress now and then, last the model. */
async function* progressing(work: (report: (progress: ImportProgress) => void) => Promise<ModelInfo>): AsyncGenerator<ImportModelResponse> {
  let newest: ImportProgress | undefined;
  let ended = false;
  const done = work((progress) => {
    newest = progress;
  }).finally(() => {
    ended = true;
  });
  done.catch(() => undefined);
  while (!ended) {
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([done.catch(() => undefined), new Promise((resolve) => (timer = setTimeout(resolve, PROGRESS_MS)))]);
    clearTimeout(timer);
    const progress = newest;
    newest = undefined;
    if (progress !== undefined) yield { event: { $case: 'progress', value: { ...progress } } };
  }
  yield { event: { $case: 'model', value: modelMessage(await done) } };
}
