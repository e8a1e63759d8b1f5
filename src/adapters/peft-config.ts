/**
 * PEFT's adapter_config.json (huggingface/peft, LoraConfig): what of it decides a module's scaling is read, what would change the output in a way
 * that is not implemented is refused by name, the rest (dropout, where it was trained) has no effect on inference.
 */
import { type FieldViolation, LoricaError } from '../common/errors.js';
import type { LoraModule } from './adapter.js';

/** Fields without effect on what a loaded adapter computes, or read below. */
const KNOWN = new Set([
  'peft_type',
  'r',
  'lora_alpha',
  'use_rslora',
  'rank_pattern',
  'alpha_pattern',
  'bias',
  'task_type',
  'modules_to_save',
  'init_lora_weights',
  'base_model_name_or_path',
  'revision',
  'auto_mapping',
  'inference_mode',
  'lora_dropout',
  'peft_version',
  'parent_library',
  'target_modules',
  'exclude_modules',
  'layers_to_transform',
  'layers_pattern',
  'ephemeral_gpu_offload',
  'runtime_config',
  'loftq_config',
  'eva_config',
  'corda_config',
  'lora_ga_config',
  'megatron_core',
  'qalora_group_size',
]);
const CLASSIFICATION_TASK = 'SEQ_CLS';
const TASKS: readonly unknown[] = ['CAUSAL_LM', CLASSIFICATION_TASK];
/** What PEFT saves whole for that task: the first of these that the model has. */
const HEAD_MODULES: readonly unknown[] = ['score', 'classifier'];
/** What PEFT takes for an adapter that changes no linear layer. */
const NO_TARGETS = 'dummy-target-modules';
/** Initializations that leave the base's own weights alone. Others (PiSSA, OLoRA, CorDA, LoftQ) change them: such an adapter fits only its changed base. */
const INITIALIZATIONS: readonly unknown[] = [undefined, null, true, false, 'gaussian', 'eva', 'orthogonal'];
/** Literal names, `.`, `\.`, `\d+`, `[0-9]+`, `.*` and groups of alternatives: no repetition of a group, so matching cannot blow up. */
const PATTERN = /^\^?(?:[A-Za-z0-9_]|\\\.|\\d\+|\[0-9\]\+|\.\*|\.|\([A-Za-z0-9_]+(?:\|[A-Za-z0-9_]+)*\))+\$?$/;
const MAX_PATTERN_CHARACTERS = 200;
const MAX_WILDCARDS = 3;

export interface PeftConfig {
  /** The task is SEQ_CLS: the adapter carries a classification head. */
  readonly classification: boolean;
  /** The rank that the configuration says a module has. */
  rank(module: string): number;
  /** alpha / r, or alpha / sqrt(r) with use_rslora. */
  scaling(module: string, rank: number): number;
}

/** Reads the file's bytes; INVALID_ARGUMENT / ADAPTER_INCOMPATIBLE naming every field that stands in the way. */
export function parsePeftConfig(bytes: Uint8Array): PeftConfig {
  const config = parseObject(bytes);
  const violations: FieldViolation[] = [];
  const refuse = (field: string, description: string): void =>
    void violations.push({ field: `adapter_config.json: ${field}`, description });
  if (config['peft_type'] !== 'LORA') refuse('peft_type', `is ${JSON.stringify(config['peft_type'])}; only "LORA" is supported`);
  if (!isOff(config['bias'])) refuse('bias', `is ${JSON.stringify(config['bias'])}; only "none" is supported`);
  if (!isOff(config['task_type']) && !TASKS.includes(config['task_type']))
    refuse('task_type', `is ${JSON.stringify(config['task_type'])}; only ${TASKS.map((task) => JSON.stringify(task)).join(' and ')} are supported`);
  const saved = config['modules_to_save'];
  if (!isOff(saved) && !(Array.isArray(saved) && config['task_type'] === CLASSIFICATION_TASK && saved.every((name) => HEAD_MODULES.includes(name))))
    refuse('modules_to_save', `is ${JSON.stringify(saved)}; only the head of the task "${CLASSIFICATION_TASK}" (${HEAD_MODULES.join(' or ')}) is supported`);
  if (!INITIALIZATIONS.includes(config['init_lora_weights'])) {
    refuse(
      'init_lora_weights',
      `is ${JSON.stringify(config['init_lora_weights'])}, which changes the base's weights; convert the adapter to plain LoRA when saving it`,
    );
  }
  for (const [field, value] of Object.entries(config)) {
    if (!KNOWN.has(field) && !isOff(value)) refuse(field, 'is a feature that is not supported');
  }
  const rank = positive(config['r'], 'r', refuse);
  const alpha = positive(config['lora_alpha'] ?? 8, 'lora_alpha', refuse);
  const ranks = patterns(config['rank_pattern'], 'rank_pattern', refuse);
  const alphas = patterns(config['alpha_pattern'], 'alpha_pattern', refuse);
  if (violations.length > 0) {
    throw new LoricaError('INVALID_ARGUMENT', 'ADAPTER_INCOMPATIBLE', violations.map((v) => `${v.field} ${v.description}`).join('; '), {
      violations,
    });
  }
  const stabilized = config['use_rslora'] === true;
  const pick = (list: readonly Pattern[], module: string, otherwise: number): number =>
    list.find(({ regexp }) => regexp.test(module))?.value ?? otherwise;
  return {
    classification: config['task_type'] === CLASSIFICATION_TASK,
    rank: (module) => pick(ranks, module, rank),
    scaling: (module, r) => pick(alphas, module, alpha) / (stabilized ? Math.sqrt(r) : r),
  };
}

