// BullMQ through the broker: `node jobs.js work` runs jobs, each of which leaves its number in the file `bullmq.done`;
// `node jobs.js submit` adds them all the time, each that was accepted a line in `bullmq.sent`: number, when, until when
// (CLOCK_MONOTONIC, seconds). FAILOVER_PORT is the broker's, FAILOVER_DIRECTORY where the files are. What was done is thus
// known without Redis.

const fs = require('fs');
const path = require('path');
const { Queue, Worker } = require('bullmq');

const connection = { host: '127.0.0.1', port: Number(process.env.FAILOVER_PORT), maxRetriesPerRequest: null };
// Milliseconds between two jobs.
const PACE = 200;

const note = (name, line) => fs.appendFileSync(path.join(process.env.FAILOVER_DIRECTORY, name), line + '\n');
const now = () => Number(process.hrtime.bigint()) / 1e9;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function work() {
  const run = async (job) => note('bullmq.done', String(job.data.number));
  // A job whose worker seems to be gone is taken again after this, in ms; 30 s by default.
  const worker = new Worker('failover', run, { connection, concurrency: 4, stalledInterval: 5000, lockDuration: 10000 });
  worker.on('error', (error) => console.log('worker:', error.message));
}

async function submit() {
  const queue = new Queue('failover', { connection });
  queue.on('error', (error) => console.log('queue:', error.message));
  for (let number = 1; ; number++) {
    const began = now();
    try {
      // The client may send it twice; one number is one job.
      await queue.add('job', { number }, { jobId: `job-${number}`, removeOnComplete: 1000 });
      note('bullmq.sent', `${number} ${began} ${now()}`);
    } catch (error) {
      note('bullmq.refused', `${number} ${error.message}`);
    }
    await pause(PACE);
  }
}

process.argv[2] === 'work' ? work() : submit();
