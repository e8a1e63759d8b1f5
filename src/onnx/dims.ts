/**
 * Symbolic dimensions: a dimension is a number or a polynomial over symbols with integer coefficients, kept as a canonical string
 * ('B*T', '2*T+1', 'T-1'), so that two dimensions are equal exactly when `===` says so.
 * Invariant: every function returns canonical dimensions; a polynomial without symbols is a number, never a string.
 * Symbols are names of letters, digits, '_', '.', ':' that start with a letter or '_'.
 */

/** A number, or a symbol such as 'B', or a canonical polynomial of symbols such as 'B*T'. */
export type Dim = number | string;

/** Monomial ('' for the constant, 'B*T' with its symbols sorted) to coefficient; no zero coefficients. */
type Polynomial = Map<string, number>;

const SYMBOL = /^[A-Za-z_][\w.:]*$/;

function parse(dim: Dim): Polynomial {
  const polynomial: Polynomial = new Map();
  if (typeof dim === 'number') {
    if (dim !== 0) polynomial.set('', dim);
    return polynomial;
  }
  for (const signed of dim
    .replace(/\s+/g, '')
    .replace(/(?!^)-/g, '+-')
    .split('+')) {
    let coefficient = signed.startsWith('-') ? -1 : 1;
    const symbols: string[] = [];
    for (const factor of signed.replace(/^-/, '').split('*')) {
      if (/^\d+$/.test(factor)) coefficient *= Number(factor);
      else if (SYMBOL.test(factor)) symbols.push(factor);
      else throw new RangeError(`dimension '${dim}' is not a polynomial of symbols`);
    }
    accumulate(polynomial, symbols.sort().join('*'), coefficient);
  }
  return polynomial;
}

function accumulate(polynomial: Polynomial, monomial: string, coefficient: number): void {
  const sum = (polynomial.get(monomial) ?? 0) + coefficient;
  if (sum === 0) polynomial.delete(monomial);
  else polynomial.set(monomial, sum);
}

const degree = (monomial: string): number => (monomial === '' ? 0 : monomial.split('*').length);

function format(polynomial: Polynomial): Dim {
  if (polynomial.size === 0) return 0;
  if (polynomial.size === 1 && polynomial.has('')) return polynomial.get('') as number;
  const terms = [...polynomial].sort(([a], [b]) => degree(b) - degree(a) || (a < b ? -1 : 1));
  return terms
    .map(([monomial, coefficient], i) => {
      const size = Math.abs(coefficient);
      const text = monomial === '' ? `${size}` : size === 1 ? monomial : `${size}*${monomial}`;
      return (coefficient < 0 ? '-' : i === 0 ? '' : '+') + text;
    })
    .join('');
}

/** The canonical form of a dimension as a user writes it ('T*B' becomes 'B*T'). Throws a RangeError on anything else. */
export function canonical(dim: Dim): Dim {
  if (typeof dim === 'number') {
    if (!Number.isSafeInteger(dim)) throw new RangeError(`dimension ${dim} is not an integer`);
    return dim;
  }
  return SYMBOL.test(dim) ? dim : format(parse(dim));
}

export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  const sum = parse(a);
  for (const [monomial, coefficient] of parse(b)) accumulate(sum, monomial, coefficient);
  return format(sum);
}

export function subtractDims(a: Dim, b: Dim): Dim {
  if (a === b) return 0;
  return addDims(a, multiplyDims(-1, b));
}

export function multiplyDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a * b;
  const product: Polynomial = new Map();
  for (const [m, x] of parse(a)) {
    for (const [n, y] of parse(b)) {
      accumulate(
        product,
        [...m.split('*'), ...n.split('*')]
          .filter((s) => s !== '')
          .sort()
          .join('*'),
        x * y,
      );
    }
  }
  return format(product);
}

/** Product of all dimensions; 1 for a scalar. */
export function elementCountOf(shape: readonly Dim[]): Dim {
  return shape.reduce<Dim>(multiplyDims, 1);
}

/** a / b where it is exact for every value of the symbols and b is a single term (or equal to a); otherwise undefined. */
export function divideDims(a: Dim, b: Dim): Dim | undefined {
  if (b === 0) return undefined;
  if (a === b) return 1;
  const divisor = [...parse(b)];
  if (divisor.length !== 1) return undefined;
  const [monomial, coefficient] = divisor[0] as [string, number];
  const quotient: Polynomial = new Map();
  for (const [m, c] of parse(a)) {
    if (c % coefficient !== 0) return undefined;
    const left = m === '' ? [] : m.split('*');
    for (const symbol of monomial === '' ? [] : monomial.split('*')) {
      const at = left.indexOf(symbol);
      if (at < 0) return undefined;
      left.splice(at, 1);
    }
    accumulate(quotient, left.join('*'), c / coefficient);
  }
  return format(quotient);
}

/** Terms of a symbolic dimension, so that it can be computed at run time: 2*B*T-1 is [[2, ['B','T']], [-1, []]]. */
export function termsOf(dim: Dim): { readonly coefficient: number; readonly symbols: readonly string[] }[] {
  return [...parse(dim)].map(([monomial, coefficient]) => ({ coefficient, symbols: monomial === '' ? [] : monomial.split('*') }));
}

/** The shape that a and b broadcast to (numpy's rule, symbols equal only to themselves or 1), or undefined. */
export function broadcastShapes(a: readonly Dim[], b: readonly Dim[]): Dim[] | undefined {
  const rank = Math.max(a.length, b.length);
  const shape: Dim[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    shape.push(x === 1 ? y : x);
  }
  return shape;
}

/** True when both shapes have equal rank and identical canonical dimensions. */
export function equalShapes(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/** True when no dimension is symbolic. */
export function isStatic(shape: readonly Dim[]): shape is readonly number[] {
  return shape.every((dim) => typeof dim === 'number');
}

/** '[B,T,576]'. */
export function formatShape(shape: readonly Dim[]): string {
  return `[${shape.join(',')}]`;
}
