package main_test

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/internal/trigger"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// waitFor makes a session wait for notifications of the categories, as a store does.
func waitFor(t *testing.T, conn *pgx.Conn, categories ...string) {
	t.Helper()
	testdb.Exec(t, conn, "SELECT pg_advisory_lock_shared($1, hashtext(category)) FROM unnest($2::text[]) AS category", trigger.Key, categories)
}

// fill writes a message to each category.
func fill(t *testing.T, conn *pgx.Conn, categories ...string) {
	t.Helper()
	testdb.Exec(t, conn, "SELECT message_store.write_message(gen_random_uuid()::varchar, category || '-1', 'Opened', '{}') FROM unnest($1::text[]) AS category", categories)
}

// A listed is a session, and what status prints of its categories.
type listed struct {
	conn       *pgx.Conn
	categories string
}

// wantStatus checks what status prints: how many categories there are, what it complains of, an expression, and the sessions.
func wantStatus(t *testing.T, env []string, categories int, complaint string, sessions ...listed) {
	t.Helper()
	want := fmt.Sprintf("the NOTIFY trigger is installed\nconnections waiting for notifications: %d, categories: %d\n%s", len(sessions), categories, complaint)
	slices.SortFunc(sessions, func(x, y listed) int { return cmp.Compare(x.conn.PgConn().PID(), y.conn.PgConn().PID()) })
	for _, s := range sessions {
		want += fmt.Sprintf(`  pid %d, client \S+, application_name "[^"]*", categories: %s`+"\n", s.conn.PgConn().PID(), regexp.QuoteMeta(s.categories))
	}
	if out, status := (&shell{env: env}).run(t, "mdb notify status"); status != 0 || !regexp.MustCompile("^"+want+"$").MatchString(out) {
		t.Errorf("exit status %d, printed %q, want %q", status, out, want)
	}
}

// TestNotifyStatus checks that status names the categories that have messages, escapes their names, and counts the others.
func TestNotifyStatus(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	env := environment("DATABASE_URL=" + url)
	conn, first, second := testdb.Session(t, url), testdb.Session(t, url), testdb.Session(t, url)
	wantStatus(t, env, 0, "")
	fill(t, conn, "order", "account", "other", "a\nb", "\x1b[31mred", "\u202egnp.exe", "résumé", "or, a", "account:command")
	waitFor(t, first, "order", "absent", "account", "account:command")
	waitFor(t, second, "order", "a\nb", "\x1b[31mred", "\u202egnp.exe", "résumé", "or, a")
	ofFirst := listed{first, "4 (account, account:command, order, 1 unknown)"}
	ofSecond := listed{second, `6 (\u001b[31mred, \u202egnp.exe, a\u000ab, or, a, order, résumé)`}
	wantStatus(t, env, 9, "", ofFirst, ofSecond)

	// Locks of other keys, of another mode and in another database are not of categories.
	waitFor(t, testdb.Session(t, testdb.Notifying(t)), "order")
	testdb.Exec(t, conn, "SELECT pg_advisory_lock_shared(1, hashtext('order')), pg_advisory_lock($1, hashtext('free'))", trigger.Key)
	wantStatus(t, env, 9, "", ofFirst, ofSecond)

	fill(t, conn, "absent")
	ofFirst.categories = "4 (absent, account, account:command, order)"
	wantStatus(t, env, 9, "", ofFirst, ofSecond)
}

// TestNotifyStatusCollision checks that status prints both names if the hashes of two categories are the same.
func TestNotifyStatusCollision(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	conn, listener := testdb.Session(t, url), testdb.Session(t, url)
	same := testdb.Value[[]string](t, conn, `SELECT array_agg(name ORDER BY name) FROM (SELECT 'c' || n FROM generate_series(1, 400000) AS n) AS c(name)
		GROUP BY hashtext(name) HAVING count(*) = 2 LIMIT 1`)
	fill(t, conn, same...)
	waitFor(t, listener, same[1])
	wantStatus(t, environment("DATABASE_URL="+url), 1, "", listed{listener, "1 (" + same[0] + " or " + same[1] + ")"})
}

