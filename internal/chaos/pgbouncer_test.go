package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A bouncer is a PgBouncer.
type bouncer struct {
	program, version string
	prepares         bool // it keeps prepared statements
}

// bouncers returns the machine's own and that of MDB_TEST_PGBOUNCER. One of them has
// to keep prepared statements.
func bouncers(t *testing.T) (found []bouncer) {
	t.Helper()
	own, err := exec.LookPath("pgbouncer")
	if err != nil {
		if own, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Fatal("there is no pgbouncer: install it (Debian: apt-get install pgbouncer)")
		}
	}
	programs := []string{own}
	if newer := os.Getenv("MDB_TEST_PGBOUNCER"); newer != "" && newer != own {
		programs = append(programs, newer)
	}
	prepares := false
	for _, program := range programs {
		out, err := exec.Command(program, "--version").Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		var major, minor int
		if _, err := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil {
			t.Fatalf("%s says %q: %v", program, out, err)
		}
		b := bouncer{program, fmt.Sprintf("%d.%d", major, minor), major > 1 || minor >= 21}
		found, prepares = append(found, b), prepares || b.prepares
	}
	if !prepares {
		t.Fatal("no PgBouncer here is 1.21 or later: set MDB_TEST_PGBOUNCER to one, for example to $(scripts/fetch-pgbouncer)")
	}
	return found
}

// start starts it in transaction mode in front of the database, and returns the
// database's URL through it. It needs no password, and lets nobody else in than this
// machine.
func (b bouncer) start(t *testing.T, target string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	listener.Close()
	dir, err := os.MkdirTemp("", "mdb-pgbouncer-") //nolint:usetesting // other users may not enter the test's folder
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ini := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s port=%d user=%s

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
server_login_retry = 0.05
%s`, cfg.Host, cfg.Port, cfg.User, port, b.settings())
	if err := errors.Join(os.WriteFile(ini, []byte(text), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(b.program, ini)
	var log strings.Builder
	cmd.Stderr = &log
	if err := pgtest.Unprivileged(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	u := url.URL{
		Scheme: "postgres", User: url.User(cfg.User), Host: "127.0.0.1:" + port,
		Path: "/" + cfg.Database, RawQuery: "sslmode=disable",
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for { // until it answers
		conn, err := pgx.Connect(ctx, u.String())
		if err == nil {
			_ = conn.Close(ctx)
			return u.String()
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		settle()
	}
}

func (b bouncer) settings() string {
	if b.prepares {
		return "max_prepared_statements = 100\n"
	}
	return ""
}

// TestPgBouncer works through PgBouncer in transaction mode, which keeps no settings,
// none but the newer ones prepared statements, and refuses the start-up parameters that
// Configure sets. What the documentation says is what is set here: a mode of pgx that
// sends a statement with its arguments (not describe exec, which sends them apart)
// unless prepared statements are kept, and the role's settings instead of Configure's.
// The bell listens past it.
func TestPgBouncer(t *testing.T) {
	needsCI(t) // and a program that make test shall not need
	for _, b := range bouncers(t) {
		modes := []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol}
		if b.prepares {
			modes = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec}
		}
		for _, mode := range modes {
			t.Run(b.version+"/"+mode.String(), func(t *testing.T) { b.test(t, mode) })
		}
	}
}

func (b bouncer) test(t *testing.T, mode pgx.QueryExecMode) {
	s, direct := ownServer(t)
	admin := connect(t, direct)
	execute(t, admin, `ALTER ROLE postgres SET search_path = message_store, "$user", public, pg_temp`)
	execute(t, admin, `ALTER ROLE postgres SET message_store.sql_condition = 'off'`)
	if err := schema.InstallNotify(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	// It gets to the server through a proxy, which cuts its connections too.
	p := newProxy(t, s.URL("postgres"))
	w := newWorld(direct, b.start(t, p.url()), *seedFlag)
	w.messages, w.unpooled = scaled(300, 3000), true
	w.prepare = func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode }
	w.options = []mdb.StoreOption{mdb.WithNotify(mdb.ListenOn(direct))}
	if mode == pgx.QueryExecModeExec {
		w.options = append(w.options, mdb.WithDirectSQL())
	}
	w.grace = 0 // PgBouncer keeps its connections
	violations := w.run(t, func(ctx context.Context) error {
		return every(ctx, w.rng, 300*time.Millisecond, func() error {
			w.fault()
			p.cutAll()
			return nil
		})
	})
	w.judge(t, "T15", int(p.hits.Load()), violations)

	store, pool := w.open(t)
	defer pool.Close()
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	// The bell hears, past PgBouncer, what is written through it.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	dropped := make(chan error, 1)
	go func() {
		dropped <- store.SubscribeToCategory(ctx, w.names[0], func(context.Context, mdb.Message) error { return nil })
	}()
	for end := time.Now().Add(patience); store.NotifyStats().Waiting == 0; settle() {
		if time.Now().After(end) {
			t.Fatalf("the bell is not armed: %+v", store.NotifyStats())
		}
	}
	stop()
	if err := <-dropped; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
