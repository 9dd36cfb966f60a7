package mdbweb_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// showAll shows each page of a store with a parked message, and a live tail.
func (s *site) showAll(id string) {
	s.Helper()
	for path, want := range map[string]string{
		"/": "mail 4", "/?q=ma": "mail 4", "/messages": "mail-1", "/messages?category=mail&order=first": "Queued", "/messages?stream=mail-1&type=Sent": "Sent", "/message/" + id: "1 message · 1 stream", "/streams": "mail-1",
		"/streams?q=mail-": "mail-2", "/types": "Queued", "/types?category=mail": "Sent", "/throughput": "4", "/health": "Message DB 1.3.0", "/live?category=mail": "mail", "/consumers": "mailer",
		"/consumers/show?name=mailer": "mail-1", "/consumers/parked?name=mailer": "no mailbox",
	} {
		s.wants(s.page(path), want)
	}
	e := s.follow("/live/events?category=mail&after=0", "")
	for range 4 {
		if m := e.next(s.T, "message"); m["stream"] == "" {
			s.Errorf("a live tail shows %v", m)
		}
	}
	e.stop()
}

// TestModes checks that all pages are shown in all modes in which pgx executes statements.
func TestModes(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	direct := connect(t, url)
	parkMails(t, direct, "mail-1", "mail-2")
	m, err := direct.GetLastStreamMessage(t.Context(), "mail-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			store := configured(t, url, func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode })
			newSiteOf(t, store).showAll(m.ID.String())
		})
	}
}

// TestBehindPgBouncer checks that all pages are shown through PgBouncer in transaction mode.
func TestBehindPgBouncer(t *testing.T) {
	t.Parallel()
	found := pgtest.PgBouncers(t)
	if len(found) == 0 {
		t.Skip("there is no PgBouncer")
	}
	for _, bouncer := range found {
		t.Run(fmt.Sprintf("PgBouncer %s", bouncer.Version), func(t *testing.T) {
			t.Parallel()
			url := testdb.Consumers(t)
			direct := connect(t, url)
			if _, err := schema.PinSearchPath(t.Context(), direct.Pool()); err != nil { // PgBouncer does not pass on the search path
				t.Fatal(err)
			}
			parkMails(t, direct, "mail-1", "mail-2")
			m, err := direct.GetLastStreamMessage(t.Context(), "mail-1")
			if err != nil {
				t.Fatal(err)
			}
			store := connect(t, bouncer.Start(t, url, "transaction"), mdb.BehindPooler())
			newSiteOf(t, store, mdbweb.BehindPooler()).showAll(m.ID.String())
		})
	}
}
