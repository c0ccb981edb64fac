// Writes what a configuration file exports, as JSON, to descriptor 3. import()
// loads both CommonJS and ES modules.
import { writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { pathToFileURL } from 'node:url';

// With -e node's own modules are globals. The one called "module" would take what
// a CommonJS file exports that is an ES module by mistake.
delete globalThis.module;

const file = process.argv[1];
let result;
try {
  const module = await import(pathToFileURL(file));
  result = JSON.stringify({ config: 'default' in module ? module.default : module });
} catch (err) {
  // A stack names the file by its path or by its URL.
  const stack = String(err?.stack);
  const place = stack.slice(stack.indexOf(basename(file))).match(/^[^:\n]*:(\d+)/);
  result = JSON.stringify({ error: String(err?.message ?? err), line: place ? Number(place[1]) : 0 });
}
writeFileSync(3, result);
// Timers and connections of the file would keep node running.
process.exit(0);
