/** AdapterService: import and export of files, versions, aliases, residency. What a version is and how aliases move: src/adapters. */
import type { AdapterRegistry, FilePiece } from '../adapters/index.js';
import { invalidFields } from '../common/errors.js';
import type {
  AdapterServiceService,
  ImportAdapterHeader,
  ImportAdapterRequest,
  ListResidencyResponse,
  Residency,
} from '../gen/lorica/v1/adapter_service.js';
import type { Empty } from '../gen/google/protobuf/empty.js';
import type { CallContext, Handlers } from './call.js';
import { Fields } from './fields.js';
import { FilePieces } from './file-chunks.js';
import { checkEtag } from './jobs.js';
import { needName, parseModelName, parseName, versionName, type NameKind, type ParsedName } from './names.js';
import type { Once } from './once.js';
import type { Generator, ModelLibrary } from './ports.js';
import { ADAPTER_KINDS, adapterAliasMessage, adapterMessage, adapterVersionMessage } from './resources.js';
import type { Targets } from './targets.js';

export interface AdapterDependencies {
  readonly adapters: AdapterRegistry;
  readonly models: ModelLibrary;
  readonly targets: Targets;
  readonly engine: Pick<Generator, 'residency'>;
  readonly once: Once;
  readonly maxAdapterBytes: number;
}

/** The files of an import, piece by piece. */
async function* pieces(rest: AsyncIterator<ImportAdapterRequest>): AsyncGenerator<FilePiece> {
  const files = new FilePieces();
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) {
    if (next.value.payload?.$case !== 'chunk')
      throw invalidFields([{ field: 'payload', description: 'messages after the header must hold chunks' }]);
    yield files.accept(next.value.payload.value);
  }
}

async function begin(
  requests: AsyncIterable<ImportAdapterRequest>,
): Promise<{ header: ImportAdapterHeader; rest: AsyncIterator<ImportAdapterRequest> }> {
  const rest = requests[Symbol.asyncIterator]();
  const first = await rest.next();
  if (first.done === true || first.value.payload?.$case !== 'header')
    throw invalidFields([{ field: 'payload', description: 'the first message must hold the header' }]);
  return { header: first.value.payload.value, rest };
}

