/** What the quickstart shows beside its figures: what base and adapter answer to the same reviews, and the tenant's own metrics. */
import type { Review } from './reviews.js';
import { table } from './display.js';
import { aliasTarget, type Session } from './session.js';
import { PROMPT_TEMPLATE } from './settings.js';

const EXAMPLES = 4;
const MOST_EXAMPLE_CHARACTERS = 60;
const ANSWER_TOKENS = 4;

/** Greedy continuations of the same prompts by the bare base and through the alias. */
export async function tellBeforeAndAfter({ client, base, screen, signal }: Session, heldOut: readonly Review[]): Promise<void> {
  const answer = async (target: string, text: string): Promise<string> => {
    const input = { $case: 'prompt' as const, value: PROMPT_TEMPLATE.replace('{text}', () => text) };
    const reply = await client.generate.generate({ target, input, sampling: { maxTokens: ANSWER_TOKENS, temperature: 0, stop: ['\n'] } }, { signal });
    return reply.text.trim();
  };
  const rows = [['review', 'it is', 'the base says', 'the adapter says']];
  for (const { text, label } of heldOut.filter((review) => review.text.length <= MOST_EXAMPLE_CHARACTERS).slice(0, EXAMPLES)) {
    rows.push([text, label, await answer(`models/${base.id}`, text), await answer(aliasTarget, text)]);
  }
  for (const line of table(rows).split('\n')) screen.line(line);
}

/** Every sample of the exposition that carries the tenant's label. */
export async function tellMetrics({ metricsAddress, tenant, screen, signal }: Session): Promise<void> {
  const response = await fetch(`http://${metricsAddress}/metrics`, { signal });
  const exposition = await response.text();
  const own = exposition.split('\n').filter((line) => line.includes(`tenant="${tenant}"`) && !line.startsWith('lorica_request'));
  for (const line of own) screen.line(line);
}
