/** Run as a process of its own: serves a data folder until it is killed; prints its address. */
import { silentLogger } from '../../src/common/logger.js';
import { startServer } from '../../src/main/server.js';
import { testConfig } from '../contract/harness.js';

const server = await startServer(testConfig(process.argv[2] ?? ''), { logger: silentLogger });
process.stdout.write(`${server.address}\n`);
