/** Signature first; the body replaces this declaration. */
import type { EvaluateInput, EvaluationResult } from './types.js';

export declare function evaluate<T>(input: EvaluateInput<T>): Promise<EvaluationResult>;
