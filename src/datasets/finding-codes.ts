/**
 * The closed list of what can be found in a dataset: how serious each is and what to do about it. DatasetFindingCode in
 * proto/lorica/v1 mirrors it (a test holds them equal) and docs/datasets.md explains it. An error keeps a dataset from being stored
 * or tuned on; a warning never does. No fix quotes data.
 */
export interface FindingRule {
  readonly severity: 'error' | 'warning';
  /** What to do, one sentence. */
  readonly fix: string;
}

const error = (fix: string): FindingRule => ({ severity: 'error', fix });
const warning = (fix: string): FindingRule => ({ severity: 'warning', fix });
const redactable = (what: string): FindingRule =>
  warning(`Remove ${what} if it is a person's, or let ValidateDataset write a copy without it (redacted_dataset_id).`);

export const FINDING_RULES = {
  LINE_TOO_LONG: error('Split the row into several rows.'),
  INVALID_UTF8: error('Save the file as UTF-8; it is probably Latin-1, Windows-1252 or UTF-16.'),
  INVALID_JSON: error('Write one JSON object a line, with double quotes and no line break inside it.'),
  NOT_AN_OBJECT: error('Write each row as an object, such as {"text": "…"}.'),
  UNKNOWN_KIND: error('Rename the fields to those of one kind of row.'),
  UNKNOWN_FIELD: error('Remove the field, or correct its name.'),
  MISSING_FIELD: error('Add the field.'),
  WRONG_TYPE: error('Write the value as the type that the field has.'),
  EMPTY_VALUE: error('Fill the value in, or remove the row.'),
  VALUE_TOO_LARGE: error('Shorten the value, or split the row.'),
  LONE_SURROGATE: error('Write the character as UTF-8, or as both halves of its surrogate pair.'),
  MIXED_KINDS: error('Put rows of different kinds into datasets of their own.'),
  NO_ROWS: error('Upload a file with at least one row.'),

  CARRIAGE_RETURNS: warning('Save the file with LF line ends; the CR is ignored.'),
  BYTE_ORDER_MARK: warning('Save the file as UTF-8 without a byte order mark; it is ignored.'),
  BLANK_LINE: warning('Remove the line; it is ignored.'),
  DUPLICATE_ROW: warning('Remove one of the two, unless the row should count twice.'),

  NORMALIZED_DUPLICATE: warning('Remove one of the two: they differ only in case, white space or Unicode form.'),
  CONFLICTING_LABEL: warning('Decide for one label: the same text teaches both.'),
  OVERLAP: warning('Remove the row from one of the two datasets: an evaluation on known rows says nothing.'),
  LABEL_IMBALANCE: warning('Add rows of the rare labels or drop some of the frequent ones, and look at macro F1, not at accuracy.'),
  SINGLE_LABEL: warning('Add rows of other labels: there is nothing to tell apart.'),

  CHAT_TEMPLATE_REFUSED: error('Order the roles as the chat template of the base model wants them.'),
  NOTHING_COUNTS: error('Add answers: completions, labels or assistant turns.'),
  ALL_MASKED: warning('Add an assistant turn, or set loss_scope to LOSS_SCOPE_ALL; tuning leaves the row out.'),
  MISSING_END: warning('Use a base model whose chat template ends the assistant turn: without an end the model does not learn to stop.'),
  PROMPT_TRUNCATED: warning('Raise max_length_tokens or shorten the prompt; tuning drops its oldest tokens.'),
  ANSWER_TRUNCATED: warning('Raise max_length_tokens or shorten the answer; tuning drops the end of it.'),
  SPECIAL_TOKEN_IN_TEXT: warning('Remove the text: the tokenizer reads it as the special token that it spells.'),

  EMAIL_ADDRESS: redactable('the e-mail address'),
  PHONE_NUMBER: redactable('the telephone number'),
  IBAN: redactable('the account number'),
  PAYMENT_CARD: redactable('the card number'),
  SOCIAL_SECURITY_NUMBER: redactable('the social security number'),
  IP_ADDRESS: redactable('the IP address'),
  MEDICAL_RECORD_NUMBER: redactable('the medical record number'),
  NATIONAL_ID: redactable('the identity number'),

  EQUAL_ANSWERS: error('Write another rejected answer, or remove the row.'),
} as const satisfies Readonly<Record<string, FindingRule>>;

export type FindingCode = keyof typeof FINDING_RULES;

/** All of them, in the order of the API's enum. */
export const FINDING_CODES = Object.keys(FINDING_RULES) as readonly FindingCode[];
