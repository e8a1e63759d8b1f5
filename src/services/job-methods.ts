/**
 * The methods that tuning jobs and evaluations share: get, list, cancel, delete, and changes of state like cancel. A service gives its resource's name kind and message;
 * creation and watching stay with the service, because their requests and events differ.
 */
import { isTerminal, type Job, type JobStore } from '../jobs/index.js';
import type { CallContext } from './call.js';
import { Fields } from './fields.js';
import { checkEtag } from './jobs.js';
import { needName } from './names.js';
import type { Once } from './once.js';

interface ListRequest {
  readonly parent: string;
  readonly pageSize: number;
  readonly pageToken: string;
  readonly filter: string;
}

type Change<M> = (request: { readonly name: string; readonly requestId: string }, context: CallContext) => Promise<M>;

export interface JobMethods<M> {
  /** The caller's own job that a request names; NOT_FOUND for any other. */
  readonly name: (value: string, context: CallContext) => string;
  readonly get: (request: { readonly name: string }, context: CallContext) => Promise<M>;
  readonly list: (request: ListRequest, context: CallContext) => Promise<{ readonly items: M[]; readonly nextPageToken: string }>;
  readonly cancel: Change<M>;
  /** A method that changes a job by its name, once for a request id. */
  readonly change: (change: (name: string) => Promise<Job>) => Change<M>;
  readonly delete: (
    request: { readonly name: string; readonly etag: string; readonly requestId: string },
    context: CallContext,
  ) => Promise<object>;
}

export function jobMethods<M>(
  kind: Job['kind'],
  resource: 'tuningJob' | 'evaluation',
  message: (job: Job) => M,
  { jobs, once }: { readonly jobs: JobStore; readonly once: Once },
): JobMethods<M> {
  const name = (value: string, context: CallContext, fields = new Fields()): string =>
    needName(resource, 'name', value, context.identity, fields).name;
  const changed = (request: { readonly name: string; readonly requestId: string }, context: CallContext): string => {
    const fields = new Fields();
    fields.requestId('request_id', request.requestId);
    return name(request.name, context, fields);
  };
  const change: JobMethods<M>['change'] = (apply) => async (request, context) => {
    const job = changed(request, context);
    return once.run(
      context,
      request,
      { job },
      {
        first: async () => message(await apply(job)),
        nameOf: () => job,
        again: async () => message(await jobs.get(job)),
      },
    );
  };
  return {
    name: (value, context) => name(value, context),
    get: async (request, context) => message(await jobs.get(name(request.name, context))),
    list: async ({ parent, pageSize, pageToken, filter }, context) => {
      const fields = new Fields();
      fields.page(pageSize);
      const { tenant } = needName('tenant', 'parent', parent, context.identity, fields);
      const page = await jobs.list({ kind, tenant, pageSize, pageToken, filter });
      return { items: page.items.map(message), nextPageToken: page.nextPageToken };
    },
    cancel: change((job) => jobs.cancel(job)),
    change,
    delete: async (request, context) => {
      const job = changed(request, context);
      return once.run(
        context,
        request,
        { job, etag: request.etag },
        {
          first: async () => {
            const { etag, state } = await jobs.get(job);
            if (isTerminal(state)) checkEtag(job, request.etag, etag);
            await jobs.delete(job);
            return {};
          },
          nameOf: () => job,
          again: async () => ({}),
        },
      );
    },
  };
}
