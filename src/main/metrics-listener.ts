/** The HTTP port for machines that watch: /metrics (Prometheus text), /healthz (the process lives), /readyz (it takes calls). */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { formatAddress, type Address } from '../config/config.js';
import type { Metrics } from '../metrics/metrics.js';
import { addressInUse } from './listen-error.js';

export interface MetricsListener {
  /** 'host:port' with the port that was bound. */
  readonly address: string;
  close(): Promise<void>;
}

/** `refresh` brings gauges up to date that are read from stores; called before each scrape. */
export async function listenForMetrics(
  address: Address,
  metrics: Metrics,
  refresh: () => Promise<void>,
  isReady: () => boolean,
): Promise<MetricsListener> {
  const server = createServer((request, response) => {
    const reply = (status: number, body: string, type = 'text/plain; charset=utf-8'): void =>
      void response.writeHead(status, { 'content-type': type }).end(body);
    const path = (request.url ?? '/').split('?')[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') reply(405, 'only GET\n');
    else if (path === '/healthz') reply(200, 'ok\n');
    else if (path === '/readyz') reply(isReady() ? 200 : 503, isReady() ? 'ready\n' : 'not ready\n');
    else if (path === '/metrics') {
      refresh()
        .then(() => metrics.registry.metrics())
        .then((text) => reply(200, text, metrics.registry.contentType))
        .catch(() => reply(500, 'metrics can not be read\n'));
    } else reply(404, 'there is /metrics, /healthz and /readyz\n');
  });
  await bind(server, address);
  const { port } = server.address() as AddressInfo;
  return {
    address: formatAddress({ host: address.host, port }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function bind(server: Server, address: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(addressInUse('LORICA_METRICS_LISTEN', address, error)));
    server.listen(address.port, address.host, resolve);
  });
}
