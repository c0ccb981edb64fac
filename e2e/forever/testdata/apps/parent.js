// Has a child that outlives it.
var child = require('child_process').spawn('sleep', ['1000'], { stdio: 'ignore' });
require('fs').writeFileSync('child.pid', String(child.pid));
setInterval(function () {}, 1000);
