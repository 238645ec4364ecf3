// The live page of --admin in a browser, while clients connect.
'use strict';
const { Browser } = require('./browser');
const { closeAll, swarm, until, UPGRADING } = require('./swarm');

const WAIT = 30000; // Milliseconds for what the page shows within seconds on an idle machine.

// What the page shows in a tile, as a number.
const number = (name) => `Number((document.getElementById('${name}')?.textContent ?? '').replace(/[^0-9.]/g, '') || NaN)`;
const text = (selector) => `document.querySelector('${selector}')?.textContent ?? ''`;
// Hand-offs so far.
const handed = `Number([...document.querySelectorAll('dt')].find((name) => name.textContent === 'handed off')?.nextSibling.textContent.replace(/,/g, ''))`;

exports.the_page_moves = async (url, { admin, browser: where, pid, clients }) => {
  const browser = new Browser(where);
  try {
    await browser.open(admin, { width: 1200, height: 800 });
    const shows = (what, expression) => until(what, () => browser.value(expression), WAIT);
    await shows('the page shows its workers', `document.querySelectorAll('#workers tr').length > 0`);
    const look = async () => ({
      sessions: await browser.value(number('sessions')),
      handed: await browser.value(handed),
      state: await browser.value(text('#state')),
      title: await browser.value('document.title'),
      rows: await browser.value(`[...document.querySelectorAll('#workers tr')].map((row) => [...row.cells].map((cell) => cell.textContent))`),
    });
    const before = await look();
    await shows('rates', `!isNaN(${number('handoffs')})`);
    const all = await swarm(url, clients, [UPGRADING]);
    // One after the other, so that there are hand-offs and packets whenever the page asks.
    let busy = true;
    const stay = (async () => {
      while (busy) {
        (await swarm(url, 1, [UPGRADING]))[0].close();
        all[0].emit('emit all', 'text');
      }
    })();
    await shows('sessions', `${number('sessions')} >= ${clients}`);
    await shows('hand-offs per second', `${number('handoffs')} > 0`);
    await shows('packets per second', `${number('packets')} > 0`);
    await shows('plots', `document.querySelectorAll('#tiles .line').length === 6 && [...document.querySelectorAll('#tiles .line')].every((line) => /L/.test(line.getAttribute('d')))`);
    const during = await look();
    busy = false;
    await stay;
    // What it says itself when its router does not answer, in no console.
    const quiet = browser.console.slice();
    process.kill(pid, 'SIGSTOP');
    await shows('that nobody answers', `/^no answer since \\d\\d:\\d\\d:\\d\\d$/.test(${text('#state')})`).finally(() => process.kill(pid, 'SIGCONT'));
    await shows('that somebody answers again', `/workers ready/.test(${text('#state')})`);
    const origins = [...new Set(browser.requests.filter((request) => !request.startsWith('data:')).map((request) => new URL(request).origin))];
    return { before, during, console: quiet, origins };
  } finally {
    closeAll();
    await browser.close();
  }
};

// A picture of the page at work, for people: see the README.
exports.picture = async (url, { admin, browser: where, file, clients, points, dark }) => {
  const browser = new Browser(where);
  try {
    await browser.open(admin, { width: 1200, height: 840, dark });
    const all = await swarm(url, clients, [UPGRADING]);
    let busy = true;
    const waves = (async () => {
      for (let n = 0; busy; n++) {
        const some = 1 + Math.round(4 * (1 + Math.sin(n / 12)));
        (await swarm(url, some, [UPGRADING])).forEach((socket) => socket.close());
        for (let i = 0; i < some; i++) all[i].emit('emit all', 'text', 'x'.repeat(100));
      }
    })();
    const shown = `(document.querySelector('#tiles .line')?.getAttribute('d').match(/[ML]/g) ?? []).length >= ${points}`;
    await until('enough to show', () => browser.value(shown), points * 3000);
    await browser.picture(file);
    busy = false;
    await waves;
  } finally {
    closeAll();
    await browser.close();
  }
};
