// Writes to both streams, and stays.
process.stdout.write('to stdout\n');
process.stderr.write('to stderr\n');
setInterval(function () {}, 1000);
