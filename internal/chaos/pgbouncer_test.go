package chaos

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// pgBouncers returns the machine's, at least one of which supports prepared statements.
func pgBouncers(t *testing.T) []pgtest.PgBouncer {
	t.Helper()
	found := pgtest.PgBouncers(t)
	if len(found) == 0 {
		t.Fatal("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
	}
	if !slices.ContainsFunc(found, func(b pgtest.PgBouncer) bool { return b.KeepsStatements }) {
		t.Fatal("PgBouncer 1.21 or later is required: set MDB_TEST_PGBOUNCER to its path, for example to $(scripts/fetch-pgbouncer)")
	}
	return found
}

// TestPgBouncer checks that a store works through PgBouncer in transaction mode, which
// keeps no session settings, rejects start-up parameters that it does not track, and
// supports prepared statements only since 1.21. The test does what the documentation
// says: the other settings belong to the role, and without prepared statements pgx uses a
// mode that sends a statement together with its arguments (describe exec does not). The
// listening connection bypasses PgBouncer.
func TestPgBouncer(t *testing.T) {
	needsCI(t) // and make test does not require PgBouncer
	for _, b := range pgBouncers(t) {
		modes := []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeSimpleProtocol}
		if b.KeepsStatements {
			modes = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec}
		}
		for _, mode := range modes {
			t.Run(b.Version+"/"+mode.String(), func(t *testing.T) { testPgBouncer(t, b, mode) })
		}
	}
}

func testPgBouncer(t *testing.T, b pgtest.PgBouncer, mode pgx.QueryExecMode) {
	s, direct := ownServer(t)
	admin := connect(t, direct)
	execute(t, admin, `ALTER ROLE postgres SET message_store.sql_condition = 'off'`)
	if err := schema.InstallNotify(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	// PgBouncer connects to the server through a proxy, which cuts its connections too.
	p := newProxy(t, s.URL("postgres"))
	w := newWorkload(direct, b.Start(t, p.url(), "transaction"), *seedFlag)
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

// TestBehindPooler checks that BehindPooler is all that a store needs in each of PgBouncer's
// modes, and that without it, and without the search path that Message DB's own functions
// need, the error says what to do.
func TestBehindPooler(t *testing.T) {
	needsCI(t)
	for _, b := range pgBouncers(t) {
		for _, mode := range []string{"session", "transaction"} {
			t.Run(b.Version+"/"+mode, func(t *testing.T) { testBehindPooler(t, b, mode) })
		}
	}
}

func testBehindPooler(t *testing.T, b pgtest.PgBouncer, mode string) {
	s, direct := ownServer(t)
	admin := connect(t, direct)
	execute(t, admin, `ALTER ROLE postgres SET message_store.sql_condition = off`)
	execute(t, admin, `ALTER ROLE postgres SET DateStyle = 'German'`)
	execute(t, admin, `ALTER ROLE postgres SET client_encoding = 'LATIN1'`)
	through := b.Start(t, s.URL("postgres"), mode)

	setup := new(mdb.SetupError)
	if _, err := mdb.Connect(t.Context(), through); !errors.As(err, &setup) || !strings.Contains(setup.Remedy, "BehindPooler") {
		t.Errorf("Connect without BehindPooler: got error %v, want the remedy", err)
	}
	pool := openPool(t, through, 2, configure)
	defer pool.Close()
	store, err := mdb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.StreamVersion(t.Context(), "account-1"); !errors.As(err, &setup) || !strings.Contains(setup.Remedy, "BehindPooler") {
		t.Errorf("a call without BehindPooler: got error %v, want the remedy", err)
	}

	store, err = mdb.Connect(t.Context(), through, mdb.BehindPooler(), mdb.WithConditions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	use := func() {
		t.Helper()
		want := `{"text": "Grüße"}`
		m := mdb.NewMessage("Ä", map[string]string{"text": "Grüße"})
		if _, err := store.WriteMessage(t.Context(), "account-1", m); err != nil {
			t.Error(err)
		}
		for _, result := range store.WriteEach(t.Context(), []mdb.Write{{Stream: "account-2", Message: mdb.NewMessage("Ä", nil)}}) {
			if result.Err != nil {
				t.Error(result.Err)
			}
		}
		err := store.Atomically(t.Context(), []mdb.Category{"account"}, func(tx *mdb.Tx) error {
			_, err := tx.GetCategoryMessages(t.Context(), "account", mdb.WithCondition("true"))
			return err
		})
		if err != nil {
			t.Error(err)
		}
		last, err := store.GetLastStreamMessage(t.Context(), "account-1")
		if err != nil || last.Type != "Ä" || string(last.Data) != want || time.Since(last.Time).Abs() > time.Hour {
			t.Errorf("got %s at %v, error %v, want %s now", last.Data, last.Time, err, want)
		}
		var text string
		if err := admin.QueryRow(t.Context(), `SELECT data->>'text' FROM message_store.messages WHERE stream_name = 'account-1' LIMIT 1`).Scan(&text); err != nil || text != "Grüße" {
			t.Errorf("got %q in the table, error %v", text, err)
		}
		if err := store.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	use()

	// Functions that depend on the search path.
	execute(t, admin, `CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint LANGUAGE plpgsql AS
		$$BEGIN RETURN (SELECT max(m.position) FROM messages AS m WHERE m.stream_name = stream_version.stream_name); END$$`)
	dependent, err := mdb.Connect(t.Context(), through, mdb.BehindPooler())
	if err != nil {
		t.Fatal(err)
	}
	defer dependent.Close()
	_, err = dependent.StreamVersion(t.Context(), "account-1")
	if !errors.As(err, &setup) {
		t.Fatalf("got error %v, want a %T", err, setup)
	}
	_, alter, found := strings.Cut(setup.Remedy, "behind a pooler, ")
	if !found {
		t.Fatalf("got remedy %q, want one for poolers", setup.Remedy)
	}
	execute(t, admin, alter)
	through = b.Start(t, s.URL("postgres"), mode) // with new connections to the server
	store, err = mdb.Connect(t.Context(), through, mdb.BehindPooler(), mdb.WithConditions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	use()

	// A role that lacks one of the settings which BehindPooler leaves to it.
	execute(t, admin, `ALTER ROLE postgres SET array_nulls = off`)
	store, err = mdb.Connect(t.Context(), b.Start(t, s.URL("postgres"), mode), mdb.BehindPooler())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Check(t.Context()); !errors.As(err, &setup) {
		t.Fatalf("got error %v, want a %T", err, setup)
	}
	_, alter, found = strings.Cut(setup.Remedy, ", or ")
	if !found || !strings.Contains(setup.Problem, "array_nulls is off") {
		t.Fatalf("got problem %q and remedy %q, want array_nulls and a statement", setup.Problem, setup.Remedy)
	}
	execute(t, admin, alter)
	through = b.Start(t, s.URL("postgres"), mode)

	folder := t.TempDir()
	if err := pgtest.Build(folder, "../../cmd/mdb"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-pooler", "check"}, {"read", "-pooler", "account-1"}} {
		cmd := exec.Command(filepath.Join(folder, "mdb"), args...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+through)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("mdb %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
