package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"evermore/control"
	pid1 "evermore/init"
)

const (
	// stopMargin is how much longer than --kill-timeout a stop may take: SIGKILL,
	// leftovers, the hook of --on-exit, the last output.
	stopMargin = 25 * time.Second
	// endlessStop bounds the wait for a stop where --kill-timeout is 0.
	endlessStop = 5 * time.Minute
	longestStop = 24 * time.Hour
	// restartMargin is how much longer a start may take after that.
	restartMargin = 10 * time.Second
	// exitTime is how long a supervisor may take to end once it has said that all
	// is over.
	exitTime = 2 * time.Second
)

func (s *settings) stopAction(targets []string) (int, error) {
	chosen, missing, err := s.choose(targets, "stop")
	if err != nil {
		return 0, err
	}
	code := 0
	for _, t := range missing {
		s.tell(levelError, capital(s.program)+" cannot find process with id: "+t)
		code = 1
	}
	stopped := s.each(chosen, "stop", &code, s.stop)
	if len(stopped) > 0 {
		s.tell(levelInfo, capital(s.program)+" stopped process:")
		_ = s.print(s.tableOf(stopped) + "\n") // forever's table stands here without "data:"
	}
	return code, nil
}

func (s *settings) stopByPIDAction(args []string) (int, error) {
	if len(args) != 1 {
		return 0, usage("stopbypid takes one pid")
	}
	s.tell(levelWarn, "Deprecated, try `"+s.program+" stop "+args[0]+"` instead.")
	return s.stopAction(args)
}

func (s *settings) stopAllAction(args []string) (int, error) {
	return s.toAll("stop", "stopped", args, s.stop)
}

func (s *settings) restartAllAction(args []string) (int, error) {
	return s.toAll("restart", "restarted", args, s.restart)
}

// toAll does something to every app that there is.
func (s *settings) toAll(what, done string, args []string, do func(*app) error) (int, error) {
	if len(args) > 0 {
		return 0, usage("%sall takes no argument: %q", what, args[0])
	}
	all, err := s.apps()
	if err != nil {
		return 1, err
	}
	if len(all) == 0 {
		s.tell(levelInfo, "No "+s.program+" processes running")
		return 0, nil
	}
	code := 0
	if list := s.each(all, what, &code, do); len(list) > 0 {
		s.tell(levelInfo, capital(s.program)+" "+done+" processes:")
		s.tell(levelData, s.tableOf(list))
	}
	return code, nil
}

func (s *settings) restartAction(targets []string) (int, error) {
	chosen, missing, err := s.choose(targets, "restart")
	if err != nil {
		return 0, err
	}
	code := 0
	for _, t := range missing {
		s.tell(levelError, "Error restarting process: "+t)
		s.tell(levelError, "Cannot find "+s.program+" process: "+t)
		code = 1
	}
	if restarted := s.each(chosen, "restart", &code, s.restart); len(restarted) > 0 {
		s.tell(levelInfo, capital(s.program)+" restarted process(es):")
		s.tell(levelData, s.tableOf(restarted))
	}
	return code, nil
}

// reloadAction replaces the processes of apps. Those whose reload was refused or
// rolled back go on as they were, and the exit code is 1.
func (s *settings) reloadAction(targets []string) (int, error) {
	return s.toChosen("reload", "reloaded", targets, s.reload)
}

// scaleAction says how many processes apps are to have.
func (s *settings) scaleAction(args []string) (int, error) {
	if len(args) == 0 {
		return 0, usage("scale takes a target and a number of processes: %s scale web 4", s.program)
	}
	last := len(args) - 1
	n, err := parseInstances(args[last])
	switch {
	case err != nil:
		return 0, usage("%w", err)
	case args[last] == "0": // of --instances, as pm2's, it means max
		return 0, usage("there has to be one process at least: %s stop ends all", s.program)
	}
	return s.toChosen("scale", "scaled", args[:last], func(a *app) error {
		if a.state == nil {
			return s.noAnswer(a)
		}
		ctx, cancel := context.WithTimeout(context.Background(), restartMargin)
		defer cancel()
		err := a.Scale(ctx, n)
		a.askAgain()
		return err
	})
}

// toChosen does something to the apps that the targets mean.
func (s *settings) toChosen(what, done string, targets []string, do func(*app) error) (int, error) {
	chosen, missing, err := s.choose(targets, what)
	if err != nil {
		return 0, err
	}
	code := 0
	for _, t := range missing {
		s.tell(levelError, capital(s.program)+" cannot find process with id: "+t)
		code = 1
	}
	if list := s.each(chosen, what, &code, do); len(list) > 0 {
		s.tell(levelInfo, capital(s.program)+" "+done+" process(es):")
		s.tell(levelData, s.tableOf(list))
	}
	return code, nil
}

