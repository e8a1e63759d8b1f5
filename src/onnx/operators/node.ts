/** What every operator needs: emitting one output, numbers as operands, axes, checks with errors that name the operator and shapes. */
import { constantNumbers } from '../constant.js';
import { formatShape, type Dim } from '../dims.js';
import type { Attribute, Graph, NodeSpec, OutputType, Value } from '../graph.js';
import { graphError } from '../origin.js';
import type { DType } from '../../tensor/dtype.js';

/** A value, or a number that becomes a scalar constant of the other operand's dtype. */
export type Operand = Value | number;

export const int = (value: number): Attribute => ({ kind: 'int', value });
export const float = (value: number): Attribute => ({ kind: 'float', value });
export const ints = (value: readonly number[]): Attribute => ({ kind: 'ints', value });
export const string = (value: string): Attribute => ({ kind: 'string', value });
export const flag = (value: boolean): Attribute => int(value ? 1 : 0);

const FLOATS: readonly DType[] = ['float16', 'bfloat16', 'float32', 'float64'];

/** True for the dtypes that carry gradients. */
export function isFloat(dtype: DType): boolean {
  return FLOATS.includes(dtype);
}

/** 'float32[B,T,C]'. */
export function describe(value: Value): string {
  return `${value.dtype}${formatShape(value.shape)}`;
}

/** Emits a node with a single output. */
export function one(graph: Graph, spec: Omit<NodeSpec, 'outputs'> & { readonly output: OutputType }): Value {
  return graph.emit({ ...spec, outputs: [spec.output] })[0] as Value;
}

/** Throws a graph error that names the operator, the problem and the operands' shapes. */
export function fail(operator: string, problem: string, ...operands: readonly (Value | null)[]): never {
  const shapes = operands.map((value) => (value === null ? '_' : describe(value))).join(', ');
  throw graphError(operator, operands.length === 0 ? problem : `${problem}; given ${shapes}`);
}

/** Throws unless `condition` holds. */
export function check(condition: boolean, operator: string, problem: string, ...operands: readonly (Value | null)[]): asserts condition {
  if (!condition) fail(operator, problem, ...operands);
}

/** Throws unless all values have one dtype. */
export function sameDType(operator: string, ...values: readonly Value[]): void {
  check(
    values.every((value) => value.dtype === values[0]?.dtype),
    operator,
    'dtypes differ',
    ...values,
  );
}

/** Throws unless the value is float16, bfloat16, float32 or float64. */
export function floating(operator: string, ...values: readonly Value[]): void {
  check(
    values.every((value) => isFloat(value.dtype)),
    operator,
    'needs floating-point operands',
    ...values,
  );
}

/** Axis in [0, rank); negative axes count from the end. */
export function axisOf(operator: string, axis: number, x: Value, rank: number = x.shape.length): number {
  const normal = axis < 0 ? axis + rank : axis;
  check(Number.isInteger(axis) && normal >= 0 && normal < rank, operator, `axis ${axis} is not in a tensor of rank ${rank}`, x);
  return normal;
}

/** Distinct axes in [0, rank), sorted. */
export function axesOf(operator: string, axes: readonly number[], x: Value, rank: number = x.shape.length): number[] {
  const normal = axes.map((axis) => axisOf(operator, axis, x, rank));
  check(new Set(normal).size === normal.length, operator, `axes ${axes.join(',')} repeat`, x);
  return normal.sort((a, b) => a - b);
}

/** An int64 vector constant. */
export function int64s(graph: Graph, values: readonly number[]): Value {
  return graph.constant(values, 'int64');
}

/** The dimension at `axis`, known to exist. */
export function dimAt(x: Value, axis: number): Dim {
  return x.shape[axis] as Dim;
}

/** The numbers of an embedded constant, or undefined for any other value. */
export function numbersOf(value: Value): number[] | undefined {
  return value.constant === undefined ? undefined : constantNumbers(value.constant, value.dtype);
}
