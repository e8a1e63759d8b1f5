/**
 * Chat templates: the Jinja program that a checkpoint carries, rendered with the variables that Hugging Face's
 * `apply_chat_template` gives it. A template is data from a stranger: it runs in the interpreter of @huggingface/jinja, which
 * reaches nothing outside and brings `raise_exception` and `strftime_now`; whatever it throws becomes a LoricaError.
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

/** Compiles a template. `tokens` are the texts of bos and eos, empty when the tokenizer has none. Throws MODEL_UNSUPPORTED when it can't be parsed. */
export function compileChatTemplate(
  source: string,
  tokens: { readonly bosToken?: string; readonly eosToken?: string },
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
      try {
        return template.render({
          messages: messages.map(({ role, content }) => ({ role, content })),
          add_generation_prompt: options.addGenerationPrompt ?? false,
          bos_token: tokens.bosToken ?? '',
          eos_token: tokens.eosToken ?? '',
        });
      } catch (cause) {
        const why = (cause as Error).message;
        throw new LoricaError('INVALID_ARGUMENT', 'INVALID_FIELD', `the model's chat template refuses these messages: ${why}`, {
          cause,
          violations: [{ field: 'messages', description: why }],
        });
      }
    },
  };
}
