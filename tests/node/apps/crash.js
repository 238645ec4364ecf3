// Throws before it serves anything: the crash loop of the supervisor's tests.
'use strict';
console.error('about to crash');
throw new Error('boom at boot');
