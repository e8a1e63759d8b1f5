/**
 * Where @huggingface/jinja computes something else than Python's Jinja, and published templates depend on it, this file gives its interpreter
 * Python's meaning: equality (`'' == false` is false; lists and mappings are equal by content), `+` of a text and a mapping (refused),
 * what a loop has written before `continue` and `break` (kept), filters of texts on an undefined value (an empty text), and a carriage
 * return before a line feed (dropped). Known to differ still: a list, mapping or truth value printed without `tojson`. Invariant: it changes
 * nothing else; `npm run check:templates` holds the result to transformers on every template of two collections. It must be
 * imported before a template is rendered, and goes when the library does these things itself.
 */
import { Interpreter, Template } from '@huggingface/jinja';

/** A value of the interpreter, as far as this file looks into it. */
interface Value {
  readonly type: string;
  readonly value: unknown;
}
interface Statement {
  readonly type: string;
}
interface Binary extends Statement {
  readonly operator: { readonly value: string };
  readonly left: Statement;
  readonly right: Statement;
}
interface Filter extends Statement {
  readonly value?: string;
  readonly callee?: { readonly value: string };
}
interface Loop extends Statement {
  readonly body: readonly Statement[];
}
/** The methods that are replaced, by their names in the version that package.json pins. */
interface Methods {
  evaluate: (this: Methods, statement: Statement | undefined, environment: unknown) => Value;
  evaluateBinaryExpression: (this: Methods, node: Binary, environment: unknown) => Value;
  applyFilter: (this: Methods, operand: Value, filter: Filter, environment: unknown) => Value;
  evaluateFor: (this: Methods, node: Loop, environment: unknown) => Value;
  evaluateBlock: (this: Methods, statements: readonly Statement[], environment: unknown) => Value;
}

const NUMBERS = new Set(['IntegerValue', 'FloatValue', 'BooleanValue']);
const TEXT_FILTERS = new Set(['capitalize', 'lower', 'string', 'title', 'trim', 'upper']);
const LISTS = new Set(['ArrayValue', 'TupleValue']);

/** Python's `==`. */
function equal(a: Value, b: Value): boolean {
  if (NUMBERS.has(a.type) && NUMBERS.has(b.type)) return Number(a.value) === Number(b.value);
  if (a.type !== b.type) return false;
  if (LISTS.has(a.type)) {
    const [left, right] = [a.value as readonly Value[], b.value as readonly Value[]];
    return left.length === right.length && left.every((item, i) => equal(item, right[i]!));
  }
  if (a.type === 'ObjectValue') {
    const [left, right] = [a.value as ReadonlyMap<string, Value>, b.value as ReadonlyMap<string, Value>];
    return left.size === right.size && [...left].every(([key, item]) => right.has(key) && equal(item, right.get(key)!));
  }
  return a.value === b.value;
}

const isContainer = ({ type }: Value): boolean => LISTS.has(type) || type === 'ObjectValue';

/** A value that stands where a statement is expected: operands are evaluated once. */
interface Known extends Statement {
  readonly type: 'Known';
  readonly known: Value;
}
const known = (value: Value): Known => ({ type: 'Known', known: value });

const methods = (Interpreter as unknown as { readonly prototype: Methods }).prototype;
const original = {
  evaluate: methods.evaluate,
  binary: methods.evaluateBinaryExpression,
  filter: methods.applyFilter,
  loop: methods.evaluateFor,
  block: methods.evaluateBlock,
};

methods.evaluate = function (statement, environment) {
  return statement?.type === 'Known' ? (statement as Known).known : original.evaluate.call(this, statement, environment);
};

methods.evaluateBinaryExpression = function (node, environment) {
  const operator = node.operator.value;
  if (operator !== '==' && operator !== '!=' && operator !== '+') return original.binary.call(this, node, environment);
  const [left, right] = [this.evaluate(node.left, environment), this.evaluate(node.right, environment)];
  if (operator !== '+') {
    // Truth values are of a class that the library does not export: it makes one by comparing a text with itself.
    const text = known(original.block.call(this, [], environment));
    const answer = equal(left, right) === (operator === '==') ? '==' : '!=';
    return original.binary.call(this, { type: node.type, operator: { value: answer }, left: text, right: text }, environment);
  }
  if ((left.type === 'StringValue' && isContainer(right)) || (right.type === 'StringValue' && isContainer(left))) {
    throw new Error('can only concatenate a text to a text');
  }
  return original.binary.call(this, { ...node, left: known(left), right: known(right) }, environment);
};

methods.applyFilter = function (operand, filter, environment) {
  const missing = operand.type === 'UndefinedValue' && TEXT_FILTERS.has(filter.value ?? filter.callee?.value ?? '');
  return original.filter.call(this, missing ? original.block.call(this, [], environment) : operand, filter, environment);
};

/** The loops that run, innermost last, and whether their body has met a `break`. */
const loops: { readonly body: readonly Statement[]; broken: boolean }[] = [];

methods.evaluateFor = function (node, environment) {
  loops.push({ body: node.body, broken: false });
  try {
    return original.loop.call(this, node, environment);
  } finally {
    loops.pop();
  }
};

/** Text that was written before a `continue` or `break` left the blocks around it. */
const written = new WeakMap<Error, string>();

methods.evaluateBlock = function (statements, environment) {
  const loop = loops.at(-1)?.body === statements ? loops.at(-1) : undefined;
  if (loop?.broken === true) return original.block.call(this, [], environment);
  let text = '';
  for (const statement of statements) {
    try {
      text += textOf(original.block.call(this, [statement], environment));
    } catch (error) {
      const name = (error as Error).constructor.name;
      if (name !== 'ContinueControl' && name !== 'BreakControl') throw error;
      text += written.get(error as Error) ?? '';
      if (loop === undefined) {
        written.set(error as Error, text);
        throw error;
      }
      loop.broken = name === 'BreakControl';
      break;
    }
  }
  // The interpreter's text of an empty block, with what was written.
  return Object.assign(original.block.call(this, [], environment), { value: text });
};

const textOf = ({ value }: Value): string => value as string;

/** Compiles a template for this interpreter. Throws what the library throws for a text that is no Jinja. */
export function parseTemplate(source: string): Template {
  return new Template(source.replaceAll('\r\n', '\n'));
}