// each does something to all apps at once and gives those to which it could be
// done; what went wrong is told, and sets the exit code. A table of them shows what
// they were before, as forever's.
func (s *settings) each(list []*app, what string, code *int, do func(*app) error) []*app {
	for _, a := range list {
		a.use()
	}
	errs := make([]error, len(list))
	var wait sync.WaitGroup
	for i, a := range list {
		wait.Go(func() { errs[i] = do(a) })
	}
	wait.Wait()
	var done []*app
	for i, a := range list {
		if errs[i] == nil {
			done = append(done, a)
			continue
		}
		*code = 1
		s.tell(levelError, fmt.Sprintf("cannot %s %s: %v", what, a.UID, errs[i]))
	}
	return done
}

func (s *settings) tableOf(list []*app) string {
	c, err := s.readConfig()
	columns := defaultColumns
	if err == nil {
		columns = c.columns()
	}
	return strings.Join(gridOf(list, columns).write(s.coloured(1)), "\n")
}

// stop ends an app. It comes back when nothing of it is left.
func (s *settings) stop(a *app) error {
	switch {
	case a.Status == control.Stopped:
		a.Forget()
		return nil
	case a.Status == control.Unsupervised:
		// A supervisor knows how to end a tree, and when to lose patience.
		adopted, err := s.adopt(a)
		if err != nil {
			return fmt.Errorf("it has no supervisor and cannot be given one: %w (kill -TERM %d ends the app)", err, a.Child.PID)
		}
		a = adopted
	case a.state == nil:
		return s.unanswered(a)
	}
	q := control.StopRequest{}
	if texts := s.texts["kill-signal"]; len(texts) > 0 {
		q.Signal = texts[0]
	}
	pidfd, err := unix.PidfdOpen(a.PID, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.stopTime())
	defer cancel()
	if _, err := a.Stop(ctx, q); err != nil {
		if !isUnresponsive(err) && !errors.As(err, new(*control.Failed)) {
			awaitEnd(pidfd, exitTime) // it is dying
		}
		switch {
		case a.Alive() && isUnresponsive(err):
			return fmt.Errorf("it is still being stopped by supervisor %d after %s; %s signal KILL %s ends it now", a.PID, a.stopTime(), s.program, a.UID)
		case a.Alive():
			return fmt.Errorf("supervisor %d: %w", a.PID, err)
		case a.Review() && a.Status == control.Unsupervised:
			return s.stop(a) // it was killed while it was asked
		}
	}
	awaitEnd(pidfd, exitTime)
	a.Forget() // one that had given up already leaves its record
	return nil
}

