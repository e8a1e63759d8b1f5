/** A graph as stable text, for inline snapshots and for reading: one line a node, shapes and dtypes on every value. */
import { constantNumbers } from './constant.js';
import { formatShape } from './dims.js';
import type { Attribute, Graph, Node, Value } from './graph.js';
import { leavesOf, liveNodes } from './live.js';

const INLINE_ELEMENTS = 8;

const typed = (value: Value): string => `${value.name}: ${value.dtype}${formatShape(value.shape)}`;

function operand(value: Value | null): string {
  if (value === null) return '_';
  if (value.constant === undefined || value.constant.length > INLINE_ELEMENTS) return value.name;
  const elements = constantNumbers(value.constant, value.dtype).map((x) => `${Number(x.toPrecision(7))}`);
  return value.shape.length === 0 ? (elements[0] as string) : `[${elements.join(',')}]`;
}

function attribute([name, a]: [string, Attribute]): string {
  const text =
    a.kind === 'tensor' ? `${a.dtype}${formatShape(a.shape)}` : Array.isArray(a.value) ? `[${a.value.join(',')}]` : String(a.value);
  return `${name}=${text}`;
}

function line(node: Node): string {
  const results = node.outputs.map((value) => (value === null ? '_' : typed(value))).join(', ');
  const operands = [...node.inputs.map(operand), ...Object.entries(node.attributes).map(attribute)].join(', ');
  return `  ${results} = ${node.operator}(${operands})`;
}

/** Only what the outputs need is printed, as it is serialized; a graph without outputs is printed whole. */
export function print(graph: Graph): string {
  const nodes = liveNodes(graph);
  const leaves = leavesOf(nodes, graph.outputs);
  const large = [...leaves].filter((value) => value.constant !== undefined && value.constant.length > INLINE_ELEMENTS);
  return [
    `${graph.name}(${graph.inputs.map(typed).join(', ')})`,
    ...graph.weights.filter((value) => leaves.has(value)).map((value) => `  weight ${typed(value)}`),
    ...large.map((value) => `  constant ${typed(value)}`),
    ...nodes.map(line),
    `  return ${graph.outputs.map(operand).join(', ')}`,
  ].join('\n');
}
