/** What the phases of the quickstart share: the client, the screen, the clock and the names they gave. */
import type { LoricaClient } from '../../client/index.js';
import type { ChosenBase } from './model.js';
import type { Screen } from './display.js';
import type { TuningSettings } from './settings.js';

export const PARENT = 'tenants/-';
export const ADAPTER = 'sentiment';
export const ADAPTER_NAME = `${PARENT}/adapters/${ADAPTER}`;
export const ALIAS = 'production';

export interface Session {
  readonly client: LoricaClient;
  readonly metricsAddress: string;
  /** The tenant that the client acts as. */
  readonly tenant: string;
  readonly screen: Screen;
  readonly base: ChosenBase;
  readonly settings: TuningSettings;
  readonly seed: number;
  /** Aborts on Ctrl-C; every call of a phase is given it. */
  readonly signal: AbortSignal;
}

/** `tenants/-/adapters/sentiment@sha256:…` of a version's name `…/versions/{hex}`. */
export function pinned(version: string): string {
  return `${ADAPTER_NAME}@sha256:${version.slice(version.lastIndexOf('/') + 1)}`;
}

export const aliasTarget = `${ADAPTER_NAME}@${ALIAS}`;