export function adapterHandlers({
  adapters,
  models,
  targets,
  engine,
  once,
  maxAdapterBytes,
}: AdapterDependencies): Handlers<typeof AdapterServiceService> {
  const name = (kind: NameKind, field: string, value: string, context: CallContext, fields = new Fields()): ParsedName =>
    needName(kind, field, value, context.identity, fields);

  /** Checks request id and name of a call that changes something. */
  const changing = (kind: NameKind, request: { readonly name: string; readonly requestId: string }, context: CallContext): ParsedName => {
    const fields = new Fields();
    fields.requestId('request_id', request.requestId);
    return name(kind, 'name', request.name, context, fields);
  };

  const body = (request: { readonly requestId: string }): unknown => ({ ...request, requestId: undefined });

  const remove = (
    request: { readonly requestId: string },
    resource: string,
    context: CallContext,
    first: () => Promise<void>,
  ): Promise<Empty> =>
    once.run<Empty>(context, request, body(request), {
      first: async () => {
        await first();
        return {};
      },
      nameOf: () => resource,
      again: async () => ({}),
    });

  const moveAlias = (
    request: { readonly requestId: string },
    { name: resource, tenant, ids }: ParsedName,
    context: CallContext,
    move: () => ReturnType<AdapterRegistry['getAlias']>,
  ) =>
    once.run(context, request, body(request), {
      first: async () => adapterAliasMessage(await move()),
      nameOf: () => resource,
      again: async () => adapterAliasMessage(await adapters.getAlias(tenant, ids[0]!, ids[1]!)),
    });

  return {
    importAdapter: async (requests, context) => {
      const { header, rest } = await begin(requests);
      const fields = new Fields();
      const parent = parseName('tenant', 'header.parent', header.parent, context.identity, fields);
      fields.id('header.adapter_id', header.adapterId);
      const baseModel = parseModelName('header.base_model', header.baseModel, fields);
      fields.done();
      const { digest } = await models.get(baseModel!);
      const fit = await models.fit(baseModel!);
      const version = await adapters.importFiles({
        tenant: parent!.tenant,
        adapter: header.adapterId,
        baseModel: baseModel!,
        baseDigest: digest,
        fit,
        pieces: pieces(rest),
        maxBytes: maxAdapterBytes,
      });
      return adapterVersionMessage(version);
    },
    async *exportAdapter(request, context) {
      const version = await targets.version(request.name, 'name', context.identity);
      yield { payload: { $case: 'header', value: { version: adapterVersionMessage(version) } } };
      const sent = new Map<string, number>();
      for await (const { file, data } of adapters.exportFiles(version)) {
        const offset = sent.get(file) ?? 0;
        sent.set(file, offset + data.length);
        yield {
          payload: { $case: 'chunk', value: { file, chunk: { offset, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength) } } },
        };
      }
    },
    getAdapter: async (request, context) => {
      const { tenant, ids } = name('adapter', 'name', request.name, context);
      return adapterMessage(await adapters.getAdapter(tenant, ids[0]!));
    },
    listAdapters: async (request, context) => {
      const fields = new Fields();
      fields.page(request.pageSize);
      const { tenant } = name('tenant', 'parent', request.parent, context, fields);
      const page = await adapters.listAdapters({ tenant, pageSize: request.pageSize, pageToken: request.pageToken });
      return { adapters: page.items.map(adapterMessage), nextPageToken: page.nextPageToken };
    },
    updateAdapter: async (request, context) => {
      const fields = new Fields();
      fields.requestId('request_id', request.requestId);
      if (request.adapter === undefined) fields.add('adapter', 'is required');
      const paths = request.updateMask ?? [];
      fields.check('update_mask', paths.length > 0, 'is required: display_name, description, labels');
      paths.forEach((path, i) =>
        fields.check(
          `update_mask.paths[${i}]`,
          ['display_name', 'description', 'labels'].includes(path),
          `can not be updated: ${JSON.stringify(path)}`,
        ),
      );
      const adapter = parseName('adapter', 'adapter.name', request.adapter?.name ?? '', context.identity, fields);
      fields.done();
      const { displayName, description, labels, etag } = request.adapter!;
      const changes = {
        ...(paths.includes('display_name') ? { displayName } : {}),
        ...(paths.includes('description') ? { description } : {}),
        ...(paths.includes('labels') ? { labels } : {}),
      };
      const { tenant, ids } = adapter!;
      return once.run(context, request, body(request), {
        first: async () => adapterMessage(await adapters.updateAdapter(tenant, ids[0]!, changes, etag === '' ? undefined : etag)),
        nameOf: () => adapter!.name,
        again: async () => adapterMessage(await adapters.getAdapter(tenant, ids[0]!)),
      });
    },
    deleteAdapter: async (request, context) => {
      const { name: resource, tenant, ids } = changing('adapter', request, context);
      return remove(request, resource, context, async () => {
        if (request.etag !== '') checkEtag(resource, request.etag, (await adapters.getAdapter(tenant, ids[0]!)).etag);
        await adapters.deleteAdapter(tenant, ids[0]!);
      });
    },
    getAdapterVersion: async (request, context) => {
      const { tenant, ids } = name('adapterVersion', 'name', request.name, context);
      return adapterVersionMessage(await adapters.getVersion(tenant, ids[0]!, `sha256:${ids[1]!}`));
    },
    listAdapterVersions: async (request, context) => {
      const fields = new Fields();
      fields.page(request.pageSize);
      const { tenant, ids } = name('adapter', 'parent', request.parent, context, fields);
      const page = await adapters.listVersions({ tenant, adapter: ids[0]!, pageSize: request.pageSize, pageToken: request.pageToken });
      return { adapterVersions: page.items.map(adapterVersionMessage), nextPageToken: page.nextPageToken };
    },
    deleteAdapterVersion: async (request, context) => {
      const { name: resource, tenant, ids } = changing('adapterVersion', request, context);
      return remove(request, resource, context, () => adapters.deleteVersion(tenant, ids[0]!, `sha256:${ids[1]!}`));
    },
    getAdapterAlias: async (request, context) => {
      const { tenant, ids } = name('adapterAlias', 'name', request.name, context);
      return adapterAliasMessage(await adapters.getAlias(tenant, ids[0]!, ids[1]!));
    },
    listAdapterAliases: async (request, context) => {
      const fields = new Fields();
      fields.page(request.pageSize);
      const { tenant, ids } = name('adapter', 'parent', request.parent, context, fields);
      const page = await adapters.listAliases({ tenant, adapter: ids[0]!, pageSize: request.pageSize, pageToken: request.pageToken });
      return { adapterAliases: page.items.map(adapterAliasMessage), nextPageToken: page.nextPageToken };
    },
    setAdapterAlias: async (request, context) => {
      const fields = new Fields();
      fields.requestId('request_id', request.requestId);
      const alias = parseName('adapterAlias', 'name', request.name, context.identity, fields);
      const version = parseName('adapterVersion', 'version', request.version, context.identity, fields);
      fields.check('version', alias?.ids[0] === version?.ids[0], 'must be a version of the same adapter');
      fields.done();
      const { tenant, ids } = alias!;
      return moveAlias(request, alias!, context, () =>
        adapters.setAlias({
          tenant,
          adapter: ids[0]!,
          alias: ids[1]!,
          digest: `sha256:${version!.ids[1]!}`,
          ...(request.etag === undefined ? {} : { etag: request.etag }),
        }),
      );
    },
    promoteAdapterAlias: async (request, context) => {
      const fields = new Fields();
      fields.requestId('request_id', request.requestId);
      const alias = parseName('adapterAlias', 'name', request.name, context.identity, fields);
      const source = parseName('adapterAlias', 'source', request.source, context.identity, fields);
      fields.check('source', alias?.ids[0] === source?.ids[0], 'must be an alias of the same adapter');
      fields.done();
      const { tenant, ids } = alias!;
      return moveAlias(request, alias!, context, () =>
        adapters.promote({
          tenant,
          adapter: ids[0]!,
          from: source!.ids[1]!,
          alias: ids[1]!,
          ...(request.etag === '' ? {} : { etag: request.etag }),
        }),
      );
    },
    rollbackAdapterAlias: async (request, context) => {
      const alias = changing('adapterAlias', request, context);
      const { tenant, ids } = alias;
      return moveAlias(request, alias, context, () =>
        adapters.rollback({ tenant, adapter: ids[0]!, alias: ids[1]!, ...(request.etag === '' ? {} : { etag: request.etag }) }),
      );
    },
    deleteAdapterAlias: async (request, context) => {
      const { name: resource, tenant, ids } = changing('adapterAlias', request, context);
      return remove(request, resource, context, () =>
        adapters.deleteAlias({ tenant, adapter: ids[0]!, alias: ids[1]!, ...(request.etag === '' ? {} : { etag: request.etag }) }),
      );
    },
    listResidency: async (request, context): Promise<ListResidencyResponse> => {
      const { tenant } = name('tenant', 'parent', request.parent, context);
      const own = `tenants/${tenant}/adapters/`;
      const residency = engine.residency();
      const entry = (
        adapter: string,
        digest: string,
        kind: Residency['kind'],
        from: { readonly bytes: number; readonly runningSequences: number; readonly lastUsedMs: number },
      ): Residency => ({
        version: versionName(tenant, adapter.slice(own.length), digest),
        kind,
        bytes: from.bytes,
        runningSequences: from.runningSequences,
        lastUseTime: new Date(from.lastUsedMs),
      });
      const loras = residency.adapters
        .filter((adapter) => adapter.name.startsWith(own))
        .map((adapter) => entry(adapter.name, adapter.digest, ADAPTER_KINDS.lora, adapter));
      const variants = residency.models.flatMap((model) =>
        model.name?.startsWith(own) === true && model.variantDigest !== undefined
          ? [entry(model.name, model.variantDigest, ADAPTER_KINDS.variant, model)]
          : [],
      );
      return { residencies: [...loras, ...variants] };
    },
  };
}
