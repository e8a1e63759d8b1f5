/** The one table of gradient rules, by operator ('com.microsoft.' before those of that domain). */
import { graphError, type Node } from '../../onnx/index.js';
import type { Rule } from '../rule.js';
import { elementwise } from './elementwise.js';
import { indexing } from './indexing.js';
import { matmul } from './matmul.js';
import { normalization } from './normalization.js';
import { reduction } from './reduction.js';
import { shape } from './shape.js';

export const RULES: Readonly<Record<string, Rule>> = { ...elementwise, ...indexing, ...matmul, ...normalization, ...reduction, ...shape };

/** The rule of a node's operator; a graph error that names it and where it was built if there is none. */
export function ruleOf(node: Node): Rule {
  const rule = RULES[node.domain === '' ? node.operator : `${node.domain}.${node.operator}`];
  if (rule === undefined) throw graphError(node.operator, 'has no gradient rule', node.origin);
  return rule;
}
