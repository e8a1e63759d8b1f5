#!/usr/bin/env node
/** The command line: what can be asked for, and how answers and errors are written. The work is in the files beside this one. */
import { Command, Option } from 'commander';
import { invalidFields } from '../common/errors.js';
import { createLogger } from '../common/logger.js';
import { loadConfig, SETTINGS, type Flags, type SettingKey } from '../config/config.js';
import { call } from './call.js';
import { examine } from './doctor.js';
import { exportTarget, type ExportOptions } from './export.js';
import { createKey } from './keys.js';
import { listModels, pull } from './models.js';
import { errorLines } from './show-error.js';

const out = (line: string): void => void process.stdout.write(`${line}\n`);

/** Adds the settings `keys` as options whose values loadConfig reads. */
function withSettings(command: Command, keys: readonly SettingKey[]): Command {
  for (const { key, flag, variable, fallback, text } of SETTINGS) {
    if (keys.includes(key)) command.addOption(new Option(flag, `${text} [${variable}${fallback === '' ? '' : `, default ${fallback}`}]`));
  }
  return command;
}

/** commander's names of the options are the camel-cased flags; the settings have keys of their own. */
function flagsOf(options: Readonly<Record<string, unknown>>): Flags {
  const flags: Partial<Record<SettingKey, string>> = {};
  for (const { key, flag } of SETTINGS) {
    const value = options[new Option(flag).attributeName()];
    if (typeof value === 'string') flags[key] = value;
  }
  return flags;
}

/** Runs a command; whatever it throws becomes lines on the standard error stream and a non-zero exit status. */
function run<A extends unknown[]>(work: (...args: A) => Promise<number | undefined>): (...args: A) => Promise<void> {
  return async (...args) => {
    try {
      process.exitCode = (await work(...args)) ?? 0;
    } catch (error) {
      for (const line of errorLines(error)) process.stderr.write(`${line}\n`);
      process.exitCode = 1;
    }
  };
}

function deadlineMs(seconds: string): number {
  const value = Number(seconds) * 1000;
  if (!(value > 0 && value < Infinity))
    throw invalidFields([{ field: '--deadline', description: `must be seconds above 0, not ${JSON.stringify(seconds)}` }]);
  return value;
}

const ALL = SETTINGS.map(({ key }) => key);
const program = new Command('lorica')
  .description('Tunes, evaluates and serves adapters for language models over gRPC.')
  .showHelpAfterError('(lorica --help shows all commands)');

withSettings(program.command('serve').description('start the server'), ALL)
  .option('--model <id=path>', 'a base model; may be repeated, adds to --models', (value: string, all: string[]) => [...all, value], [])
  .action(
    run(async (options: Record<string, unknown>) => {
      const flags = flagsOf(options);
      const named = options['model'] as string[];
      const models =
        named.length === 0
          ? {}
          : { models: [flags.models ?? process.env['LORICA_MODELS'] ?? '', ...named].filter((part) => part !== '').join(',') };
      const config = loadConfig(process.env, { ...flags, ...models });
      const logger = createLogger(config.logLevel);
      // Loaded here only, so that other commands start without native code.
      const { startServer } = await import('../main/server.js');
      const { untilStopped } = await import('../main/signals.js');
      const server = await startServer(config, { logger });
      out(JSON.stringify({ event: 'listening', address: server.address, metricsAddress: server.metricsAddress }));
      return untilStopped(server, logger);
    }),
  );

