/**
 * Targets: what to run, by name → by digest. An alias is resolved here, once, so that a request keeps the version that it began
 * with. Invariant: an unknown adapter is an error and never the bare base.
 */
import type { AdapterRegistry, AdapterVersion } from '../adapters/index.js';
import { LoricaError } from '../common/errors.js';
import type { ResolvedTarget } from '../engine/index.js';
import type { Identity } from '../tenants/index.js';
import { Fields } from './fields.js';
import { modelName, parseModelName, parseName } from './names.js';
import type { ModelLibrary } from './ports.js';

/** The digests of what serves a request; the message ServedBy. */
export interface Served {
  readonly baseModel: string;
  readonly baseDigest: string;
  readonly adapterVersion: string;
  readonly adapterDigest: string;
}

export interface Target {
  readonly resolved: ResolvedTarget;
  readonly servedBy: Served;
  /** The target by digest: `models/m`, or the name of the version. Resolves to the same thing for ever. */
  readonly pinned: string;
}

export class Targets {
  constructor(
    private readonly models: ModelLibrary,
    private readonly adapters: AdapterRegistry,
  ) {}

  /** INVALID_ARGUMENT when malformed, NOT_FOUND when not there or not the caller's, FAILED_PRECONDITION when its base has changed. */
  async resolve(value: string, field: string, identity: Pick<Identity, 'tenant'>): Promise<Target> {
    const fields = new Fields();
    if (value.startsWith('models/')) {
      const id = parseModelName(field, value, fields);
      fields.done();
      const { digest } = await this.usable(id!);
      const servedBy = { baseModel: value, baseDigest: digest, adapterVersion: '', adapterDigest: '' };
      return { resolved: { modelId: id!, modelDigest: digest }, servedBy, pinned: value };
    }
    if (!value.startsWith('tenants/')) {
      fields.add(field, 'must be models/{model} or tenants/{tenant}/adapters/{adapter}@{alias or sha256:…}');
      fields.done();
    }
    const version = await this.version(value, field, identity);
    const { digest } = await this.usable(version.baseModel);
    if (digest !== version.baseDigest) {
      throw new LoricaError(
        'FAILED_PRECONDITION',
        'ADAPTER_INCOMPATIBLE',
        `${version.name} was made for ${modelName(version.baseModel)} with digest ${version.baseDigest}, but the model here has ${digest}`,
        {
          hint: 'Restore the model that it was tuned on, or tune again.',
          metadata: { resource: version.name },
        },
      );
    }
    return {
      resolved: {
        modelId: version.baseModel,
        modelDigest: digest,
        adapter: {
          name: `tenants/${version.tenant}/adapters/${version.adapter}`,
          tenant: version.tenant,
          digest: version.digest,
          load: () => this.adapters.load(version),
        },
      },
      servedBy: {
        baseModel: modelName(version.baseModel),
        baseDigest: digest,
        adapterVersion: version.name,
        adapterDigest: version.digest,
      },
      pinned: version.name,
    };
  }

  /** The version that `adapter@alias`, `adapter@sha256:…` or `…/versions/…` names. */
  async version(value: string, field: string, identity: Pick<Identity, 'tenant'>): Promise<AdapterVersion> {
    const fields = new Fields();
    if (/^tenants\/[^/@]+\/adapters\/[^/@]+$/.test(value))
      fields.add(field, 'names an adapter without a version: append @alias, such as @production, or @sha256:…');
    else parseName('reference', field, value, { ...identity, roles: [] }, fields);
    fields.done();
    const { tenant, ids } = parseName('reference', field, value, { ...identity, roles: [] }, fields)!;
    const [adapter = '', version = ''] = ids;
    return this.adapters.resolve(tenant, `${adapter}@${/^[0-9a-f]{64}$/.test(version) ? `sha256:${version}` : version}`);
  }

  private async usable(model: string): Promise<{ readonly digest: string }> {
    const info = await this.models.get(model);
    if (info.problem === '') return info;
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_NOT_FOUND', `${modelName(model)} can not be used: ${info.problem}`, {
      metadata: { resource: modelName(model) },
    });
  }
}
