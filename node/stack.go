package node

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/websocket"
	"golang.org/x/sys/unix"
)

// StackOptions are the options of node that Stack needs: an inspector on a port of
// its own, since 9229 is taken by the first of two and open to all who know it, and
// its address on no stream of the app's. Node still says "Debugger attached." on
// stderr when it is used.
var StackOptions = []string{"--inspect-port=127.0.0.1:0", "--inspect-publish-uid=http"}

const (
	// inspectorLook is the pause between two looks for the inspector's socket. There
	// is nothing to wait for: a look costs a tenth of a millisecond, and the app hangs.
	inspectorLook = 10 * time.Millisecond
	mostFrames    = 50
)

// Stack gives the JavaScript stack of a node process that was started with
// StackOptions, whatever it is doing in JavaScript: a line a frame, as node writes
// them. It sends SIGUSR1, which opens the inspector
// (https://nodejs.org/api/process.html#signal-events) unless the app has a handler
// for it, and which ends a process that is not node. The process goes on behind it;
// its inspector stays open on the loopback address.
func Stack(ctx context.Context, pid int) (string, error) {
	stack, err := inspect(ctx, pid)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("cannot take the stack of process %d: %w", pid, err)
	}
	return stack, nil
}

func inspect(ctx context.Context, pid int) (string, error) {
	before, err := loopbackListeners(pid)
	if err != nil {
		return "", err
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return "", err
	}
	for look := time.NewTicker(inspectorLook); ; {
		select {
		case <-ctx.Done():
			look.Stop()
			return "", ctx.Err()
		case <-look.C:
		}
		now, err := loopbackListeners(pid)
		if err != nil {
			return "", err
		}
		for inode, address := range now {
			if _, old := before[inode]; old {
				continue
			}
			look.Stop()
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.String())
			if err != nil {
				return "", err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			return pause(conn, address)
		}
	}
}

// loopbackListeners gives the TCP sockets of a process that listen on 127.0.0.1, by
// their inodes (proc_net_tcp(5), proc_pid_fd(5)). Of a process whose descriptors may
// not be looked at it gives all of its user's.
func loopbackListeners(pid int) (map[string]netip.AddrPort, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	table, err := os.ReadFile(proc + "/net/tcp")
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(proc, &st); err != nil {
		return nil, err
	}
	own := map[string]bool{}
	fds, errOwn := os.ReadDir(proc + "/fd")
	for _, fd := range fds {
		target, err := os.Readlink(proc + "/fd/" + fd.Name())
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	// The kernel prints the number that the bytes make in the machine's own order.
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback := fmt.Sprintf("%08X:", binary.NativeEndian.Uint32(ip.AsSlice()))
	found := map[string]netip.AddrPort{}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" { // TCP_LISTEN
			continue
		}
		digits, isLoopback := strings.CutPrefix(f[1], loopback)
		port, err := strconv.ParseUint(digits, 16, 16)
		if !isLoopback || err != nil {
			continue
		}
		if inode := f[9]; own[inode] || errOwn != nil && f[7] == strconv.Itoa(int(st.Uid)) {
			found[inode] = netip.AddrPortFrom(ip, uint16(port))
		}
	}
	return found, nil
}

// pause speaks the inspector's protocol,
// https://chromedevtools.github.io/devtools-protocol/v8/Debugger/.
func pause(conn net.Conn, at netip.AddrPort) (string, error) {
	// One connection is asked which session there is, and becomes that session.
	request, err := http.NewRequest(http.MethodGet, "http://"+at.String()+"/json/list", nil)
	if err != nil {
		return "", err
	}
	if err := request.Write(conn); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var targets []struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&targets); err != nil {
		return "", fmt.Errorf("the inspector's answer: %w", err)
	}
	if len(targets) == 0 || targets[0].URL == "" {
		return "", errors.New("the inspector is in use by another debugger")
	}
	config, err := websocket.NewConfig(targets[0].URL, "http://"+at.String())
	if err != nil {
		return "", err
	}
	session, err := websocket.NewClient(config, conn)
	if err != nil {
		return "", err
	}
	for id, method := range []string{"Debugger.enable", "Debugger.pause"} {
		if err := websocket.JSON.Send(session, map[string]any{"id": id + 1, "method": method}); err != nil {
			return "", err
		}
	}
	scripts := map[string]string{} // the URL of each
	for {
		var event struct {
			Method string
			Params struct {
				ScriptID, URL string
				CallFrames    []frame
			}
		}
		if err := websocket.JSON.Receive(session, &event); err != nil {
			return "", err
		}
		switch event.Method {
		case "Debugger.scriptParsed":
			scripts[event.Params.ScriptID] = event.Params.URL
		case "Debugger.paused":
			return text(event.Params.CallFrames, scripts), nil
		}
	}
}

// frame is the protocol's CallFrame; it counts lines and columns from 0.
type frame struct {
	FunctionName string
	Location     struct {
		ScriptID                 string
		LineNumber, ColumnNumber int
	}
}

// text writes frames as node does in a stack.
func text(frames []frame, scripts map[string]string) string {
	var b strings.Builder
	for i, f := range frames {
		if i == mostFrames {
			fmt.Fprintf(&b, "    and %d more\n", len(frames)-i)
			break
		}
		where := fmt.Sprintf("%s:%d:%d", strings.TrimPrefix(scripts[f.Location.ScriptID], "file://"), f.Location.LineNumber+1,
			f.Location.ColumnNumber+1)
		if f.FunctionName != "" {
			where = f.FunctionName + " (" + where + ")"
		}
		b.WriteString("    at " + where + "\n")
	}
	return b.String()
}
