// A headless Chromium on two pipes (the DevTools protocol), and one page in it. Whatever the page
// writes to its console, asks for or throws is kept.
'use strict';
const { spawn } = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { within } = require('./swarm');

const PATIENCE = 30000; // Milliseconds for an answer of a browser on a busy machine.

class Browser {
  // `program` with its libraries and fonts, where they are its own.
  constructor({ program, libraries, fonts }) {
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'router-browser-'));
    const env = { ...process.env, HOME: this.directory };
    if (libraries) env.LD_LIBRARY_PATH = libraries;
    if (fonts) env.FONTCONFIG_PATH = fonts;
    const switches = [
      '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-dev-shm-usage', '--no-zygote',
      '--disable-background-networking', '--hide-scrollbars', '--force-color-profile=srgb', '--remote-debugging-pipe',
    ];
    const args = [...switches, `--user-data-dir=${this.directory}`, 'about:blank'];
    this.process = spawn(program, args, { env, stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] });
    // With those it has started, who have its stderr: they write where it did.
    this.ended = new Promise((resolve) => this.process.once('close', resolve));
    this.words = '';
    this.process.stderr.setEncoding('utf8').on('data', (text) => (this.words += text));
    this.process.on('error', (error) => (this.words += error.message));
    this.answers = new Map();
    this.last = 0;
    this.console = [];
    this.requests = [];
    let rest = '';
    this.process.stdio[4].setEncoding('utf8').on('data', (chunk) => {
      const messages = (rest + chunk).split('\0');
      rest = messages.pop();
      messages.forEach((message) => this.heard(JSON.parse(message)));
    });
    this.process.stdio[3].on('error', (error) => (this.words += error.message));
  }

  heard({ id, method, params, result, error }) {
    if (id) {
      const { resolve, reject } = this.answers.get(id);
      this.answers.delete(id);
      return error ? reject(new Error(error.message)) : resolve(result);
    }
    if (method === 'Runtime.consoleAPICalled') this.console.push(params.args.map((arg) => arg.value ?? arg.description).join(' '));
    if (method === 'Runtime.exceptionThrown') this.console.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === 'Log.entryAdded') this.console.push(`${params.entry.source}: ${params.entry.text}`);
    if (method === 'Network.requestWillBeSent') this.requests.push(params.request.url);
  }

  send(method, params = {}) {
    const id = ++this.last;
    const answer = new Promise((resolve, reject) => this.answers.set(id, { resolve, reject }));
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId: this.session })}\0`);
    return within(PATIENCE, method, answer).catch((error) => {
      throw new Error(`${error.message}; the browser said: ${this.words}`);
    });
  }

  async open(url, { width, height, dark }) {
    const { targetInfos } = await this.send('Target.getTargets');
    const { targetId } = targetInfos.find((target) => target.type === 'page');
    ({ sessionId: this.session } = await this.send('Target.attachToTarget', { targetId, flatten: true }));
    for (const domain of ['Runtime', 'Log', 'Network', 'Page']) await this.send(`${domain}.enable`);
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
    await this.colours(dark);
    await this.send('Page.navigate', { url });
  }

  colours(dark) {
    const features = [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }];
    return this.send('Emulation.setEmulatedMedia', { features });
  }

  // What an expression is worth in the page.
  async value(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  async picture(file) {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png' });
    fs.writeFileSync(file, Buffer.from(data, 'base64'));
  }

  async close() {
    this.session = undefined;
    await this.send('Browser.close').catch(() => this.process.kill('SIGKILL'));
    await within(PATIENCE, 'the end of the browser', this.ended);
    fs.rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

module.exports = { Browser };
