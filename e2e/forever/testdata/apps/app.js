// Says that it is up, with its arguments, and stays.
console.log(['up'].concat(process.argv.slice(2)).join(' '));
require('fs').writeFileSync('app.pid', String(process.pid));
setInterval(function () {}, 1000);
