/** The plots of docs/performance.md, as SVG. */
import { parse, View } from 'vega';
import { compile } from 'vega-lite';
import { bytes } from '../host/cli/support/units.js';
import type { Results } from './results.js';

/** Isthmus in shades of blue and green, the other transports in other colours. */
const OURS = ['#0b3c6f', '#1f77b4', '#6baed6', '#a6cee3', '#74c476', '#31a354'];
const PEERS = ['#d62728', '#ff7f0e', '#8c564b', '#e377c2', '#7f7f7f', '#bcbd22', '#9467bd'];

interface Row {
  readonly transport: string;
  readonly size: number;
  readonly value: number;
}

interface Axis {
  readonly title: string;
  /** A Vega expression for the labels. */
  readonly label: string;
}

async function draw(results: Results, title: string, axis: Axis, rows: readonly Row[]): Promise<string> {
  const drawn = results.transports.filter(({ title: name }) => rows.some(({ transport }) => transport === name));
  const ours = drawn.filter((one) => one.ours).map((one) => one.title);
  const peers = drawn.filter((one) => !one.ours).map((one) => one.title);
  const sizes = [...new Set(rows.map(({ size }) => size))];
  const { spec } = compile({
    title,
    width: 640,
    height: 400,
    background: 'white',
    data: { values: rows },
    mark: { type: 'line', point: true },
    encoding: {
      x: {
        field: 'size',
        type: 'quantitative',
        scale: { type: 'log', base: 2 },
        axis: {
          title: 'message size',
          values: sizes,
          labelExpr: `${sizes.map((size) => `datum.value == ${size} ? '${bytes(size)}' : `).join('')}''`,
        },
      },
      y: {
        field: 'value',
        type: 'quantitative',
        scale: { type: 'log' },
        axis: { title: axis.title, labelExpr: axis.label, tickCount: 8 },
      },
      color: {
        field: 'transport',
        type: 'nominal',
        legend: { title: null, labelLimit: 320 },
        scale: {
          domain: [...ours, ...peers],
          range: [...ours.map((_, i) => OURS[i % OURS.length]), ...peers.map((_, i) => PEERS[i % PEERS.length])],
        },
      },
      strokeDash: {
        field: 'transport',
        scale: { domain: [...ours, ...peers], range: [...ours.map(() => [1, 0]), ...peers.map(() => [5, 3])] },
      },
    },
  });
  const view = new View(parse(spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** Powers of ten between nanoseconds and seconds. */
const TIME =
  "datum.value >= 1e6 ? format(datum.value / 1e6, '~g') + ' ms' : datum.value >= 1e3 ? format(datum.value / 1e3, '~g') + ' µs' : datum.value + ' ns'";
const RATE = "format(datum.value, '~s') + 'B/s'";

/** @returns SVG by name; no plot without results for it */
export async function plot(results: Results): Promise<Record<string, string>> {
  const latency = results.transports.flatMap(({ title, latency: all }) =>
    all.map(({ size, p50 }): Row => ({ transport: title, size, value: p50 })),
  );
  const throughput = results.transports.flatMap(({ title, throughput: all }) =>
    all.map(({ size, bytesPerSecond }): Row => ({ transport: title, size, value: bytesPerSecond })),
  );
  const plots: Record<string, string> = {};
  if (latency.length > 0) {
    plots['latency'] = await draw(
      results,
      'Half round trip, median',
      { title: 'half round trip', label: TIME },
      latency,
    );
  }
  if (throughput.length > 0) {
    plots['throughput'] = await draw(results, 'One way', { title: 'throughput', label: RATE }, throughput);
  }
  return plots;
}
