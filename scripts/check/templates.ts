/**
 * Our rendering of chat templates against transformers', live: templates.py renders every template that the packages below carry, with and
 * without tools, on conversations of every shape, and here each text must be the same byte for byte, and each refusal a refusal.
 *   npm run check:templates [-- --json FILE]
 * Prints the templates that differ and their first difference; exits with 1 when there is any.
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { compileChatTemplate, type ChatMessage, type Json, type Tool, type ToolCall } from '../../src/models/chat-template.js';

/** Collections of the templates that well-known models are published with. */
const PACKAGES = [
  'trl==1.16.0 --hash=sha256:c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396',
  'axolotl==0.19.0 --hash=sha256:f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc',
];

/** For models that see images: their templates take lists of parts as contents, which no call here can say. */
const VISION = /(vision|idefics|llava|smolvlm)/;
/** Prints a list without `tojson`, in Python's notation. */
const PRINTS_A_LIST: Readonly<Record<string, number>> = { 'trl/lfm2_2_5': 13, 'trl/lfm2_2_5_v2': 13 };

interface ReferenceMessage {
  readonly role: string;
  readonly content: string;
  readonly tool_calls?: readonly { readonly id: string; readonly function: { readonly name: string; readonly arguments: Record<string, Json> } }[];
  readonly tool_call_id?: string;
  readonly name?: string;
}

interface Reference {
  readonly bos: string;
  readonly eos: string;
  readonly conversations: readonly { readonly messages: readonly ReferenceMessage[]; readonly tools?: readonly Tool[] }[];
  readonly templates: Readonly<Record<string, string>>;
  readonly renderings: Readonly<Record<string, readonly (readonly { readonly text?: string; readonly error?: string }[])[]>>;
}

interface Result {
  readonly template: string;
  readonly renderings: number;
  readonly refusals: number;
  readonly different: number;
}

function chatMessage({ role, content, tool_calls: calls, tool_call_id: toolCallId, name }: ReferenceMessage): ChatMessage {
  const toolCalls = calls?.map((one): ToolCall => ({ id: one.id, name: one.function.name, arguments: one.function.arguments }));
  return { role, content, ...(toolCalls && { toolCalls }), ...(toolCallId && { toolCallId }), ...(name && { name }) };
}

function rendered(source: string, { bos, eos }: Reference, conversation: Reference['conversations'][number], addGenerationPrompt: boolean): { text?: string; error?: string } {
  try {
    const template = compileChatTemplate(source, { bosToken: bos, eosToken: eos });
    const tools = conversation.tools && { tools: conversation.tools };
    return { text: template.render(conversation.messages.map(chatMessage), { addGenerationPrompt, ...tools }) };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

/** The surroundings of the first place where the texts differ. */
function difference(wanted: string, got: string): string {
  let at = 0;
  while (at < wanted.length && wanted[at] === got[at]) at++;
  const part = (text: string): string => JSON.stringify(text.slice(Math.max(0, at - 40), at + 60));
  return `    reference …${part(wanted)}\n    here      …${part(got)}`;
}

function compare(name: string, reference: Reference): Result {
  const result = { template: name, renderings: 0, refusals: 0, different: 0 };
  reference.conversations.forEach((conversation, i) => {
    if (PRINTS_A_LIST[name] === i) return;
    [false, true].forEach((addGenerationPrompt, j) => {
      const wanted = reference.renderings[name]![i]![j]!;
      const got = rendered(reference.templates[name]!, reference, conversation, addGenerationPrompt);
      result.renderings += 1;
      if (wanted.error !== undefined) result.refusals += 1;
      if (wanted.text === got.text) return;
      if (++result.different > 1) return;
      console.log(`  ${name}, conversation ${i}:\n${difference(wanted.text ?? wanted.error ?? '', got.text ?? got.error ?? '')}`);
    });
  });
  return result;
}

const program = new Command().option('--json <file>', 'write the figures here').parse();
const folder = await mkdtemp(join(tmpdir(), 'lorica-templates-'));
try {
  const python = execFileSync('scripts/python-env.sh', { encoding: 'utf8' }).trim();
  await writeFile(join(folder, 'requirements.txt'), PACKAGES.join('\n'));
  const pip = ['-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary', ':all:', '--require-hashes', '-r', join(folder, 'requirements.txt'), '-d', folder];
  execFileSync('python3', pip, { stdio: 'inherit' });
  const answers = join(folder, 'reference.json');
  execFileSync(python, ['scripts/check/templates.py', folder, answers], { stdio: 'inherit' });
  const reference = JSON.parse(await readFile(answers, 'utf8')) as Reference;
  const results = Object.keys(reference.templates).filter((name) => !VISION.test(name)).map((name) => compare(name, reference));
  const total = (key: 'renderings' | 'refusals' | 'different'): number => results.reduce((sum, result) => sum + result[key], 0);
  const figures = { templates: results.length, renderings: total('renderings'), refusals: total('refusals'), different: total('different'), results };
  console.log(`${figures.templates} templates, ${figures.renderings} renderings (${figures.refusals} refused by the reference), ${figures.different} different`);
  const { json } = program.opts<{ json?: string }>();
  if (json !== undefined) await writeFile(json, `${JSON.stringify(figures, null, 2)}\n`);
  process.exitCode = figures.different === 0 ? 0 : 1;
} finally {
  await rm(folder, { recursive: true });
}
