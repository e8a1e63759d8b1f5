/** Adapters: immutable, content-addressed versions under names, with aliases that move. */
export type {
  Adapter,
  AdapterAlias,
  AdapterContent,
  AdapterKind,
  AdapterVersion,
  AliasMove,
  AliasMoveReason,
  BaseShapes,
  ClassificationHead,
  FilePiece,
  Fit,
  FitOf,
  LoraInput,
  LoraModule,
  VariantArchitecture,
  VariantInput,
} from './adapter.js';
export { HEAD_FILE, headSettings, labelViolations, LEAST_LABELS, MOST_LABELS } from './classification-head.js';
export { AdapterRegistry, type AdapterUpdate, type NewVersion } from './adapter-registry.js';
export type { AliasListener, MoveAlias } from './adapter-aliases.js';
export { adapterName, adapterNotFound, aliasName, parseReference, versionName } from './adapter-rows.js';
