/**
 * PyTorch + PEFT in a process of its own (bench/peer/training_step.py), which steps when it is told to, so that its steps interleave
 * with ours. The Python environment is that of scripts/python-env.sh.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createInterface, type Interface } from 'node:readline';

export interface PeerSettings {
  readonly method: 'lora' | 'full';
  readonly dtype: 'float32' | 'bfloat16';
  readonly rank: number;
  readonly rows: number;
  readonly length: number;
  /** Share of the tokens that count in the loss. */
  readonly lossShare: number;
  readonly threads: number;
}

export interface PeerSteps {
  readonly seconds: readonly number[];
  /** Of all threads, over all of these steps. */
  readonly processorSeconds: number;
  readonly peakMemoryBytes: number;
}

/** glibc then keeps what it has freed, instead of giving it back and mapping it again at every step. */
const TUNED_MALLOC = { MALLOC_TRIM_THRESHOLD_: String(2 ** 32), MALLOC_MMAP_THRESHOLD_: String(2 ** 32) };

export class Peer {
  private constructor(
    private readonly child: ChildProcess,
    private readonly lines: AsyncIterator<string, undefined>,
    private readonly reader: Interface,
    /** Rate of one float32 product of the step. */
    readonly productGigaflops: number,
  ) {}

  /** Builds the model and warms up with one step. */
  static async start(settings: PeerSettings, tunedMalloc: boolean): Promise<Peer> {
    const python = execFileSync('scripts/python-env.sh', { encoding: 'utf8' }).trim();
    const child = spawn(python, ['bench/peer/training_step.py', JSON.stringify(settings)], {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { ...process.env, ...(tunedMalloc ? TUNED_MALLOC : {}), HF_HUB_OFFLINE: '1' },
    });
    const reader = createInterface({ input: child.stdout });
    const lines: AsyncIterator<string, undefined> = reader[Symbol.asyncIterator]();
    const { productGigaflops } = JSON.parse(await nextLine(lines)) as { productGigaflops: number };
    return new Peer(child, lines, reader, productGigaflops);
  }

  async steps(count: number): Promise<PeerSteps> {
    this.child.stdin!.write(`${count}\n`);
    return JSON.parse(await nextLine(this.lines)) as PeerSteps;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once('close', resolve));
    this.child.stdin!.end();
    await ended;
    this.reader.close();
  }
}

async function nextLine(lines: AsyncIterator<string, undefined>): Promise<string> {
  const { value } = await lines.next();
  if (value === undefined) throw new Error('the peer ended; run its command by hand to see why (bench/peer/training_step.py)');
  return value;
}
