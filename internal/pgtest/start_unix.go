//go:build unix && !aix && !solaris

package pgtest

import (
	"bufio"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

//go:embed watchdog.sh
var watchdog string

// process is a server that Start started. When this process ends, however it ends, the
// kernel closes the pipe of commands, and the watchdog then stops and removes the
// server.
type process struct {
	bin      string
	dir      string
	lock     *os.File
	pid      int // of the watchdog
	commands io.WriteCloser
	replies  chan string // closed when the watchdog has ended
	port     string
	frozen   []int // the processes that freeze has stopped
}

// start starts a new server. If primary is not nil, the new server is its standby.
func start(ctx context.Context, conf *strings.Builder, primary *Server) (*Server, error) {
	bin, _, err := Find(ctx)
	if err != nil {
		return nil, err
	}
	account, err := account()
	if err != nil {
		return nil, err
	}
	sweep(bin)
	dir, lock, err := newFolder(account)
	if err != nil {
		return nil, err
	}

	Setting("listen_addresses", "127.0.0.1")(conf)
	Setting("unix_socket_directories", dir)(conf)
	password, source := rand.Text(), ""
	if primary != nil {
		password, _ = primary.tcp.User.Password() // it is a part of the copy
		source = filepath.Join(primary.process.dir, "data")
	}

	p := &process{bin: bin, dir: dir, lock: lock, replies: make(chan string)}
	prepare := func() error {
		if err := p.launch(account, password, conf.String(), source); err != nil {
			return errors.Join(err, discard(bin, dir), lock.Close())
		}
		if err := p.reply(ctx, "initdb"); err != nil {
			return errors.Join(err, p.stop())
		}
		return nil
	}
	if primary == nil {
		err = prepare()
	} else {
		err = p.duplicate(ctx, account, primary, prepare)
	}
	if err != nil {
		return nil, err
	}
	port, err := p.boot(ctx)
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.port = port

	s := &Server{
		socket: &url.URL{
			Scheme:   "postgres",
			User:     url.User("postgres"),
			RawQuery: url.Values{"host": {dir}, "port": {port}}.Encode(),
		},
		tcp: &url.URL{
			Scheme:   "postgres",
			User:     url.UserPassword("postgres", password),
			Host:     net.JoinHostPort("127.0.0.1", port),
			RawQuery: "sslmode=disable",
		},
		process: p,
	}
	s.admin = s.URL("postgres")

	return s, nil
}

// account returns the user that the server runs as, or nil for the current user.
func account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}

	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("pgtest: user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("pgtest: user %s: %w", name, err)
		}

		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}

	return nil, errors.New("pgtest: PostgreSQL does not run as root: create a user named postgres")
}

// Unprivileged makes the command run as another user if the current one is root,
// because neither PostgreSQL nor PgBouncer runs as root.
func Unprivileged(cmd *exec.Cmd) error {
	account, err := account()
	if err == nil && account != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	}
	return err
}

func (p *process) launch(account *syscall.Credential, password, conf, source string) error {
	cmd := exec.Command("/bin/sh", "-c", watchdog, "pgtest", p.bin, p.dir)
	cmd.Dir = p.dir
	// The caller's environment is not passed on: PG… variables would change the server.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin",
		"HOME=" + p.dir,
		"LC_ALL=C",
		"password=" + password,
		"settings=" + conf,
		"source=" + source,
	}
	// A new session keeps signals of the terminal away from the watchdog, which waits
	// for the end of the tests.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: account}
	cmd.ExtraFiles = []*os.File{p.lock}

	var err error
	if p.commands, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("pgtest: start the watchdog: %w", err)
	}
	replies, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("pgtest: start the watchdog: %w", err)
	}
	// Standard error is not inherited: go test waits until every process has closed it.
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pgtest: start the watchdog: %w", err)
	}
	p.pid = cmd.Process.Pid

	// This goroutine also keeps the pipe of commands reachable. If a garbage
	// collection closed it, a server whose URL is in use would stop.
	go func() {
		defer close(p.replies)
		lines := bufio.NewScanner(replies)
		for lines.Scan() {
			p.replies <- lines.Text()
		}
		_ = cmd.Wait()
	}()

	return nil
}

// boot starts the server on a free port. It retries if another process takes the
// port first.
func (p *process) boot(ctx context.Context) (port string, err error) {
	for range 5 {
		if port, err = freePort(); err != nil {
			return "", err
		}
		err = p.ctl(ctx, "start -o -p"+port)
		if err == nil || !strings.Contains(p.logTail(), "could not bind") {
			break
		}
	}

	return port, err
}

// ctl makes the watchdog run pg_ctl, which waits until the server accepts connections
// or has failed.
func (p *process) ctl(ctx context.Context, command string) error {
	if _, err := fmt.Fprintln(p.commands, command); err != nil {
		return fmt.Errorf("pgtest: pg_ctl %s: %w", command, err)
	}

	return p.reply(ctx, "pg_ctl "+command)
}

// crash kills the server's main process and starts the server again.
func (p *process) crash() error {
	pid, err := p.postmaster()
	if err != nil {
		return err
	}
	// If this were cancelled, later commands would read its reply.
	if err := p.ctl(context.Background(), "kill KILL "+strconv.Itoa(pid)); err != nil {
		return err
	}
	return p.again()
}

// again starts a server whose main process has been killed. The other processes end when
// they notice, and until then PostgreSQL does not start.
func (p *process) again() (err error) {
	for range 100 {
		if err = p.ctl(context.Background(), "start -o -p"+p.port); err == nil {
			return nil
		}
	}
	return err
}

// postmaster returns the server's main process.
func (p *process) postmaster() (pid int, err error) {
	pidFile, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, fmt.Errorf("pgtest: %w", err)
	}
	first, _, _ := strings.Cut(string(pidFile), "\n")
	if pid, err = strconv.Atoi(first); err != nil {
		return 0, fmt.Errorf("pgtest: postmaster.pid: %w", err)
	}
	return pid, nil
}

func (p *process) reply(ctx context.Context, command string) error {
	select {
	case status, ok := <-p.replies:
		if !ok {
			return fmt.Errorf("pgtest: %s: the watchdog in %s was killed", command, p.dir)
		}
		if status != "0" {
			return fmt.Errorf("pgtest: %s/%s failed; the server's log ends with\n%s", p.bin, command, p.logTail())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pgtest: %s: %w", command, context.Cause(ctx))
	}
}

func (p *process) logTail() string {
	log, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")

	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

func (p *process) stop() error {
	thawErr := p.thaw()
	_ = p.commands.Close()
	for range p.replies {
		// Discard the reply to a command whose caller gave up.
	}
	// The folder still exists only if the watchdog was killed.
	err := discard(p.bin, p.dir)
	_ = p.lock.Close()

	return errors.Join(thawErr, err)
}
