package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// mailers are processes that run the consumer mailer, in one folder.
type mailers struct {
	*testing.T

	sh    *shell
	store *mdb.Store

	mu      sync.Mutex
	handled []string
	running map[string]*exec.Cmd // by instance
}

func newMailers(t *testing.T) *mailers {
	t.Helper()
	url := testdb.Consumers(t)
	m := &mailers{
		T: t, sh: &shell{folder: t.TempDir(), env: environment("DATABASE_URL=" + url)}, store: connect(t, url),
		running: make(map[string]*exec.Cmd),
	}
	return m
}

// start starts a process.
func (m *mailers) start(instance string, args ...string) {
	m.Helper()
	cmd := exec.CommandContext(m.Context(), filepath.Join(filepath.Dir(program), "mailer"), append([]string{"-instance", instance}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = m.sh.folder, m.sh.env, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.Fatal(err)
	}
	m.running[instance] = cmd
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			m.mu.Lock()
			m.handled = append(m.handled, lines.Text())
			m.mu.Unlock()
		}
	}()
	m.Cleanup(func() {
		<-read
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) && !errors.As(err, new(*exec.ExitError)) {
			m.Error(err)
		}
	})
}

// stop ends a process, and waits until it has left.
func (m *mailers) stop(instance string) {
	m.Helper()
	if err := m.running[instance].Process.Signal(syscall.SIGTERM); err != nil {
		m.Fatal(err)
	}
	m.until("the process leaves", func(d consumer.Details) bool {
		return !slices.ContainsFunc(d.Processes, func(p consumer.MemberStatus) bool { return p.Instance == instance })
	})
}

// times returns how often a message was handled.
func (m *mailers) times(message string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, handled := range m.handled {
		if handled == message {
			n++
		}
	}
	return n
}

// mdb runs a command that must succeed, and returns what it prints.
func (m *mailers) mdb(args string) string {
	m.Helper()
	out, status := m.sh.run(m.T, "mdb "+args)
	if status != 0 {
		m.Fatalf("mdb %s: exit status %d\n%s", args, status, out)
	}
	return out
}

// fails runs a command that must fail with a text.
func (m *mailers) fails(args, text string) {
	m.Helper()
	if out, status := m.sh.run(m.T, "mdb "+args); status != 1 || !strings.Contains(out, text) {
		m.Errorf("mdb %s: exit status %d, want %q in\n%s", args, status, text, out)
	}
}

// until waits until what is shown of the consumer is as wanted.
func (m *mailers) until(what string, wanted func(d consumer.Details) bool) {
	m.Helper()
	o := consumer.Admin(m.store.Pool())
	for end := time.After(testTimeout); ; {
		d, err := o.Show(m.Context(), "mailer")
		switch {
		case err == nil && wanted(d):
			return
		case err != nil && !errors.As(err, new(*consumer.NotFoundError)):
			m.Fatal(err)
		}
		select {
		case <-time.After(20 * time.Millisecond): // only the database shows it
		case <-end:
			m.Fatalf("never: %s; it is %+v, handled: %v", what, d, m.handled)
		}
	}
}

// shared reports whether all processes have partitions.
func (m *mailers) shared(d consumer.Details) bool {
	n := 0
	for _, p := range d.Processes {
		if len(p.Partitions) == 0 {
			return false
		}
		n += len(p.Partitions)
	}
	return len(d.Processes) == len(m.running) && n == d.Partitions
}

