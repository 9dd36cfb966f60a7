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

// A pgBouncer is a PgBouncer program.
type pgBouncer struct {
	program, version string
	keepsStatements  bool // supports prepared statements in transaction mode
}

// pgBouncers returns the machine's PgBouncer and the one at MDB_TEST_PGBOUNCER. At least
// one of them must support prepared statements.
func pgBouncers(t *testing.T) (found []pgBouncer) {
	t.Helper()
	own, err := exec.LookPath("pgbouncer")
	if err != nil {
		if own, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Fatal("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
		}
	}
	programs := []string{own}
	if newer := os.Getenv("MDB_TEST_PGBOUNCER"); newer != "" && newer != own {
		programs = append(programs, newer)
	}
	keepsStatements := false
	for _, program := range programs {
		out, err := exec.Command(program, "--version").Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		var major, minor int
		if _, err := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil {
			t.Fatalf("%s --version prints %q: %v", program, out, err)
		}
		b := pgBouncer{program, fmt.Sprintf("%d.%d", major, minor), major > 1 || minor >= 21}
		found, keepsStatements = append(found, b), keepsStatements || b.keepsStatements
	}
	if !keepsStatements {
		t.Fatal("PgBouncer 1.21 or later is required: set MDB_TEST_PGBOUNCER to its path, for example to $(scripts/fetch-pgbouncer)")
	}
	return found
}

// start starts a PgBouncer in transaction mode for the database, and returns the
// database's URL through it. It requires no password and listens on loopback only.
func (b pgBouncer) start(t *testing.T, target string) string {
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
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
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
		tick()
	}
}

func (b pgBouncer) settings() string {
	if b.keepsStatements {
		return "max_prepared_statements = 100\n"
	}
	return ""
}

// TestPgBouncer checks that a store works through PgBouncer in transaction mode, which
// keeps no session settings, rejects the start-up parameters that Configure sets, and
// supports prepared statements only since 1.21. The test does what the documentation
// says: the settings belong to the role, and without prepared statements pgx uses a mode
// that sends a statement together with its arguments (describe exec does not). The
// listening connection bypasses PgBouncer.
func TestPgBouncer(t *testing.T) {
	needsCI(t) // and make test does not require PgBouncer
	for _, b := range pgBouncers(t) {
		modes := []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol}
		if b.keepsStatements {
			modes = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec}
		}
		for _, mode := range modes {
			t.Run(b.version+"/"+mode.String(), func(t *testing.T) { b.test(t, mode) })
		}
	}
}

func (b pgBouncer) test(t *testing.T, mode pgx.QueryExecMode) {
	s, direct := ownServer(t)
	admin := connect(t, direct)
	execute(t, admin, `ALTER ROLE postgres SET search_path = message_store, "$user", public, pg_temp`)
	execute(t, admin, `ALTER ROLE postgres SET message_store.sql_condition = 'off'`)
	if err := schema.InstallNotify(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	// PgBouncer connects to the server through a proxy, which cuts its connections too.
	p := newProxy(t, s.URL("postgres"))
	w := newWorkload(direct, b.start(t, p.url()), *seedFlag)
	w.messages, w.pooler = scaled(300, 3000), true
	w.configure = func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode }
	w.options = []mdb.StoreOption{mdb.WithNotify(mdb.ListenOn(direct))}
	if mode == pgx.QueryExecModeExec {
		w.options = append(w.options, mdb.WithDirectSQL())
	}
	w.grace = 0 // PgBouncer keeps its connections
	violations := w.run(t, func(ctx context.Context) error {
		return every(ctx, w.rng, 300*time.Millisecond, func() error {
			w.noteFault()
			p.cutAll()
			return nil
		})
	})
	w.evaluate(t, "T15", int(p.injected.Load()), violations)

	store, pool := w.open(t)
	defer pool.Close()
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	// The listening connection, which bypasses PgBouncer, receives the notifications of
	// writes through it.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	dropped := make(chan error, 1)
	go func() {
		dropped <- store.SubscribeToCategory(ctx, w.names[0], func(context.Context, mdb.Message) error { return nil })
	}()
	for end := time.Now().Add(testTimeout); store.NotifyStats().Waiting == 0; tick() {
		if time.Now().After(end) {
			t.Fatalf("no subscription waits for notifications: %+v", store.NotifyStats())
		}
	}
	stop()
	if err := <-dropped; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
