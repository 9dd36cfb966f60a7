package ledger

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// Tests of the protocol run consumers.sql with a clock and a timeline that they set, and so
// with the times and failovers of a schedule.

// A change replaces a text of consumers.sql, which contains it exactly that often.
type change struct {
	old, new string
	times    int
}

const testClock = `
CREATE FUNCTION public.walk_clock() RETURNS timestamptz LANGUAGE sql AS
$$ SELECT coalesce('epoch'::timestamptz + nullif(current_setting('walk.now', true), '')::bigint * interval '1 microsecond', pg_catalog.clock_timestamp()) $$;`

// For the rows of the model.
const testTimes = `
CREATE FUNCTION public.walk_micro(timestamptz) RETURNS bigint LANGUAGE sql AS $$ SELECT (extract(epoch FROM $1) * 1000000)::bigint $$;
CREATE FUNCTION public.walk_time(bigint) RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz + $1 * interval '1 microsecond' $$;`

const testTimeline = `
CREATE OR REPLACE FUNCTION message_store_consumers.timeline() RETURNS text LANGUAGE sql AS
$$ SELECT coalesce(nullif(current_setting('walk.timeline', true), ''), '1') $$;`

var clockCalls = regexp.MustCompile(`(pg_catalog\.)?clock_timestamp\(\)`)

// consumersSQL returns the SQL that InstallConsumers runs, with the changes.
func consumersSQL(t testing.TB, changes ...change) string {
	t.Helper()
	text, err := os.ReadFile("../../mdb/schema/consumers.sql")
	if err != nil {
		t.Fatal(err)
	}
	sql := string(text)
	for _, c := range changes {
		if n := strings.Count(sql, c.old); n != c.times {
			t.Fatalf("consumers.sql has %q %d times, want %d", c.old, n, c.times)
		}
		sql = strings.ReplaceAll(sql, c.old, c.new)
	}
	return testClock + testTimes + clockCalls.ReplaceAllString(sql, "public.walk_clock()") + testTimeline
}

// consumersDatabase returns the URL of a new database with that SQL. Its template is made once
// for each key.
func consumersDatabase(t testing.TB, key string, sql func() string) string {
	t.Helper()
	return testdb.NewFrom(t, "ledger "+key, func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.PgConn().Exec(ctx, sql()).ReadAll()
		return err
	})
}

func session(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// memberID returns the ID of a member of the model. IDs have the order of their numbers.
func memberID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("00000000-0000-4000-8000-%012x", n))
}
