// Says farewell when asked to end, and where it is.
process.on('SIGTERM', function () { console.log('SIGTERM'); process.exit(0); });
process.on('SIGINT', function () { console.log('SIGINT'); process.exit(0); });
console.log('in ' + process.cwd());
setInterval(function () {}, 1000);
