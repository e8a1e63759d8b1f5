/** What a gradient rule is given and what it returns. */
import type { Attribute, Node, Value } from '../onnx/index.js';

/** Cotangents of a node's inputs; null where there is none or none is needed. A shorter list stands for trailing nulls. */
export type Rule = (context: RuleContext) => readonly (Value | null)[];

export interface RuleContext {
  readonly node: Node;
  readonly inputs: readonly Value[];
  readonly outputs: readonly (Value | null)[];
  /** One per output; null for an output without a cotangent. At least one is a value. */
  readonly cotangents: readonly (Value | null)[];
  /** The first output's cotangent, for the many operators with one output. */
  readonly d: Value;
  /** Whether input i needs a cotangent. */
  readonly needs: readonly boolean[];
}

/** The number of an int or float attribute. */
export function numberOf(node: Node, name: string): number {
  return expect(node, name, node.attributes[name], (a) => a.kind === 'int' || a.kind === 'float').value as number;
}

export function numbersOf(node: Node, name: string): readonly number[] {
  return expect(node, name, node.attributes[name], (a) => a.kind === 'ints' || a.kind === 'floats').value as readonly number[];
}

export function textOf(node: Node, name: string): string {
  return expect(node, name, node.attributes[name], (a) => a.kind === 'string').value as string;
}

function expect(node: Node, name: string, attribute: Attribute | undefined, fits: (a: Attribute) => boolean): Attribute {
  if (attribute === undefined || !fits(attribute)) throw new TypeError(`${node.operator} has no such attribute '${name}'`);
  return attribute;
}
