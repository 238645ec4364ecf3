// What runs here: `router start ecosystem.config.js`. Each app has its own workers and its own port.
module.exports = {
    apps: [
        {
            name: 'app',
            script: './app.js',
            // One worker for each core.
            instances: 'max',
            env: { NODE_ENV: 'development', PORT: 3000 },
            // With --env production.
            env_production: { NODE_ENV: 'production' },
        },
    ],
};
