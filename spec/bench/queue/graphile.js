// graphile.js URL fill|run N: graphile-worker at the settings of its own performance test: one process,
// 24 jobs at once, a local queue of 500, completions in batches. Prints what worker.lua prints.
const { run, runMigrations, Logger } = require("graphile-worker");
const { Client } = require("pg");

const [, , url, action, count] = process.argv;
const jobs = Number(count);
const logger = new Logger(() => () => {});

async function fill() {
  await runMigrations({ connectionString: url, logger });
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query("TRUNCATE graphile_worker._private_jobs");
  await client.query(`
    SELECT graphile_worker.add_jobs(array(
      SELECT json_populate_record(NULL::graphile_worker.job_spec, '{"identifier": "noop", "payload": {"id": 1}}')
      FROM generate_series(1, ${jobs})))`);
  await client.query("ANALYZE graphile_worker._private_jobs");
  await client.query("CHECKPOINT");
  await client.end();
}

async function work() {
  let done = 0, finish;
  const all = new Promise((resolve) => (finish = resolve));
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  const runner = await run({
    connectionString: url, logger, noHandleSignals: true,
    taskList: { noop: () => { if (++done === jobs) finish(); } },
    preset: { worker: {
      concurrentJobs: 24, maxPoolSize: 25, pollInterval: 2000, localQueue: { size: 500 },
      completeJobBatchDelay: 0, failJobBatchDelay: 0,
    } },
  });
  await all;
  await runner.stop();
  const used = process.cpuUsage(cpu);
  console.log(JSON.stringify({
    jobs: done, seconds: Number(process.hrtime.bigint() - began) / 1e9, cpu: (used.user + used.system) / 1e6,
    rss: Math.round(process.resourceUsage().maxRSS / 1024),
  }));
}

(action === "fill" ? fill() : work()).catch((error) => { console.error(error); process.exit(1); });
