/**
 * Classification heads of adapters: the rules of their labels, their tensor in the canonical file, and how they travel. With LoRA a
 * head is what PEFT keeps of a model of the task SEQ_CLS (modules_to_save: score); a file beside PEFT's two says what PEFT does not
 * keep: the labels' texts and the template.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';
import { hostTensor, toFloat32, type HostTensor } from '../tensor/host-tensor.js';
import type { AdapterKind, BaseShapes, ClassificationHead } from './adapter.js';

/** Beside the settings and the tensors of an adapter with a head. */
export const HEAD_FILE = 'classification_head.json';

export const LEAST_LABELS = 2;
export const MOST_LABELS = 1000;
export const MOST_LABEL_CHARACTERS = 256;
const EMBEDDING = 'model.embed_tokens.weight';

/** The head's tensor [labels, C] in the file of an adapter. */
export const HEAD_TENSORS: Readonly<Record<AdapterKind, string>> = { lora: 'base_model.model.score.weight', variant: 'score.weight' };

/** What of a head is not in its tensor. */
export type HeadLabels = Omit<ClassificationHead, 'weight'>;

/** Broken rules of the labels of a classification: how many, how long, each once. */
export function labelViolations(labels: readonly string[], path: string): FieldViolation[] {
  if (labels.length < LEAST_LABELS || labels.length > MOST_LABELS) {
    return [{ field: path, description: `must be ${LEAST_LABELS} to ${MOST_LABELS} labels, not ${labels.length}` }];
  }
  const seen = new Set<string>();
  return labels.flatMap((label, i) => {
    const at = `${path}[${i}]`;
    if (label === '' || label.length > MOST_LABEL_CHARACTERS)
      return [{ field: at, description: `must be 1 to ${MOST_LABEL_CHARACTERS} characters` }];
    if (seen.has(label)) return [{ field: at, description: `repeats ${JSON.stringify(label)}` }];
    seen.add(label);
    return [];
  });
}

/** The head's tensor for the file of an adapter. Shares memory. */
export function headTensor({ labels, weight }: ClassificationHead): HostTensor {
  return hostTensor('float32', [labels.length, weight.length / labels.length], weight);
}

/** Parts a file's tensors into the head's and all others; the head is undefined where there is none of that name. */
export function partHead(
  tensors: ReadonlyMap<string, HostTensor>,
  kind: AdapterKind,
): { readonly weight: HostTensor | undefined; readonly others: ReadonlyMap<string, HostTensor> } {
  const name = HEAD_TENSORS[kind];
  const weight = tensors.get(name);
  if (weight === undefined) return { weight, others: tensors };
  return { weight, others: new Map([...tensors].filter(([key]) => key !== name)) };
}

/** The file's object. Keys are those of transformers' configurations. */
export function headSettings({ labels, template }: HeadLabels): Record<string, unknown> {
  return { id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])), prompt_template: template };
}

/**
 * A head from its tensor and, where it came along, its file; without the file labels are LABEL_0, LABEL_1 … as transformers names them.
 * Throws INVALID_ARGUMENT / INVALID_FIELD.
 */
export function readHead(weight: HostTensor, settings: Uint8Array | undefined): ClassificationHead {
  const rows = weight.shape.length === 2 ? weight.shape[0]! : 0;
  const { labels, template } = settings === undefined ? unnamed(rows) : parseSettings(settings);
  const violations = labelViolations(labels, `${HEAD_FILE}: id2label`);
  if (violations.length === 0 && labels.length !== rows)
    violations.push({ field: `${HEAD_FILE}: id2label`, description: `has ${labels.length} labels, the tensor score.weight is [${weight.shape.join(',')}]` });
  if (!template.includes('{text}')) violations.push({ field: `${HEAD_FILE}: prompt_template`, description: 'must hold {text}' });
  if (violations.length > 0) throw invalidFields(violations);
  return { labels, template, weight: toFloat32(weight) };
}

/** What is wrong with a head on a base; undefined when it fits. */
export function headProblem({ labels, template, weight }: ClassificationHead, shapes: BaseShapes): string | undefined {
  const [violation] = labelViolations(labels, 'labels');
  if (violation !== undefined) return `has ${violation.field}: ${violation.description}`;
  if (!template.includes('{text}')) return 'has a template without {text}';
  const hidden = shapes.get(EMBEDDING)?.[1] ?? 0;
  if (weight.length !== labels.length * hidden) return `has ${weight.length} elements, [${labels.length},${hidden}] has ${labels.length * hidden}`;
  return weight.every(Number.isFinite) ? undefined : 'holds NaN or infinity';
}

function unnamed(count: number): HeadLabels {
  return { labels: Array.from({ length: count }, (_, i) => `LABEL_${i}`), template: '{text}' };
}

function parseSettings(bytes: Uint8Array): HeadLabels {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    value = undefined;
  }
  const { id2label, prompt_template: template = '{text}' } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const names = typeof id2label === 'object' && id2label !== null ? (id2label as Record<string, unknown>) : {};
  const labels = Object.keys(names).map((_, i) => names[String(i)]);
  if (labels.length === 0 || !labels.every((label) => typeof label === 'string') || typeof template !== 'string') {
    throw invalidFields([{ field: HEAD_FILE, description: 'must hold id2label, an object from "0", "1" … to labels, and may hold prompt_template, a text' }]);
  }
  return { labels, template };
}
