package signals

import "syscall"

// Stop is the set of signals that mean "stop" unless others are chosen.
var Stop = SetOf(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)

// Forwarding has the handler send on every forwardable signal, as rewrite says or
// as it is; 0 in rewrite drops it. The signals of stop are only reported: whoever
// they are reported to decides, since a second one is not to reach the app.
func Forwarding(stop Set, rewrite map[syscall.Signal]syscall.Signal) Options {
	var o Options
	for _, s := range All() {
		if !Forwardable(s) || stop.Has(s) {
			continue
		}
		to, ok := rewrite[s]
		if !ok {
			to = s
		}
		o.Direct[s] = uint8(to)
	}
	return o
}
