/** SIGTERM and SIGINT stop the server gracefully; a second one ends the process at once. */
import type { Logger } from '../common/logger.js';
import type { RunningServer } from './server.js';

/** Resolves with the exit status once the server has stopped. */
export function untilStopped(server: RunningServer, logger: Logger): Promise<number> {
  return new Promise((resolve) => {
    let asked = false;
    const stop = (signal: NodeJS.Signals): void => {
      if (asked) {
        logger.warn('stopping at once', { signal });
        process.exit(130);
      }
      asked = true;
      server.stop().then(
        () => resolve(0),
        (error: unknown) => {
          logger.error('stopping failed', { error });
          resolve(1);
        },
      );
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
  });
}
