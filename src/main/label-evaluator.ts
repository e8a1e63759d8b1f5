/** Accuracy and macro-F1 of a model in training, by the evaluation layer's own code: an evaluation afterwards gives the same figures. */
import { classificationFigures } from '../evaluation/index.js';
import type { LabelEvaluator } from '../tuning/index.js';

export const evaluateLabels: LabelEvaluator = async ({ examples, template, scorer, checkpoint, maxLengthTokens, signal }) => {
  const { tokenizer, chatTemplate } = checkpoint;
  const labels = [...new Set(examples.flatMap((row) => (row.kind === 'label' ? [row.label] : [])))].sort();
  return classificationFigures({
    task: { kind: 'classification', labels, promptTemplate: template.prompt, labelTemplate: template.label },
    rows: examples,
    targets: [undefined],
    scorer,
    tokenizer,
    emit: () => undefined,
    maxLengthTokens,
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ...(signal === undefined ? {} : { signal }),
  });
};