/** adapter_config.json for these modules, and a classification head where there is one, which PEFT loads onto the base named `baseModel`. */
export function formatPeftConfig(modules: readonly LoraModule[], baseModel: string, classification = false): Record<string, unknown> {
  const rank = commonest(modules.map((module) => module.rank));
  const alpha = commonest(modules.map(alphaOf));
  const others = (value: (module: LoraModule) => number, usual: number): Record<string, number> =>
    Object.fromEntries(modules.filter((module) => value(module) !== usual).map((module) => [module.module, value(module)]));
  return {
    peft_type: 'LORA',
    task_type: classification ? CLASSIFICATION_TASK : 'CAUSAL_LM',
    base_model_name_or_path: baseModel,
    inference_mode: true,
    r: rank,
    lora_alpha: alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    init_lora_weights: true,
    use_rslora: false,
    use_dora: false,
    modules_to_save: classification ? ['score'] : null,
    ...(modules.length === 0 ? { target_modules: NO_TARGETS } : targets(modules.map(({ module }) => module))),
    rank_pattern: others((module) => module.rank, rank),
    alpha_pattern: others(alphaOf, alpha),
  };
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Reported below, like a value that is no object.
  }
  throw new LoricaError('INVALID_ARGUMENT', 'ADAPTER_INCOMPATIBLE', 'adapter_config.json is not a JSON object');
}

/** Values that switch a feature off. */
function isOff(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === 'none' || value === '') return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

type Refuse = (field: string, description: string) => void;

interface Pattern {
  readonly regexp: RegExp;
  readonly value: number;
}

function positive(value: unknown, field: string, refuse: Refuse): number {
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
  refuse(field, `is ${JSON.stringify(value)}; it must be a positive number`);
  return 1;
}

/** PEFT matches a key against the end of the module's name, after a dot or at its beginning. */
function patterns(value: unknown, field: string, refuse: Refuse): readonly Pattern[] {
  if (isOff(value)) return [];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    refuse(field, 'must be an object');
    return [];
  }
  return Object.entries(value).flatMap(([key, number]: [string, unknown]) => {
    if (key.length > MAX_PATTERN_CHARACTERS || !PATTERN.test(key) || (key.match(/\*|\+/g) ?? []).length > MAX_WILDCARDS) {
      refuse(
        `${field}[${JSON.stringify(key.slice(0, MAX_PATTERN_CHARACTERS))}]`,
        'is a pattern that is not supported; write the modules out',
      );
      return [];
    }
    const prefix = key.startsWith('^') ? '' : '(?:.*\\.)?';
    return [{ regexp: new RegExp(`^${prefix}(?:${key.replace(/^\^|\$$/g, '')})$`), value: positive(number, `${field}.${key}`, refuse) }];
  });
}

/** Scalings are float32: times a rank they are exact in float64, and a whole alpha that gives the same float32 is what was meant. */
function alphaOf(module: LoraModule): number {
  const alpha = module.scaling * module.rank;
  const whole = Math.round(alpha);
  return Math.fround(whole / module.rank) === Math.fround(module.scaling) ? whole : alpha;
}

function commonest(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce<readonly [number, number]>((best, entry) => (entry[1] > best[1] ? entry : best), [1, 0])[0];
}

/** Short names with the layers they are in, if each is in all of those; otherwise every module by its full name. */
function targets(modules: readonly string[]): Record<string, unknown> {
  const parsed = modules.map((module) => /^model\.layers\.(\d+)\.(?:.*\.)?([^.]+)$/.exec(module));
  const layers = [...new Set(parsed.map((match) => Number(match?.[1] ?? -1)))].sort((a, b) => a - b);
  const names = [...new Set(parsed.map((match) => match?.[2] ?? ''))].sort();
  const product = !parsed.includes(null) && layers.length * names.length === modules.length;
  return product ? { target_modules: names, layers_to_transform: layers } : { target_modules: [...modules].sort() };
}
