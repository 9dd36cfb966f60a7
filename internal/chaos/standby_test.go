package chaos

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestStandby checks a workload whose server comes back as a standby, which answers
// reads but rejects writes and LISTEN, until it is promoted.
func TestStandby(t *testing.T) {
	s, url := ownServer(t, pgtest.Setting("max_connections", "60"))
	if err := schema.InstallNotify(t.Context(), connect(t, url)); err != nil {
		t.Fatal(err)
	}
	w := newWorkload(url, url, *seedFlag)
	// Writes outlast the restart, and then end, because the server stays a standby.
	brief := mdb.WithRetry(mdb.RetryPolicy{For: 2 * time.Second, Attempts: 10_000, MaxDelay: 50 * time.Millisecond})
	w.messages, w.options = 0, []mdb.StoreOption{brief, mdb.WithNotify()}
	times := scaled(1, 4)
	readOnly := func(err error) bool {
		var pgErr *pgconn.PgError
		return errors.As(err, &pgErr) && pgErr.Code == "25006"
	}
	violations := w.run(t, func(ctx context.Context) error {
		for range times {
			if err := w.untilAcked(ctx, scaled(200, 1500)); err != nil {
				return err
			}
			w.noteFault()
			if err := demote(ctx, s, url); err != nil {
				return err
			}
			demoted := time.Now()
			if err := w.await(ctx, func() bool {
				// The first ones may fail with an error of the restart.
				return slices.ContainsFunc(w.errors, readOnly) && slices.ContainsFunc(w.ops, func(o *op) bool { return o.outcome == failed && o.sent.After(demoted) })
			}); err != nil {
				return err
			}
			if err := promote(ctx, url); err != nil {
				return err
			}
		}
		return w.untilAcked(ctx, 200)
	})
	if !slices.ContainsFunc(w.errors, readOnly) {
		t.Error("the standby rejected no write")
	}
	w.evaluate(t, "T6", times, violations)
}

// demote restarts the server as a standby without a primary.
func demote(ctx context.Context, s *pgtest.Server, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `DO $$ BEGIN
	EXECUTE format('COPY (SELECT) TO %L', current_setting('data_directory') || '/standby.signal');
END $$`)
	return errors.Join(err, conn.Close(ctx), s.Restart("fast"))
}

func promote(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	var promoted bool
	err = conn.QueryRow(ctx, "SELECT pg_promote()").Scan(&promoted)
	if err == nil && !promoted {
		err = errors.New("the standby was not promoted")
	}
	return errors.Join(err, conn.Close(ctx))
}
