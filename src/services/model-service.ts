/** ModelService: base models. Everybody reads; importing and deleting need the role `operator`. */
import { LoricaError } from '../common/errors.js';
import type { ImportModelResponse, ModelServiceService } from '../gen/lorica/v1/model_service.js';
import type { CallContext, Handlers } from './call.js';
import { Fields } from './fields.js';
import { modelName, parseModelName } from './names.js';
import type { Once } from './once.js';
import type { ImportProgress, ModelInfo, ModelLibrary } from './ports.js';
import { modelMessage } from './resources.js';

export interface ModelDependencies {
  readonly models: ModelLibrary;
  readonly once: Once;
}

/** Progress messages are at least this far apart. */
const PROGRESS_MS = 250;

function needOperator({ identity }: CallContext): void {
  if (identity.roles.includes('operator')) return;
  throw new LoricaError('PERMISSION_DENIED', 'PERMISSION_DENIED', 'importing and deleting base models needs a key with the role operator', {
    hint: 'lorica keys create --tenant TENANT --role operator makes one.',
  });
}

export function modelHandlers({ models, once }: ModelDependencies): Handlers<typeof ModelServiceService> {
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
      if (source === undefined) fields.add('source', 'is required: path or catalogue_id');
      fields.modelId('model_id', request.modelId, { optional: source?.$case === 'catalogueId' });
      if (source?.$case === 'path') fields.check('path', source.value.startsWith('/'), 'must be an absolute path on the server');
      fields.done();
      yield* progressing((report) =>
        source!.$case === 'path'
          ? models.importPath(request.modelId, source!.value)
          : models.importCatalogue(source!.value, request.modelId === '' ? undefined : request.modelId, report, context.signal),
      );
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
