package schema_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestInstallConsumersAndRoles checks who may install and migrate, on its own server, because roles belong to all databases.
func TestInstallConsumersAndRoles(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	server := pgtest.Own(t)
	admin := connect(t, server.URL("postgres"))
	err := schema.InstallConsumers(t.Context(), admin)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42704" || !strings.Contains(err.Error(), "install Message DB first") {
		t.Errorf("got %v, want that the role message_store is missing", err)
	}
	wantConsumers(t, admin, 0)
	install(t, admin)
	run(t, admin, `CREATE ROLE app LOGIN; CREATE ROLE stranger LOGIN`)
	as := func(role string) *pgx.Conn {
		t.Helper()
		conn := connect(t, server.URL("postgres"))
		run(t, conn, `SET ROLE `+role)
		return conn
	}
	err = schema.InstallConsumers(t.Context(), as("app"))
	if !errors.As(err, &pgErr) || pgErr.Code != "42501" || !strings.Contains(err.Error(), "the role needs CREATE on the database") {
		t.Errorf("got %v, want that a privilege is missing", err)
	}
	run(t, admin, `GRANT CREATE ON DATABASE postgres TO app`)
	if err := schema.InstallConsumers(t.Context(), as("app")); err != nil {
		t.Fatal(err)
	}
	next := append(slices.Clone(schema.ConsumersMigrations), `CREATE TABLE message_store_consumers.next ();`+versionTwo)
	if err := schema.InstallConsumersBy(t.Context(), as("stranger"), next); err == nil || !strings.Contains(err.Error(), "it belongs to the role app") {
		t.Errorf("got %v, want that only the owner may migrate", err)
	}
	wantConsumers(t, admin, schema.ConsumersVersion)
	if err := schema.InstallConsumersBy(t.Context(), admin, next); err != nil {
		t.Fatal(err)
	}
	owners := rows(t, admin, `SELECT DISTINCT o::regrole::text FROM (SELECT relowner AS o FROM pg_class WHERE relnamespace = 'message_store_consumers'::regnamespace
		UNION SELECT proowner FROM pg_proc WHERE pronamespace = 'message_store_consumers'::regnamespace) AS owners`)
	if !slices.Equal(owners, []string{"app"}) {
		t.Errorf("the objects belong to %q, want app", owners)
	}
	if got := rows(t, admin, `SELECT current_user::text`); got[0] == "app" {
		t.Error("the session keeps the role of the owner")
	}
	useConsumers(t, admin)
}

const versionTwo = `CREATE OR REPLACE FUNCTION message_store_consumers.version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 2';`

// TestMigrateConsumers checks that a schema is migrated while members use it, that it waits for a long
// transaction without making the members wait, and that an earlier program leaves it unchanged.
func TestMigrateConsumers(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	conn := connect(t, url)
	next := append(slices.Clone(schema.ConsumersMigrations), `
		ALTER TABLE message_store_consumers.members ADD COLUMN weight integer;
		ALTER TABLE message_store_consumers.checkpoints ADD COLUMN note text;`+versionTwo)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	var beats [2]chan struct{}
	for i := range beats {
		member := connect(t, url)
		m := useConsumers(t, member)
		beats[i] = make(chan struct{})
		wg.Go(func() {
			defer close(beats[i])
			for at := int64(0); ; at++ {
				held, err := ledger.Read(t.Context(), member, m)
				if err != nil || len(held.Rows) != 64 {
					t.Errorf("%d rows, %v", len(held.Rows), err)
					return
				}
				var moves []ledger.Move
				for _, r := range held.Rows {
					moves = append(moves, ledger.Move{Partition: r.Partition, Epoch: r.Epoch, From: r.Position, To: r.Position + 1})
				}
				tick, err := ledger.Beat(t.Context(), member, m, "", moves)
				if err != nil || len(tick.Moved) != 64 {
					t.Errorf("moved %d, %v", len(tick.Moved), err)
					return
				}
				select {
				case beats[i] <- struct{}{}:
				case <-stop:
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)

	long := connect(t, url)
	run(t, long, `BEGIN; SELECT FROM message_store_consumers.checkpoints`)
	done := make(chan error, 1)
	migrating := connect(t, url)
	go func() { done <- schema.InstallConsumersBy(t.Context(), migrating, next) }()
	testdb.WaitForLock(t, conn, migrating.PgConn().PID())
	for range 10 {
		for i := range beats {
			<-beats[i]
		}
	}
	select {
	case err := <-done:
		t.Fatalf("it has not waited: %v", err)
	default:
	}
	wantConsumers(t, conn, 1)
	run(t, long, `COMMIT`)
	for waiting := true; waiting; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			waiting = false
		case <-beats[0]:
		case <-beats[1]:
		}
	}
	wantConsumers(t, conn, 2)
	for i := range beats {
		<-beats[i]
	}
	text := consumersText(t, conn)
	if err := schema.InstallConsumers(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if after := consumersText(t, conn); after != text {
		t.Error("an earlier program has changed the schema")
	}
}

// TestConsumersCancelled checks that the wait of an installation ends with its context.
func TestConsumersCancelled(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	other, conn := connect(t, url), connect(t, url)
	run(t, other, `BEGIN; CREATE SCHEMA message_store_consumers`)
	ctx, cancel := context.WithCancel(t.Context())
	watching := connect(t, url)
	go func() {
		defer cancel()
		testdb.WaitForLock(t, watching, conn.PgConn().PID())
	}()
	if err := schema.InstallConsumers(ctx, conn); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error of the context", err)
	}
}
