// The body of a function (require, config) that node runs before the app, in each
// of its processes and threads; preload.go hands it over without these lines.
// Public API of Node only, and what only some processes need is loaded when they
// do. Whatever fails in here, the app listens as it would alone.
'use strict';
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const threads = require('node:worker_threads');

// How many descriptors of each held socket are taken: threads share them.
function shared() {
  if (!threads.isMainThread) return threads.getEnvironmentData('evermore');
  const taken = new Int32Array(new SharedArrayBuffer(4 * (config.held.length + 1)));
  threads.setEnvironmentData('evermore', taken);
  return taken;
}

function start(taken) {
  const { listen, close } = net.Server.prototype;
  const direct = threads.isMainThread && process.ppid === config.pid;
  const known = new WeakMap(); // server -> what it listens on, or is about to, and its connections
  const open = new Set(); // servers on held addresses that listen or have connections
  const retired = new WeakMap(); // those that drain() has closed and the app has not -> what undoes their disguise
  const waiting = new Set(); // servers whose address is being released
  const sessions = new Set(); // of HTTP/2, on held addresses
  let unheld = 0; // servers that were told of
  let draining = false;
  let drained = false;

  const quietly = (f) => (...args) => {
    try {
      return f(...args);
    } catch {
      return undefined;
    }
  };

  // The line to evermore never keeps node alive, and is not opened again.
  let line;
  let asked = 0;
  const answers = new Map();
  function connect() {
    // Before version 22 node can't connect to an abstract socket.
    const at = parseInt(process.versions.node) < 22 ? config.file : `\0${config.name}`;
    let text = '';
    if (!at) {
      line = null;
      return;
    }
    line = net.connect(at);
    line.unref();
    line.setEncoding('utf8');
    line.on('error', () => {});
    line.on('close', () => {
      line = null;
      for (const answer of answers.values()) answer();
    });
    line.on('data', quietly((data) => {
      const lines = (text + data).split('\n');
      text = lines.pop();
      for (const each of lines) command(JSON.parse(each));
    }));
    tell({ hello: { thread: threads.threadId } });
    if (config.stats && threads.isMainThread) sample();
  }

  function tell(message) {
    if (line === undefined) connect();
    if (!line) return;
    // Who does not read is not waited for.
    if (line.writableLength > 65536) line.destroy();
    else line.write(`${JSON.stringify(message)}\n`);
  }

  function command(m) {
    if (m.ping) tell({ pong: true });
    if (m.stats) stats((values) => tell({ id: m.stats, stats: values }));
    if (m.drain !== undefined) drain(m.drain);
    // The signal may come a moment later than the word of it.
    if (m.stopping) setTimeout(() => line?.unref(), 200);
    if (m.shutdown) shutdown();
    if (m.released) answers.get(m.released)?.();
  }

  // What the arguments of listen() ask for, as normalizeArgs() and listen() in
  // node's lib/net.js read them; undefined: nothing that could be held.
  function wanted(args) {
    const number = (v) => (Number(v) > 0 ? Number(v) : 0);
    const [first, second, third] = args;
    let o = first;
    if (typeof first === 'string' && !(Number(first) >= 0)) o = { path: first };
    else if (typeof first !== 'object') o = { port: first, host: typeof second === 'string' ? second : '' };
    if (!o || o.fd >= 0 || o._handle || o.handle) return undefined;
    const last = args[args.length - 1];
    const want = {
      signal: o.signal,
      backlog: number(o.backlog) || number(second) || number(third),
      callback: typeof last === 'function' ? last : undefined,
    };
    if (typeof o.port === 'number' || typeof o.port === 'string') {
      want.port = number(o.port);
      want.host = o.host || '';
      want.alone = ['exclusive', 'reusePort', 'ipv6Only'].find((option) => o[option]);
      return want.port ? want : undefined;
    }
    if (typeof o.path !== 'string' || o.path.startsWith('\0')) return undefined;
    want.name = o.path;
    want.path = path.resolve(o.path);
    want.mode = (o.readableAll ? 0o444 : 0) | (o.writableAll ? 0o222 : 0);
    return want;
  }

  const address = ({ host, port, path }) => (path === undefined ? { host, port } : { path });
  const canonical = (host) => (net.isIPv6(host) && !host.includes('%') ? new URL(`http://[${host}]`).hostname : host);
  const same = (want, h) =>
    want.path === undefined
      ? want.host === ''
        ? h.any || h.host === '::'
        : (want.host === '0.0.0.0' && h.any) || canonical(want.host) === canonical(h.host)
      : want.path === h.path;
  // Whether the kernel would refuse the one while there is the other.
  function collide(want, h) {
    if (want.path !== undefined || h.path !== undefined) return want.path === h.path;
    if (want.port !== h.port) return false;
    const [a, b] = [want.host || '::', h.host];
    return same(want, h) || a === '::' || b === '::' ||
      (a === '0.0.0.0' && net.isIPv4(b)) || (b === '0.0.0.0' && net.isIPv4(a));
  }

  // Node closes what it has inherited in its own children, where another socket
  // may have the number.
  function isOpen(h, fd) {
    try {
      return fs.fstatSync(fd).ino === h.ino;
    } catch {
      return false;
    }
  }

  // The next descriptor of a held socket; undefined: the one before is in use; a
  // text says why there is none.
  function take(h) {
    if (h.path !== undefined) {
      try {
        if (String(fs.lstatSync(h.path, { bigint: true }).ino) !== h.file) return `${h.path} was replaced`;
      } catch (e) {
        if (e.code === 'ENOENT') return `${h.path} was removed`;
      }
    }
    const i = config.held.indexOf(h);
    for (;;) {
      const n = Atomics.load(taken, i);
      if (n > 0 && isOpen(h, h.fds[n - 1])) return undefined;
      if (n === h.fds.length) return `it was listened on more than ${n} times`;
      if (!isOpen(h, h.fds[n])) return 'its descriptors did not reach this process: npm, npx, nodemon, tsx and node --watch let none through';
      if (Atomics.compareExchange(taken, i, n, n + 1) === n) return h.fds[n];
    }
  }

  function adopt(server, want, held) {
    if (!known.has(server)) {
      known.set(server, {});
      server.on('listening', quietly(() => listening(server)));
      server.on('close', quietly(() => {
        open.delete(server);
        settle();
      }));
    }
    const of = Object.assign(known.get(server), { want, held, told: false, closed: false });
    if (held && !of.sockets) Object.assign(of, follow(server));
  }

  // The connections of a server on a held address.
  function follow(server) {
    const sockets = new Set(); // as accepted
    const secure = new Set(); // TLS on them
    const upgraded = new Set(); // of either kind
    const keep = (set) => (socket) => {
      set.add(socket);
      socket.once('close', () => {
        set.delete(socket);
        settle();
      });
    };
    server.on('connection', quietly(keep(sockets)));
    server.on('secureConnection', quietly(keep(secure)));
    server.on('session', quietly((session) => {
      if (!open.has(server)) return;
      sessions.add(session);
      session.once('close', () => sessions.delete(session));
    }));
    const upgrade = quietly((request, socket) => {
      if (!sockets.has(socket) && !secure.has(socket)) return;
      keep(upgraded)(socket);
      settle();
    });
    for (const event of ['upgrade', 'connect']) accompany(server, event, upgrade);
    return { sockets, secure, upgraded };
  }

  // A listener that is there only while the app has one: for an event that nobody
  // listens to, node answers by itself.
  function accompany(server, event, listener) {
    const join = () => {
      if (!server.listeners(event).includes(listener)) server.prependListener(event, listener);
    };
    server.on('newListener', quietly((name, added) => {
      if (name === event && added !== listener) join();
    }));
    server.on('removeListener', quietly((name) => {
      if (name === event && server.listeners(event).every((each) => each === listener)) server.removeListener(event, listener);
    }));
    if (server.listenerCount(event) > 0) join();
  }

  function listening(server) {
    const of = known.get(server);
    const { want, held } = of;
    if (held) {
      open.add(server);
      // The app may ask for its address first.
      if (draining) setImmediate(quietly(retire), server);
      if (want.mode) fs.chmodSync(want.path, fs.statSync(want.path).mode | want.mode);
    }
    // Who looks for a free port may try a thousand.
    if (!held && unheld++ > 20) return;
    of.told = true;
    // A name is told as what it has meant.
    of.at = address(want.host && !net.isIP(want.host) ? { host: server.address().address, port: want.port } : want);
    tell({ listening: of.at, held: held?.name });
  }

  // Whether the server listens now on what is held, or will when its address is
  // released.
  function arrange(server, want, args) {
    const held = config.held;
    const candidates = held.filter((h) => collide(want, h));
    const exact = want.alone ? undefined : candidates.find((h) => same(want, h));
    adopt(server, want, exact);
    if (!candidates.length) return false;
    const worker = require('node:cluster').isWorker;
    // A worker's listen() is its primary's, which holds; but not with SCHED_NONE, when
    // the primary binds without listen(), and keeps what has failed.
    if (worker && want.alone !== 'exclusive') {
      const restore = intercept(server, (name, error) => {
        if (name !== 'listening' && name !== 'error') return false;
        restore();
        if (error?.code !== 'EADDRINUSE') return false;
        release(server, candidates, "the app's cluster schedules with SCHED_NONE, and finds it in use this time", () => server.emit(name, error));
        return true;
      });
      return false;
    }
    let why;
    if (exact) {
      const fd = take(exact);
      // In use by this very process: EADDRINUSE, as ever.
      if (fd === undefined) return false;
      if (typeof fd === 'number') {
        delete server.address;
        listen.call(server, { fd, signal: want.signal }, want.backlog, want.callback);
        // Node keeps the name of a unix socket only when it binds it.
        if (want.path !== undefined) Object.defineProperty(server, 'address', { value: () => want.name, configurable: true, writable: true });
        return true;
      }
      why = fd;
    } else if (want.alone) {
      why = `the app listens with ${want.alone}`;
    } else {
      const host = net.isIPv6(want.host) ? `[${want.host}]` : want.host;
      why = `the app listens on ${host ? `the address ${want.host}` : 'all addresses'}, for which --hold ${host && `${host}:`}${want.port} is`;
    }
    known.get(server).held = undefined;
    release(server, candidates, why, () => listen.apply(server, args));
    return true;
  }

  // What the server emits is asked about first; true: the app does not hear of it. It
  // gives what ends that.
  function intercept(server, isOurs) {
    const { emit } = server;
    const own = Object.getOwnPropertyDescriptor(server, 'emit');
    server.emit = function (...args) {
      return quietly(isOurs)(...args) || emit.apply(this, args);
    };
    return () => (own ? Object.defineProperty(server, 'emit', own) : delete server.emit);
  }

  // evermore gives up what is in the way; without an answer the app goes on.
  function release(server, list, why, then) {
    const id = ++asked;
    const go = () => {
      clearTimeout(timer);
      if (!answers.delete(id)) return;
      if (!draining) line?.unref();
      // What it throws is the app's to see.
      if (waiting.delete(server)) process.nextTick(then);
    };
    waiting.add(server);
    const timer = setTimeout(go, 1000);
    answers.set(id, go);
    tell({ id, release: list.map(({ name }) => name), why });
    if (line) line.ref();
    else setImmediate(go);
  }

  net.Server.prototype.listen = function (...args) {
    let done = false;
    try {
      const want = !this.listening && !waiting.has(this) && wanted(args);
      if (want && want.host && !net.isIP(want.host) && config.held.some((h) => h.port === want.port)) {
        // A name is looked up first, as node does by itself.
        waiting.add(this);
        require('node:dns').lookup(want.host, (error, found) => {
          if (!waiting.delete(this)) return;
          if (error || !quietly(arrange)(this, { ...want, host: found }, args)) listen.apply(this, args);
        });
        done = true;
      } else if (want) {
        done = arrange(this, want, args);
      }
    } catch {
      // As without evermore.
    }
    return done ? this : listen.apply(this, args);
  };

  net.Server.prototype.close = function (callback) {
    waiting.delete(this);
    if (retired.has(this)) {
      retired.get(this)();
      retired.delete(this);
      // For the app this is the first time.
      if (typeof callback === 'function') this.once('close', () => callback());
      return close.call(this);
    }
    const was = this.listening;
    const result = close.call(this, callback);
    if (was) quietly(closed)(this);
    return result;
  };

  function closed(server) {
    if (!known.has(server)) return;
    const { at, held, told } = known.get(server);
    known.get(server).closed = true;
    if (told) tell({ closed: at, held: held?.name });
  }

  // No further connection is accepted, further answers are the last of theirs, and
  // what idles is closed after a pause. http's own close() would cut idle
  // connections in the moment in which a client may be sending.
  function drain(pause) {
    if (draining) return;
    draining = true;
    // A process that has nothing left to do would be gone before the stop signal,
    // and the app's own handler with what it has to put in order.
    line.ref();
    const diagnostics = require('node:diagnostics_channel');
    diagnostics.subscribe('http.server.request.start', quietly(({ server, response }) => {
      // As a header, it would have writeHead() treat a list of headers otherwise.
      if (open.has(server)) response.shouldKeepAlive = false;
    }));
    for (const server of open) retire(server);
    const timer = setTimeout(quietly(closeIdle), pause);
    timer.unref();
    // Connections whose answer had begun before may stay open behind it.
    diagnostics.subscribe('http.server.response.finish', quietly(({ server }) => {
      if (open.has(server)) timer.refresh();
    }));
    settle();
  }

  function retire(server) {
    if (server.listening) {
      retired.set(server, disguise(server));
      close.call(server);
      closed(server);
    } else if (!known.get(server).closed) {
      // A primary of a cluster has taken its socket, and its workers drain.
      open.delete(server);
    }
  }

  // To the app a server listens until the app closes it.
  function disguise(server) {
    const undo = [intercept(server, (name) => {
      if (name !== 'close') return false;
      open.delete(server);
      settle();
      return true;
    })];
    const at = server.address();
    for (const [name, value] of [['listening', true], ['address', () => at]]) {
      if (Object.hasOwn(server, name)) continue;
      Object.defineProperty(server, name, { value, configurable: true, writable: true });
      undo.push(() => delete server[name]);
    }
    return () => {
      for (const each of undo) each();
    };
  }

  function closeIdle() {
    for (const server of open) {
      // It is HTTP/1.
      if (!server.closeIdleConnections) continue;
      server.closeIdleConnections();
      // To node, who has not asked anything yet is not idle.
      const { sockets, secure } = known.get(server);
      for (const socket of [...sockets, ...secure]) if (socket.bytesRead === 0) socket.destroy();
    }
    for (const session of sessions) session.close();
  }

  // What is upgraded ends when the app wants it to.
  function settle() {
    if (!draining || drained) return;
    for (const server of open) {
      const { sockets, upgraded } = known.get(server);
      let plain = sockets.size;
      for (const socket of upgraded) if (!socket.destroyed) plain--;
      if ((server.listening && !retired.has(server)) || plain > 0) return;
    }
    drained = true;
    tell({ drained: true });
  }

  // pm2's message; without a listener for it, the signal is what ends the app.
  function shutdown() {
    if (process.listenerCount('message') === 0) tell({ unheard: true });
    else setImmediate(() => process.emit('message', 'shutdown'));
  }

  // As prom-client measures its default metrics.
  let delay;
  const collections = {};
  function sample() {
    const { constants, monitorEventLoopDelay, PerformanceObserver } = require('node:perf_hooks');
    delay = monitorEventLoopDelay({ resolution: 10 });
    delay.enable();
    const kinds = {
      [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
      [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
      [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
      [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weakcb',
    };
    new PerformanceObserver((list) => {
      for (const { detail, duration } of list.getEntries()) {
        const c = (collections[kinds[detail.kind]] ??= { seconds: 0, buckets: config.stats.map(() => 0), count: 0 });
        c.seconds += duration / 1e3;
        c.count++;
        config.stats.forEach((limit, i) => (c.buckets[i] += duration / 1e3 <= limit));
      }
    }).observe({ entryTypes: ['gc'] });
  }

  function stats(done) {
    const { performance } = require('node:perf_hooks');
    const from = performance.now();
    // Without them is an answer, too: who owes one is not asked again.
    setImmediate(quietly(() => done(quietly(measured)(performance.now() - from))));
  }

  function measured(lag) {
    const { performance } = require('node:perf_hooks');
    const count = (names) => {
      const counts = {};
      for (const name of names ?? []) counts[name] = (counts[name] ?? 0) + 1;
      return counts;
    };
    const names = (list) => list?.map((each) => each?.constructor?.name ?? 'unknown');
    const { active, idle } = performance.eventLoopUtilization();
    const values = {
      version: process.version,
      lag: lag / 1e3,
      delay: delay.count > 0
        ? {
            min: delay.min / 1e9, max: delay.max / 1e9, mean: delay.mean / 1e9, stddev: delay.stddev / 1e9,
            p50: delay.percentile(50) / 1e9, p90: delay.percentile(90) / 1e9, p99: delay.percentile(99) / 1e9,
          }
        : undefined,
      active: active / 1e3,
      idle: idle / 1e3,
      memory: process.memoryUsage(),
      spaces: require('node:v8').getHeapSpaceStatistics(),
      collections,
      // Deprecated (DEP0161), and what dashboards of prom-client show.
      handles: count(names(process._getActiveHandles?.())),
      requests: count(names(process._getActiveRequests?.())),
      resources: count(process.getActiveResourcesInfo()),
    };
    delay.reset();
    return values;
  }

  if (direct && config.messages && !process.send) {
    let said = false;
    process.send = (message, ...rest) => {
      if (message === 'ready' && !said) {
        said = true;
        quietly(tell)({ ready: true });
      }
      const callback = rest.pop();
      if (typeof callback === 'function') process.nextTick(callback, null);
      return true;
    };
  }
  if (direct && (config.atStart || config.messages)) connect();
}

start(shared());
