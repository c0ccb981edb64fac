console.log('{"apps": "what a file prints is not what it exports"}');
setInterval(() => {}, 1000);

const common = { cwd: __dirname, exec_mode: 'fork', time: true };

module.exports = {
  apps: [
    {
      ...common,
      name: 'api',
      script: './api.js',
      args: '--port "80 80"',
      node_args: ['--max-old-space-size=300', '--title=my api'],
      instances: 2,
      increment_var: 'PORT',
      env: { PORT: 3000, SECRET: process.env.APPFILE_UNSET, LIMITS: { rate: 5 } },
      env_production: { NODE_ENV: 'production', PORT: 4000 },
      out_file: 'logs/out.log',
      error_file: 'NULL',
      pid_file: 'run/api.pid',
      max_memory_restart: '300M',
      cron_restart: '0 3 * * *',
      stop_exit_codes: [0, 3],
      min_uptime: '10s',
      max_restarts: 5,
      exp_backoff_restart_delay: 100,
      kill_timeout: 5000,
      watch: ['lib'],
      ignore_watch: 'node_modules',
      watch_options: { followSymlinks: false },
      wait_ready: false,
      vizion: false,
      uid: 'www-data',
      gid: 33,
    },
    {
      script: 'job.sh',
      cwd: __dirname,
      autorestart: false,
      restart_delay: 3000,
      log_file: true,
      merge_logs: true,
    },
  ],
  deploy: { production: { user: 'node' } },
};
