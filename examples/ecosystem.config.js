// The same file PM2 reads: one worker for every core.
//   router examples/ecosystem.config.js
module.exports = {
  apps: [
    {
      name: 'example',
      script: './worker.js',
      exec_mode: 'cluster',
      instances: 'max',
    },
  ],
};
