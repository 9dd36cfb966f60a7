//go:build unix && !aix && !solaris

package pgtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// owner is a child process that has started a server.
type owner struct {
	cmd      *exec.Cmd
	stdin    io.Closer
	dir      string
	watchdog int
	url      string
}

func startOwner(t *testing.T, mode string, env ...string) *owner {
	t.Helper()

	NeedPrograms(t)
	o := &owner{cmd: command(t, nil, append(env, childMode+"="+mode)...)}
	stdin, err := o.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.stdin = stdin
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(stdout, &o.dir, &o.watchdog, &o.url); err != nil {
		_ = stdin.Close()
		t.Fatalf("the child did not start a server: %v: %v", err, o.cmd.Wait())
	}

	return o
}

func (o *owner) gone() bool {
	_, err := os.Lstat(o.dir)

	return errors.Is(err, os.ErrNotExist) && !o.listening()
}

func (o *owner) listening() bool {
	u, err := url.Parse(o.url)
	if err != nil {
		return true
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return false
	}
	_ = conn.Close()

	return true
}

// TestServerEndsWithItsOwner checks that a server and its folder are removed when its
// process exits, panics or is killed, even if the server is frozen.
func TestServerEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	NeedTime(t)

	for _, test := range []struct {
		mode   string
		signal os.Signal
		status int
	}{
		{mode: "exit", status: 3},
		{mode: "panic", status: 2},
		{mode: "hang", signal: os.Kill, status: -1},
		{mode: "frozen", signal: os.Kill, status: -1},
	} {
		t.Run(fmt.Sprint(test.mode, test.signal), func(t *testing.T) {
			t.Parallel()

			o := startOwner(t, test.mode)
			if o.gone() {
				t.Fatal("the server is gone before its owner")
			}
			if test.signal != nil {
				if err := o.cmd.Process.Signal(test.signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = o.stdin.Close()
			_ = o.cmd.Wait()
			if got := o.cmd.ProcessState.ExitCode(); got != test.status {
				t.Errorf("exit status %d, want %d", got, test.status)
			}

			eventually(t, "the server and its folder are gone", o.gone)
		})
	}
}

// TestSweep checks that Start removes the server of a process that was killed together
// with its watchdog, but not while that process is alive.
func TestSweep(t *testing.T) {
	t.Parallel()
	NeedTime(t)

	// In a folder of its own, no other run sweeps the leftover.
	temp, err := os.MkdirTemp("/tmp", "mdb-sweep-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o777); err != nil {
		t.Fatal(err)
	}

	o := startOwner(t, "hang", "TMPDIR="+temp)
	if err := syscall.Kill(o.watchdog, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watchdog has ended", func() bool { return errors.Is(syscall.Kill(o.watchdog, 0), syscall.ESRCH) })

	if lock, err := lockFolder(o.dir); err == nil {
		_ = lock.Close()
		t.Error("the next start would sweep a server whose owner is alive")
	}

	_ = o.cmd.Process.Kill()
	_ = o.cmd.Wait()
	if !o.listening() {
		t.Fatal("the server ended without a watchdog")
	}

	next := startOwner(t, "return", "TMPDIR="+temp)
	if !o.gone() {
		t.Error("the next start did not sweep the leftover")
	}
	_ = next.stdin.Close()
	_ = next.cmd.Wait()
	eventually(t, "the folder is empty", func() bool {
		entries, err := os.ReadDir(temp)
		return err == nil && len(entries) == 0
	})
}

// TestStopWithoutWatchdog checks that Stop removes the server even if its watchdog was
// killed.
func TestStopWithoutWatchdog(t *testing.T) {
	t.Parallel()

	NeedPrograms(t)
	s, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.process.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	o := &owner{dir: s.process.dir, url: s.TCP("postgres")}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if !o.gone() {
		t.Error("Stop left the server of a killed watchdog")
	}
}

// TestLockFolder checks that a folder has one lock, which does not count for a new
// folder at the same path.
func TestLockFolder(t *testing.T) {
	t.Parallel()

	dir := t.TempDir()
	// A process that another test starts has the lock, too, until it executes its program.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	lock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFolder(dir); err == nil {
		t.Error("locked a folder that is already locked")
	}

	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := verify(lock, dir); err == nil {
		t.Error("the lock of a removed folder counts for a new one at its path")
	}

	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = lockFolder(dir); err != nil {
		t.Errorf("a free lock: %v", err)
	}
	_ = lock.Close()
}
