/**
 * GenerateService.Classify: labels of texts. A target with a classification head is asked by its head; any other by the likelihood of
 * each label's text after the prompt. The two never mix: a head is never given labels that it was not trained on.
 */
import type { ResolvedTarget, TargetHead } from '../engine/index.js';
import type { Classification, ClassifyRequest, ClassifyResponse } from '../gen/lorica/v1/generate_service.js';
import { checkText } from './chat-messages.js';
import { checkLabels } from './evaluation-specification.js';
import { Fields } from './fields.js';
import type { Generator, TextModel } from './ports.js';
import type { Target } from './targets.js';
import { readLabelTemplate } from './tuning-specification.js';

export interface ClassifyModel {
  readonly target: Target;
  readonly text: TextModel;
}

export interface ClassifyPorts {
  readonly engine: Pick<Generator, 'head' | 'classify'>;
  readonly model: (target: string) => Promise<ClassifyModel>;
  /** Log-likelihood of each continuation after its prompt. */
  readonly likelihoods: (pairs: readonly { prompt: string; continuation: string }[], model: ClassifyModel) => Promise<readonly number[]>;
  readonly checkLength: (tokens: number, text: TextModel) => void;
  readonly signal: AbortSignal;
}

export async function classify(request: ClassifyRequest, ports: ClassifyPorts): Promise<ClassifyResponse> {
  const fields = new Fields();
  fields.check('texts', request.texts.length >= 1 && request.texts.length <= 256, `must be 1 to 256 texts, not ${request.texts.length}`);
  request.texts.forEach((text, i) => checkText(`texts[${i}]`, text, fields));
  const template = readLabelTemplate(request.template, 'template', fields);
  fields.done();
  const model = await ports.model(request.target);
  const head = await ports.engine.head(model.target.resolved);
  const classifications = head === undefined ? await byLikelihood(request, template, model, ports) : await byHead(request, head, model, ports);
  return { classifications, servedBy: model.target.servedBy };
}

async function byLikelihood(
  { texts, labels }: ClassifyRequest,
  template: { prompt: string; label: string } | undefined,
  model: ClassifyModel,
  { likelihoods }: ClassifyPorts,
): Promise<Classification[]> {
  const fields = new Fields();
  checkLabels('labels', labels, fields);
  fields.done();
  const found = await likelihoods(
    texts.flatMap((text) => labels.map((label) => model.text.labelled(text, label, template))),
    model,
  );
  return texts.map((_text, i) => classification(labels, found.slice(i * labels.length, (i + 1) * labels.length)));
}

async function byHead(request: ClassifyRequest, head: TargetHead, { target, text }: ClassifyModel, ports: ClassifyPorts): Promise<Classification[]> {
  const fields = new Fields();
  request.labels.forEach((label, i) =>
    fields.check(`labels[${i}]`, head.labels.includes(label), `is not a label of this target's classification head: ${shown(head.labels)}`),
  );
  fields.distinct('labels', request.labels);
  const prompts = request.texts.map((one) => text.prompt(text.labelled(one, '', { prompt: head.template, label: '' }).prompt));
  prompts.forEach((prompt, i) => fields.check(`texts[${i}]`, prompt.length > 0, 'is empty, and this model has no begin token to start from'));
  fields.done();
  for (const prompt of prompts) ports.checkLength(prompt.length, text);
  const labels = request.labels.length > 0 ? request.labels : head.labels;
  const places = labels.map((label) => head.labels.indexOf(label));
  const found = await ports.engine.classify({ target: target.resolved satisfies ResolvedTarget, prompts, signal: ports.signal, lane: 'generation' });
  return found.map((logs) => classification(labels, places.map((place) => logs[place]!)));
}

/** The likeliest label, the earlier one of equals, and the shares. */
function classification(labels: readonly string[], logs: readonly number[]): Classification {
  const best = Math.max(...logs);
  const total = logs.reduce((all, log) => all + Math.exp(log - best), 0);
  return {
    label: labels[logs.indexOf(best)]!,
    scores: labels.map((label, j) => ({ label, logProbability: logs[j]!, probability: Math.exp(logs[j]! - best) / total })),
  };
}

function shown(labels: readonly string[]): string {
  const more = labels.length > 10 ? `, … (${labels.length})` : '';
  return `${labels.slice(0, 10).join(', ')}${more}`;
}
