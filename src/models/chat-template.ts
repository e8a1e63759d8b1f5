/**
 * Chat templates: the Jinja program that a checkpoint carries, rendered with the variables that Hugging Face's
 * `apply_chat_template` gives it. A template is data from a stranger: it runs in the interpreter of @huggingface/jinja, which
 * reaches nothing outside; whatever it throws becomes a LoricaError.
 */
import { Template } from '@huggingface/jinja';
import { LoricaError } from '../common/errors.js';

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

export interface RenderOptions {
  /** Ends the text where the assistant's next turn begins. Default false. */
  readonly addGenerationPrompt?: boolean;
}

export interface ChatTemplate {
  /** The template's own text. */
  readonly source: string;
  /** Throws INVALID_FIELD when the template refuses the conversation. */
  render(messages: readonly ChatMessage[], options?: RenderOptions): string;
}

const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];

/** The directives of C's strftime that chat templates use; an unknown one stays as it is. Local time, English names. */
export function formatTime(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const month = MONTHS[date.getMonth()] as string;
  const day = DAYS[date.getDay()] as string;
  const values: Readonly<Record<string, string>> = {
    Y: String(date.getFullYear()), y: two(date.getFullYear() % 100), m: two(date.getMonth() + 1), d: two(date.getDate()), e: String(date.getDate()).padStart(2),
    H: two(date.getHours()), I: two(date.getHours() % 12 || 12), M: two(date.getMinutes()), S: two(date.getSeconds()), p: date.getHours() < 12 ? 'AM' : 'PM',
    B: month, b: month.slice(0, 3), A: day, a: day.slice(0, 3), '%': '%',
  };
  return format.replace(/%([A-Za-z%])/g, (whole, directive: string) => values[directive] ?? whole);
}

/** Compiles a template. `tokens` are the texts of bos and eos, empty when the tokenizer has none. Throws MODEL_UNSUPPORTED when it can't be parsed. */
export function compileChatTemplate(
  source: string,
  tokens: { readonly bosToken?: string; readonly eosToken?: string },
  now: () => Date = () => new Date(),
): ChatTemplate {
  let template: Template;
  try {
    template = new Template(source);
  } catch (cause) {
    throw new LoricaError('FAILED_PRECONDITION', 'MODEL_UNSUPPORTED', `the chat template can't be parsed: ${(cause as Error).message}`, { cause });
  }
  return {
    source,
    render(messages, options = {}) {
      let refusal: string | undefined;
      try {
        return template.render({
          messages: messages.map(({ role, content }) => ({ role, content })),
          add_generation_prompt: options.addGenerationPrompt ?? false,
          bos_token: tokens.bosToken ?? '',
          eos_token: tokens.eosToken ?? '',
          raise_exception: (message: unknown) => {
            refusal = String(message);
            throw new Error(refusal);
          },
          strftime_now: (format: unknown) => formatTime(now(), String(format)),
        });
      } catch (cause) {
        throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `the model's chat template refuses these messages: ${refusal ?? (cause as Error).message}`, {
          cause,
          violations: [{ field: 'messages', description: refusal ?? (cause as Error).message }],
        });
      }
    },
  };
}