// TestConsumersProcesses checks what the command does with a consumer that two processes run: what it shows, and that the
// processes obey.
func TestConsumersProcesses(t *testing.T) {
	t.Parallel()
	m := newMailers(t)
	write(t, m.store, "signup-1", "SignedUp")
	write(t, m.store, "signup-77", "Invalid")
	write(t, m.store, "signup-77", "SignedUp")
	m.start("mailer-0", "-partitions", "4")
	m.start("mailer-1", "-partitions", "4")
	m.until("both share the work", m.shared)
	m.until("the stream is parked, and all is stored", func(d consumer.Details) bool { return d.Parked == 1 && d.Pending == 0 })
	testdb.Postpone(t, m.store.Pool())

	var d consumer.Details
	if err := json.Unmarshal([]byte(m.mdb("consumers show -json mailer")), &d); err != nil || len(d.Processes) != 2 || d.Members != 2 || len(d.Checkpoints) != 4 || !m.shared(d) {
		t.Errorf("got %+v, %v", d, err)
	}
	shown := normal(m.mdb("consumers show -partitions mailer"))
	for _, want := range []string{
		"\nmailer    signup      2          4           0        -       1       running\n", "\nINSTANCE  PARTITIONS  HEARTBEAT  STORED  STATE    PROCESS\n",
		"\nmailer-0  ", "\nmailer-1  ", "running  HOST, process 1\n", "\nCATEGORY  PARTITION  POSITION  PENDING  OLDEST  STORED  PROCESS\n", "\nsignup    3          ",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("got\n%s\nwant in it\n%s", shown, want)
		}
	}
	m.fails("consumers delete mailer", "2 running members")
	m.fails("consumers rename mailer other", "2 running members")

	m.mdb("consumers pause -because lunch mailer")
	for range 2 { // the second heartbeat comes after the process has obeyed the first
		m.until("both have seen the pause", seenSince(m.now()))
	}
	write(t, m.store, "signup-2", "SignedUp")
	m.until("it is pending", func(d consumer.Details) bool { return d.Paused && d.Reason == "lunch" && d.Pending == 1 })
	if n := m.times("signup-2/0"); n > 0 {
		t.Error("a message is handled during a pause")
	}
	m.mdb("consumers resume mailer")
	m.until("the rest is handled", func(d consumer.Details) bool { return d.Pending == 0 && m.times("signup-2/0") == 1 })

	m.mdb("consumers resize mailer 8")
	m.until("both share the work again", m.shared)
	m.mdb("consumers resize mailer 3")
	m.until("both share the work again", m.shared)
	write(t, m.store, "signup-3", "SignedUp")
	m.until("the next message is handled", func(d consumer.Details) bool {
		return d.Pending == 0 && d.Partitions == 3 && m.times("signup-3/0") == 1
	})

	m.mdb("consumers replay mailer 77") // it fails again
	m.until("another attempt", func(consumer.Details) bool { return m.attempts() == 2 })
	m.mdb("consumers skip -at 0 mailer signup-77")
	m.until("what waited is handled", func(d consumer.Details) bool { return d.Parked == 0 && m.times("signup-77/1") == 1 })

	if n := m.times("signup-1/0"); n != 1 {
		t.Errorf("a message is handled %d times, want once", n)
	}
	if err := os.WriteFile(m.sh.folder+"/healed", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.mdb("consumers seek mailer beginning")
	m.until("all is handled again", func(d consumer.Details) bool {
		return d.Pending == 0 && m.times("signup-77/0") == 1 && m.times("signup-1/0") == 2
	})

	m.stop("mailer-1")
	m.fails("consumers delete mailer", "1 running members")
	m.mdb("consumers delete -force mailer")
	for m.times("failed: consumer: the consumer was deleted") == 0 {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-m.Context().Done():
			t.Fatal("the process does not end")
		}
	}
	if out, status := m.sh.run(t, "mdb consumers show mailer"); status != 4 {
		t.Errorf("exit status %d, want 4\n%s", status, out)
	}
}

// now returns the server's time.
func (m *mailers) now() (at time.Time) {
	m.Helper()
	if err := m.store.Pool().QueryRow(m.Context(), "SELECT clock_timestamp()").Scan(&at); err != nil {
		m.Fatal(err)
	}
	return at
}

// seenSince reports whether all processes have sent a heartbeat since a time.
func seenSince(at time.Time) func(d consumer.Details) bool {
	return func(d consumer.Details) bool {
		return !slices.ContainsFunc(d.Processes, func(p consumer.MemberStatus) bool { return p.Seen.Before(at) })
	}
}

func (m *mailers) attempts() int {
	m.Helper()
	parked, err := consumer.Admin(m.store.Pool()).Parked(m.Context(), "mailer")
	if err != nil || len(parked) != 1 {
		m.Fatalf("got %v, %v, want one stream", parked, err)
	}
	return parked[0].Attempts
}
