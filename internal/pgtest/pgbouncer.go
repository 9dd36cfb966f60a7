package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A PgBouncer is a PgBouncer program.
type PgBouncer struct {
	Version         string // major and minor
	KeepsStatements bool   // supports prepared statements in transaction mode
	program         string
}

// PgBouncers returns the machine's PgBouncer and the one at MDB_TEST_PGBOUNCER, as far as
// they exist.
func PgBouncers(t testing.TB) (found []PgBouncer) {
	t.Helper()
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer", os.Getenv("MDB_TEST_PGBOUNCER")} {
		program, err := exec.LookPath(name)
		if err != nil || slices.ContainsFunc(found, func(b PgBouncer) bool { return b.program == program }) {
			continue
		}
		out, err := exec.Command(program, "--version").Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		var major, minor int
		if _, err := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil {
			t.Fatalf("%s --version prints %q: %v", program, out, err)
		}
		found = append(found, PgBouncer{fmt.Sprintf("%d.%d", major, minor), major > 1 || minor >= 21, program})
	}
	return found
}

// Start starts a PgBouncer in the pool mode for the database, and returns the database's URL
// through it. It requires no password, sends
// the target's, and listens on loopback only.
func (b PgBouncer) Start(t testing.TB, target, mode string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if address := b.launch(t, cfg, mode); address != "" {
			return address
		}
	}
	t.Fatal("other processes took each port that was free")
	return ""
}

// launch starts a PgBouncer, and returns "" if another process took its port first.
func (b PgBouncer) launch(t testing.TB, cfg *pgx.ConnConfig, mode string) string {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "mdb-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	password := ""
	if cfg.Password != "" {
		password = " password=" + cfg.Password
	}
	ini := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s port=%d user=%s%s

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = 4
max_client_conn = 200
server_login_retry = 0.05
%s`, cfg.Host, cfg.Port, cfg.User, password, port, mode, b.settings())
	if err := errors.Join(os.WriteFile(ini, []byte(text), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(b.program, ini)
	var log strings.Builder
	cmd.Stderr = &log
	if err := Unprivileged(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
		cancel() // whoever has the port may not answer
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(log.String())
		}
	})
	u := url.URL{
		Scheme: "postgres", User: url.User(cfg.User), Host: "127.0.0.1:" + port,
		Path: "/" + cfg.Database, RawQuery: "sslmode=disable",
	}
	for { // until it answers
		conn, err := pgx.Connect(ctx, u.String())
		if err == nil {
			_ = conn.Close(ctx)
			return u.String()
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		select {
		case <-ended:
			if strings.Contains(log.String(), "Address already in use") {
				return ""
			}
		default:
		}
		t.Fatal(err)
	}
}

func (b PgBouncer) settings() string {
	if b.KeepsStatements {
		return "max_prepared_statements = 100\n"
	}
	return ""
}
