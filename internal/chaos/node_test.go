package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// A node is a PostgreSQL server of a cluster, with its Patroni.
type node struct {
	cluster   *cluster
	Name      string
	Port, API int // of PostgreSQL and of Patroni
	dir       string
}

func (n *node) address() string            { return loopback(n.Port) }
func (n *node) url(database string) string { return adminURL(n.Port, database) }

// connect opens a connection to Message DB on the node.
func (n *node) connect(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, n.url("mdb")) }

// query reads one row from the node.
func (n *node) query(ctx context.Context, sql string, into ...any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // the node may be frozen
	defer cancel()
	conn, err := pgx.Connect(ctx, n.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// crash kills the server's main process.
func (n *node) crash() error {
	text, err := os.ReadFile(filepath.Join(n.dir, "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// die ends all processes of the node in an instant, as a power failure does: while they are
// frozen, none can react to the end of another.
func (n *node) die() error {
	return errors.Join(n.freeze(), n.signal(syscall.SIGKILL, func(process) bool { return false }))
}

// freeze stops all processes of the node. Its connections stay open, and the system even
// accepts new ones, but nothing answers.
func (n *node) freeze() error { return n.signal(syscall.SIGSTOP, process.stopped) }

func (n *node) thaw() error {
	return n.signal(syscall.SIGCONT, func(p process) bool { return !p.stopped() })
}

// holdBack stops the processes that send WAL to standbys.
func (n *node) holdBack() error {
	held := 0
	for _, p := range n.processes() {
		if p.sendsWAL() {
			held++
			if err := p.signal(syscall.SIGSTOP); err != nil {
				return err
			}
		}
	}
	if held == 0 {
		return fmt.Errorf("node %s sends WAL to no standby", n.Name)
	}
	return nil
}

// signal sends a signal to all processes of the node, also to those that they start in the
// meantime, until each is gone or done.
func (n *node) signal(s syscall.Signal, done func(process) bool) error {
	for end := time.Now().Add(testTimeout); ; tick() {
		left := 0
		for _, p := range n.processes() {
			if done(p) {
				continue
			}
			left++
			if err := p.signal(s); err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes of node %s ignore the signal %v", left, n.Name, s)
		}
	}
}

// processes returns the processes of the node. PostgreSQL works in the data directory, and
// all others in the folder above it.
func (n *node) processes() (found []process) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		folder, err := os.Readlink(filepath.Join(entry, "cwd"))
		if err == nil && (folder == n.dir || strings.HasPrefix(folder, n.dir+"/")) {
			found = append(found, process(entry))
		}
	}
	return found
}

// A process is the path of a process below /proc.
type process string

func (p process) pid() string { return filepath.Base(string(p)) }

// stopped reports whether a signal has stopped the process.
func (p process) stopped() bool {
	text, _ := os.ReadFile(filepath.Join(string(p), "stat"))
	_, state, _ := strings.Cut(string(text), ") ") // after the program's name
	return strings.HasPrefix(state, "T")
}

func (p process) sendsWAL() bool {
	title, _ := os.ReadFile(filepath.Join(string(p), "cmdline"))
	return bytes.Contains(title, []byte("walsender"))
}

// signal sends a signal to the process, unless it has ended.
func (p process) signal(s syscall.Signal) error {
	pid, err := strconv.Atoi(p.pid())
	if err == nil {
		err = syscall.Kill(pid, s)
	}
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// setSession keeps the signals of the terminal away from the command.
func setSession(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setsid = true
}