withSettings(program.command('call <method> [json]'), [])
  .description('call a method, such as: call ModelService/ListModels')
  .option('--address <host:port>', 'where the server is', process.env['LORICA_ADDRESS'] ?? '127.0.0.1:50051')
  .option('--key <key>', 'API key [LORICA_API_KEY]', process.env['LORICA_API_KEY'])
  .option('--tenant <id>', 'tenant, for a server without keys')
  .option('--deadline <seconds>', 'give up after this time')
  .addHelpText(
    'after',
    '\nJSON: the request; "-" or nothing for a client stream reads a list, or one message a line, from the standard input.',
  )
  .action(
    run(
      async (method: string, json: string | undefined, options: { address: string; key?: string; tenant?: string; deadline?: string }) => {
        const { protoFolder } = loadConfig({});
        await call(method, {
          address: options.address,
          protoFolder,
          key: options.key,
          tenant: options.tenant,
          deadlineMs: options.deadline === undefined ? undefined : deadlineMs(options.deadline),
          json: json ?? '',
          input: process.stdin,
          write: out,
        });
        return 0;
      },
    ),
  );

program
  .command('export <target>')
  .description('write a model, or one with an adapter merged into it, for other tools: models/m, tenants/-/adapters/a@production')
  .requiredOption('--out <path>', 'the folder (huggingface) or file (gguf) to write')
  .addOption(new Option('--format <format>', 'what to write').choices(['huggingface', 'gguf']).default('huggingface'))
  .addOption(new Option('--type <type>', 'how tensors are stored (default: bfloat16, for gguf float16)').choices(['float32', 'float16', 'bfloat16', 'q8_0']))
  .option('--address <host:port>', 'where the server is', process.env['LORICA_ADDRESS'] ?? '127.0.0.1:50051')
  .option('--key <key>', 'API key [LORICA_API_KEY]', process.env['LORICA_API_KEY'])
  .option('--tenant <id>', 'tenant, for a server without keys')
  .action(
    run(async (target: string, options: Omit<ExportOptions, 'write'>) => {
      await exportTarget(target, { ...options, write: out });
      return 0;
    }),
  );

const models = program.command('models').description('models of the catalogue');
withSettings(models.command('list').description('what can be fetched'), ['modelCache']).action(
  run(async (options: Record<string, unknown>) => {
    listModels(loadConfig(process.env, flagsOf(options)).modelCache, { write: out });
    return 0;
  }),
);
withSettings(models.command('pull <id>').description('fetch a model of the catalogue, or hf:owner/name[@revision][:file], and print its path'), ['modelCache']).action(
  run(async (id: string, options: Record<string, unknown>) => {
    const stop = new AbortController();
    process.once('SIGINT', () => stop.abort());
    const progress = process.stderr.isTTY ? { progress: (text: string) => void process.stderr.write(text) } : {};
    await pull(id, loadConfig(process.env, flagsOf(options)).modelCache, stop.signal, { write: out, ...progress });
    return 0;
  }),
);

withSettings(program.command('keys').description('API keys').command('create').description('make a key; it is shown once'), [
  'keysFile',
  'dataDir',
  'databaseUrl',
])
  .requiredOption('--tenant <id>', 'whose key it is')
  .option('--role <role>', 'tenant or operator; may be repeated (default tenant)', (value: string, all: string[]) => [...all, value], [])
  .action(
    run(async (options: Record<string, unknown>) => {
      const roles = options['role'] as string[];
      const key = await createKey(
        loadConfig(process.env, flagsOf(options)),
        options['tenant'] as string,
        roles.length === 0 ? ['tenant'] : roles,
      );
      process.stderr.write(`key of tenant ${key.tenant} (${key.roles.join(', ')}); its hash is in ${key.kept}; it is not shown again:\n`);
      out(key.secret);
      return 0;
    }),
  );

withSettings(program.command('doctor').description('look for what would keep a server from running here'), ALL).action(
  run(async (options: Record<string, unknown>) => {
    let problems = 0;
    for await (const { state, about, text } of examine(loadConfig(process.env, flagsOf(options)))) {
      if (state === 'problem') problems += 1;
      out(`${state.padEnd(8)} ${about.padEnd(12)} ${text}`);
    }
    return problems === 0 ? 0 : 1;
  }),
);

await program.parseAsync();
