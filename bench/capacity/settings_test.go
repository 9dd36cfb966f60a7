package main

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// TestSettings checks that with the settings of docs/scaling.md autovacuum freezes messages soon after they are inserted.
func TestSettings(t *testing.T) {
	t.Parallel()
	pgtest.NeedPrograms(t)
	page, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	statement := regexp.MustCompile(`ALTER TABLE message_store\.messages SET .*;`).FindString(string(page))
	const threshold = "autovacuum_vacuum_insert_threshold = 1000000"
	if !strings.Contains(statement, threshold) {
		t.Fatalf("found %q", statement)
	}
	s, err := newServer(t.Context(), pgtest.Setting("autovacuum", "on"), pgtest.Setting("autovacuum_naptime", "1s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.create(t.Context(), "freezing", ours(strings.Replace(statement, threshold, "autovacuum_vacuum_insert_threshold = 100", 1))); err != nil {
		t.Fatal(err)
	}
	store, err := s.connect(t.Context(), "freezing")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for i := range 500 {
		if _, err := store.WriteMessage(t.Context(), streamOf("account", i), newMessage()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		var frozen bool
		err := store.Pool().QueryRow(ctx, `SELECT age(relfrozenxid) < age((SELECT xmin FROM message_store.messages ORDER BY global_position LIMIT 1))
			FROM pg_class WHERE oid = 'message_store.messages'::regclass`).Scan(&frozen)
		if err != nil {
			t.Fatal(err)
		}
		if frozen {
			return
		}
		<-tick.C
	}
}
