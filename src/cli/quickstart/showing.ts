/** What the quickstart shows beside its figures: what base and adapter answer to the same reviews, and the tenant's own metrics. */
import type { Review } from './reviews.js';
import { table } from './display.js';
import { aliasTarget, type Session } from './session.js';
import { LABEL_TEMPLATE, LABELS, PROMPT_TEMPLATE } from './settings.js';

const EXAMPLES_PER_LABEL = 2;
const MOST_EXAMPLE_CHARACTERS = 56;
const ANSWER_TOKENS = 6;

/** Greedy continuations of the same prompts by the bare base and through the alias, and the probability that each gives "positive". */
export async function tellBeforeAndAfter(session: Session, heldOut: readonly Review[]): Promise<void> {
  const { base, screen } = session;
  const short = heldOut.filter((review) => review.text.length <= MOST_EXAMPLE_CHARACTERS);
  const examples = LABELS.flatMap((label) => short.filter((review) => review.label === label).slice(0, EXAMPLES_PER_LABEL));
  const rows = [['review', 'it is', 'the base says', 'p(positive)', 'the adapter says', 'p(positive)']];
  for (const { text, label } of examples) {
    const [before, after] = [await answer(session, `models/${base.id}`, text), await answer(session, aliasTarget, text)];
    // The adapter learned labels, not how to end: what follows the label means nothing.
    rows.push([text, label, before.says, before.positive, after.says.split(/\s/)[0]!, after.positive]);
  }
  for (const line of table(rows).split('\n')) screen.line(line);
}

async function answer({ client, signal }: Session, target: string, text: string): Promise<{ says: string; positive: string }> {
  const input = { $case: 'prompt' as const, value: PROMPT_TEMPLATE.replace('{text}', () => text) };
  const reply = await client.generate.generate({ target, input, sampling: { maxTokens: ANSWER_TOKENS, temperature: 0, stop: ['\n'] } }, { signal });
  const template = { promptTemplate: PROMPT_TEMPLATE, labelTemplate: LABEL_TEMPLATE };
  const { classifications } = await client.generate.classify({ target, texts: [text], labels: [...LABELS], template }, { signal });
  const positive = classifications[0]?.scores.find((score) => score.label === 'positive')?.probability;
  return { says: reply.text.trim(), positive: positive?.toFixed(2) ?? '' };
}

/** Every sample of the exposition that carries the tenant's label. */
export async function tellMetrics({ metricsAddress, tenant, screen, signal }: Session): Promise<void> {
  const response = await fetch(`http://${metricsAddress}/metrics`, { signal });
  const exposition = await response.text();
  const own = exposition.split('\n').filter((line) => line.includes(`tenant="${tenant}"`) && !line.startsWith('lorica_request'));
  for (const line of own) screen.line(line);
}
