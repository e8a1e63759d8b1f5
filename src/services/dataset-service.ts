/** DatasetService: uploads in chunks, checked while they stream in; nothing is stored unless every row is good. */
import { invalidFields } from '../common/errors.js';
import type { DatasetStore } from '../datasets/index.js';
import type { DatasetServiceService, UploadDatasetHeader, UploadDatasetRequest } from '../gen/lorica/v1/dataset_service.js';
import { DatasetFormat } from '../gen/lorica/v1/resources.js';
import type { CallContext, Handlers } from './call.js';
import { Fields } from './fields.js';
import { FileOffsets } from './file-chunks.js';
import { needName, parseName, type ParsedName } from './names.js';
import type { Once } from './once.js';
import type { RowMeters } from './ports.js';
import { datasetMessage } from './resources.js';
import { validateDataset } from './validate-dataset.js';

export interface DatasetDependencies {
  readonly datasets: DatasetStore;
  readonly once: Once;
  readonly meters: RowMeters;
  readonly maxDatasetBytes: number;
}

interface Upload {
  readonly header: UploadDatasetHeader;
  readonly rest: AsyncIterator<UploadDatasetRequest>;
}

/** The first message, which must be the header. */
async function begin(requests: AsyncIterable<UploadDatasetRequest>): Promise<Upload> {
  const rest = requests[Symbol.asyncIterator]();
  const first = await rest.next();
  if (first.done === true || first.value.payload?.$case !== 'header')
    throw invalidFields([{ field: 'payload', description: 'the first message must hold the header' }]);
  return { header: first.value.payload.value, rest };
}

async function* chunks(rest: AsyncIterator<UploadDatasetRequest>): AsyncGenerator<Uint8Array> {
  const offsets = new FileOffsets('chunk');
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) {
    if (next.value.payload?.$case !== 'chunk')
      throw invalidFields([{ field: 'payload', description: 'messages after the header must hold chunks' }]);
    yield offsets.accept(next.value.payload.value);
  }
}

export function datasetHandlers({ datasets, once, meters, maxDatasetBytes }: DatasetDependencies): Handlers<typeof DatasetServiceService> {
  const name = (value: string, context: CallContext, fields = new Fields()): ParsedName =>
    needName('dataset', 'name', value, context.identity, fields);

  return {
    uploadDataset: async (requests, context) => {
      const { header, rest } = await begin(requests);
      const fields = new Fields();
      const parent = parseName('tenant', 'header.parent', header.parent, context.identity, fields);
      fields.id('header.dataset_id', header.datasetId);
      fields.check('header.format', header.format === DatasetFormat.DATASET_FORMAT_JSONL, 'must be DATASET_FORMAT_JSONL');
      fields.sha256('header.sha256', header.sha256);
      fields.requestId('header.request_id', header.requestId);
      fields.check('header.sha256', header.requestId === '' || header.sha256 !== '', 'is required together with request_id');
      fields.done();
      const { tenant } = parent!;
      const { requestId: _requestId, ...body } = header;
      const dataset = await once.run(
        context,
        header,
        { ...body, parent: parent!.name },
        {
          first: () =>
            datasets.upload(tenant, header.datasetId, chunks(rest), {
              format: 'jsonl',
              maxBytes: maxDatasetBytes,
              signal: context.signal,
              ...(header.sha256 === '' ? {} : { sha256: header.sha256 }),
            }),
          nameOf: (stored) => stored.name,
          again: () => datasets.get(tenant, header.datasetId),
        },
      );
      return datasetMessage(dataset);
    },
    validateDataset: (request, context) => validateDataset(request, context, { datasets, meters, maxDatasetBytes }),
    getDataset: async (request, context) => {
      const { tenant, ids } = name(request.name, context);
      return datasetMessage(await datasets.get(tenant, ids[0]!));
    },
    listDatasets: async (request, context) => {
      const fields = new Fields();
      fields.page(request.pageSize);
      const { tenant } = needName('tenant', 'parent', request.parent, context.identity, fields);
      const page = await datasets.list({ tenant, pageSize: request.pageSize, pageToken: request.pageToken });
      return { datasets: page.items.map(datasetMessage), nextPageToken: page.nextPageToken };
    },
    deleteDataset: async (request, context) => {
      const fields = new Fields();
      fields.requestId('request_id', request.requestId);
      const dataset = name(request.name, context, fields);
      return once.run(
        context,
        request,
        { name: dataset.name },
        {
          first: async () => {
            await datasets.delete(dataset.tenant, dataset.ids[0]!);
            return {};
          },
          nameOf: () => dataset.name,
          again: async () => ({}),
        },
      );
    },
  };
}
