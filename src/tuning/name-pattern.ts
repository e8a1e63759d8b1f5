/** Name patterns of specifications: literal characters and `*` for any run of characters. */

/** Whether a pattern is a whole name. */
export function matchesName(pattern: string, name: string): boolean {
  return new RegExp(`^${source(pattern)}$`).test(name);
}

/** Whether a pattern is a module's whole name or its end after a dot, as in PEFT's rank_pattern. */
export function matchesModule(pattern: string, module: string): boolean {
  return new RegExp(`^(?:.*\\.)?${source(pattern)}$`).test(module);
}

function source(pattern: string): string {
  return pattern
    .split(/\*+/)
    .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
    .join('.*');
}
