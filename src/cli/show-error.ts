/** Errors for people: one readable line, then each violation, then what to do. A defect shows its stack, for a report. */
import { LoricaError } from '../common/errors.js';
import { LoricaCallError } from '../client/index.js';

/** The lines to write on the standard error stream. */
export function errorLines(error: unknown): string[] {
  if (error instanceof LoricaError) return lines(error.code, error.reason, error.message, error.violations, error.hint ?? '', '');
  if (error instanceof LoricaCallError)
    return lines(error.code, error.reason, error.message, error.violations, error.hint, error.requestId);
  return [error instanceof Error ? (error.stack ?? error.message) : String(error)];
}

function lines(
  code: string,
  reason: string,
  message: string,
  violations: readonly { readonly field: string; readonly description: string }[],
  hint: string,
  requestId: string,
): string[] {
  const joined = violations.map(({ field, description }) => `${field}: ${description}`).join('; ');
  // The message of a list of violations is that list again; it is shown as a list only.
  const text =
    violations.length > 0 && (message === joined || message.startsWith(joined.slice(0, 200)))
      ? `${violations.length} invalid field${violations.length === 1 ? '' : 's'}`
      : message.replace(/\s*\n\s*/g, ' ').trim();
  return [
    `error: ${[code, reason].filter((part, i, all) => part !== '' && all.indexOf(part) === i).join(' ')}: ${text}`,
    ...violations.map(({ field, description }) => `  ${field === '' ? '' : `${field}: `}${description}`),
    ...(hint === '' ? [] : [`hint: ${hint}`]),
    ...(requestId === '' ? [] : [`request id: ${requestId}`]),
  ];
}