// awaitEnd waits for the end of the process of a pidfd, with so much patience.
func awaitEnd(pidfd int, patience time.Duration) {
	if pidfd < 0 {
		return
	}
	for limit := time.Now().Add(patience); ; {
		left := time.Until(limit)
		if left <= 0 {
			return
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// stopTime is how long a stop may take.
func (a *app) stopTime() time.Duration {
	timeout := time.Duration(a.state.KillTimeoutMS) * time.Millisecond
	if timeout == 0 || timeout > longestStop {
		timeout = endlessStop
	}
	return timeout + stopMargin
}

// reloadTime is how long a reload may take when another one has just begun: in
// each, every process is replaced in turn.
func (a *app) reloadTime() time.Duration {
	ready := time.Duration(a.state.ReadyTimeoutMS) * time.Millisecond
	return 2 * time.Duration(max(len(a.state.Workers), 1)) * (ready + a.stopTime() + restartMargin)
}

// restart starts an app anew.
func (s *settings) restart(a *app) error {
	return s.renew(a, func(a *app) error {
		ctx, cancel := context.WithTimeout(context.Background(), a.stopTime()+restartMargin)
		defer cancel()
		_, err := a.Restart(ctx)
		return err
	})
}

// reload replaces the processes of an app.
func (s *settings) reload(a *app) error {
	return s.renew(a, func(a *app) error {
		ctx, cancel := context.WithTimeout(context.Background(), a.reloadTime())
		defer cancel()
		_, err := a.Reload(ctx)
		a.askAgain()
		return err
	})
}

// askAgain has the table show an app as it is now: restart shows what was, as forever's.
func (a *app) askAgain() {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	a.ask(ctx)
	a.at = time.Now()
}

// renew has the supervisor of an app do something after which its processes are
// new. One that has no supervisor gets it, or is started.
func (s *settings) renew(a *app, do func(*app) error) error {
	switch {
	case a.Status == control.Stopped:
		return s.startAgain(a)
	case a.Status == control.Unsupervised:
		adopted, err := s.adopt(a)
		if err != nil {
			return err
		}
		a = adopted
	case a.state == nil:
		return s.unanswered(a)
	}
	pidfd, err := unix.PidfdOpen(a.PID, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	if err := do(a); err != nil {
		if f := new(control.Failed); errors.As(err, &f) && f.Why == pid1.ErrEnding.Error() {
			// Unless somebody stops it, it is giving up.
			awaitEnd(pidfd, stopMargin)
			if ended := s.remembered(a); ended != nil {
				return s.startAgain(ended)
			}
		}
		return fmt.Errorf("supervisor %d: %w", a.PID, err)
	}
	return nil
}

// remembered gives an app as its supervisor left it that ended; nil: it left
// nothing, since it was stopped.
func (s *settings) remembered(a *app) *app {
	all, _ := s.apps()
	for _, b := range all {
		if b.Status == control.Stopped && b.PID == a.PID && b.StartTime == a.StartTime {
			return b
		}
	}
	return nil
}

// noAnswer is why nothing can be done about an app whose supervisor says nothing.
func (s *settings) noAnswer(a *app) error {
	if a.Status == control.Running {
		return s.unanswered(a)
	}
	return s.alone(a)
}

// alone is why nobody answers for an app.
func (s *settings) alone(a *app) error {
	if a.Status == control.Unsupervised {
		return fmt.Errorf("it has no supervisor: %s adopt %s gives it one", s.program, a.UID)
	}
	return fmt.Errorf("it does not run: %s restart %s starts it", s.program, a.UID)
}

// unanswered is why nothing can be done about an app.
func (s *settings) unanswered(a *app) error {
	if isUnresponsive(a.err) {
		return fmt.Errorf("its supervisor %d does not answer; is it frozen? kill -CONT %d wakes it, kill -KILL %d ends it: the app then goes on, and %s adopt or stop find it",
			a.PID, a.PID, a.PID, s.program)
	}
	return fmt.Errorf("its supervisor %d cannot be asked: %w", a.PID, a.err)
}

// startAgain starts an app that ended by itself and is remembered.
func (s *settings) startAgain(a *app) error {
	if _, err := launch(again(a.Recipe), a.LogFile, nil); err != nil {
		return err
	}
	a.Forget()
	return nil
}

// again is a recipe for another time: its logs are there, and are added to.
func again(r control.Recipe) control.Recipe {
	const add = "--append=true"
	if !slices.Contains(r.Args, add) {
		r.Args = append([]string{add}, r.Args...)
	}
	return r
}

func (s *settings) adoptAction(targets []string) (int, error) {
	var chosen []*app
	var missing []string
	var err error
	if len(targets) == 0 {
		chosen, err = s.apps()
	} else {
		chosen, missing, err = s.choose(targets, "adopt")
	}
	if err != nil {
		return 1, err
	}
	code := 0
	for _, t := range missing {
		s.tell(levelError, capital(s.program)+" cannot find process with id: "+t)
		code = 1
	}
	var lost []*app
	for _, a := range chosen {
		switch {
		case a.Status == control.Unsupervised:
			lost = append(lost, a)
		case len(targets) > 0:
			s.tell(levelError, fmt.Sprintf("cannot adopt %s: it has its supervisor, or does not run", a.UID))
			code = 1
		}
	}
	if len(lost) == 0 && code == 0 {
		s.tell(levelInfo, "No "+s.program+" processes without a supervisor")
		return 0, nil
	}
	var fresh []*app
	var mu sync.Mutex
	s.each(lost, "adopt", &code, func(a *app) error {
		b, err := s.adopt(a)
		if err == nil {
			mu.Lock()
			fresh = append(fresh, b)
			mu.Unlock()
		}
		return err
	})
	if len(fresh) > 0 {
		s.tell(levelInfo, capital(s.program)+" adopted process(es):")
		s.tell(levelData, s.tableOf(fresh))
	}
	return code, nil
}

// adopt gives an app whose supervisor was killed a new one and returns it as it
// is then.
func (s *settings) adopt(a *app) (*app, error) {
	env, err := environOf(a.Child.PID)
	if err != nil {
		return nil, fmt.Errorf("cannot read the environment of process %d: %w", a.Child.PID, err)
	}
	r := again(a.Recipe)
	r.Env = s.ownEnv(env)
	if _, err := launch(r, a.LogFile, a.Child); err != nil {
		return nil, err
	}
	all, err := s.apps()
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if b.livePID() == a.Child.PID && b.state != nil {
			return b, nil
		}
	}
	return nil, errors.New("its new supervisor does not answer")
}

func (s *settings) signalAction(args []string) (int, error) {
	if len(args) == 0 {
		return 0, usage("signal takes a signal and targets: %s signal USR2 web", s.program)
	}
	if _, err := parseKillSignal(args[0]); err != nil {
		return 0, usage("%w", err)
	}
	chosen, missing, err := s.choose(args[1:], "signal")
	if err != nil {
		return 0, err
	}
	code := 0
	for _, t := range missing {
		s.tell(levelError, capital(s.program)+" cannot find process with id: "+t)
		code = 1
	}
	s.each(chosen, "signal", &code, func(a *app) error {
		if a.state == nil {
			return s.noAnswer(a)
		}
		ctx, cancel := context.WithTimeout(context.Background(), restartMargin)
		defer cancel()
		return a.Signal(ctx, args[0])
	})
	return code, nil
}
