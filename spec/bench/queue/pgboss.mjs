// pgboss.mjs URL fill|run N: pg-boss, four workers with batches of 1000, each fetching again at once
// while batches come full. Prints what worker.lua prints.
import { PgBoss } from "pg-boss";
import pg from "pg";

const [, , url, action, count] = process.argv;
const jobs = Number(count);
const QUEUE = "noop";

async function open(more) {
  const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false, ...more });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

async function fill() {
  const boss = await open();
  await boss.createQueue(QUEUE);
  await boss.deleteAllJobs(QUEUE);
  for (let i = 0; i < jobs; i += 10000)
    await boss.insert(QUEUE, Array.from({ length: Math.min(10000, jobs - i) }, () => ({ data: { id: 1 } })));
  await boss.stop({ graceful: false });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query("ANALYZE");
  await client.query("CHECKPOINT");
  await client.end();
}

async function work() {
  let done = 0, finish;
  const all = new Promise((resolve) => (finish = resolve));
  const boss = await open();
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  const options = { batchSize: 1000, localConcurrency: 4, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
  await boss.work(QUEUE, options, async (batch) => { if ((done += batch.length) === jobs) finish(); });
  await all;
  await boss.stop();
  const used = process.cpuUsage(cpu);
  console.log(JSON.stringify({
    jobs: done, seconds: Number(process.hrtime.bigint() - began) / 1e9, cpu: (used.user + used.system) / 1e6,
    rss: Math.round(process.resourceUsage().maxRSS / 1024),
  }));
}

await (action === "fill" ? fill() : work());
