const common = { script: 'pm2.sh', interpreter: 'sh', args: 'one two', cwd: process.cwd() + '/apps' };
module.exports = {
  apps: [
    { ...common, name: 'web', instances: 2, env: { OUT: process.cwd() + '/web.txt' }, env_production: { NODE_ENV: 'production' }, max_memory_restart: '300M', cron_restart: '0 4 * * *' },
    { ...common, name: 'job', env: { OUT: process.cwd() + '/job.txt' }, env_production: { NODE_ENV: 'production' }, stop_exit_codes: [0] },
  ],
};