// TestNotifyStatusBound checks that status looks at a limited number of categories.
func TestNotifyStatusBound(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	conn, listener := testdb.Session(t, url), testdb.Session(t, url)
	testdb.Exec(t, conn, `INSERT INTO message_store.messages (stream_name, type, position)
		SELECT 'c' || lpad(category::text, 4, '0') || '-' || stream, 'Opened', 0 FROM generate_series(1, 3001) AS category, generate_series(1, 3) AS stream`)
	if err := schema.InstallNotify(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	waitFor(t, listener, "c0001", "c3000", "c3001")
	wantStatus(t, environment("DATABASE_URL="+url), 3, "", listed{listener, "3 (c0001, c3000, 1 unknown)"})
}

// TestNotifyStatusWithoutNames checks that status prints all but the names if the role may not read the table messages, and
// if the table is locked.
func TestNotifyStatusWithoutNames(t *testing.T) {
	t.Parallel()
	url := testdb.Notifying(t)
	owner, role := environment("DATABASE_URL="+url), environment("DATABASE_URL="+url, "PGOPTIONS=-c role=message_store")
	conn, listener := testdb.Session(t, url), testdb.Session(t, url)
	fill(t, conn, "account", "order")
	waitFor(t, listener, "account", "order")
	known, unknown := listed{listener, "2 (account, order)"}, listed{listener, "2 (2 unknown)"}
	wantStatus(t, role, 2, "", known)
	const complaint = `mdb: look up the names of categories: ERROR: `
	for _, test := range []struct{ revoke, complaint string }{
		{"SELECT ON message_store.messages", `permission denied for table messages \(SQLSTATE 42501\)` + "\n"},
		{"USAGE ON SCHEMA message_store", `permission denied for schema message_store \(SQLSTATE 42501\)` + "\n"},
	} {
		testdb.Exec(t, conn, "REVOKE "+test.revoke+" FROM message_store")
		wantStatus(t, role, 2, complaint+test.complaint, unknown)
	}
	wantStatus(t, owner, 2, "", known)
	testdb.Exec(t, conn, "BEGIN")
	testdb.Exec(t, conn, "LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE")
	wantStatus(t, owner, 2, complaint+`canceling statement due to lock timeout \(SQLSTATE 55P03\)`+"\n", unknown)

	// Without a connection there is nothing to look up.
	testdb.Exec(t, listener, "SELECT pg_advisory_unlock_all()")
	wantStatus(t, owner, 0, "")
}

// TestPLProxyNotifyStatus checks that the shard of a category names it, that the other shard does not, and that the proxy
// names none.
func TestPLProxyNotifyStatus(t *testing.T) {
	t.Parallel()
	p := testdb.NewProxy(t, 2, nil)
	fill(t, testdb.Session(t, p.URL), "account")
	named := 0
	for _, url := range p.Shards {
		conn := testdb.Session(t, url)
		if err := schema.InstallNotify(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		waitFor(t, conn, "account")
		want := "1 (1 unknown)"
		if testdb.Value[bool](t, conn, "SELECT EXISTS (SELECT FROM message_store.messages)") {
			want = "1 (account)"
			named++
		}
		wantStatus(t, environment("DATABASE_URL="+url), 1, "", listed{conn, want})
	}
	if named != 1 {
		t.Errorf("%d shards have the category, want 1", named)
	}
	out, status := (&shell{env: environment("DATABASE_URL=" + p.URL)}).run(t, "mdb notify status")
	if status != 4 || out != "mdb: write_message is a function of PL/Proxy: run mdb notify status on each shard\n" {
		t.Errorf("exit status %d, printed %q", status, out)
	}
}
