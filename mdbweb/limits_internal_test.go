package mdbweb

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

func newHandler(t *testing.T, opts ...Option) *Handler {
	t.Helper()
	store, err := mdb.Connect(t.Context(), testdb.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	h, err := New(store, append(opts, WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func codeOf(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// TestReadOnly checks that the database itself rejects a write of the pages: by the transactions of pages, and by those of anything
// else on their connections, whatever WithWrites says.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	const (
		insert   = "INSERT INTO message_store.messages (stream_name, position, type) VALUES ('a-1', 0, 'A')"
		readOnly = "25006"
	)
	for name, opts := range map[string][]Option{"read-only": nil, "with writes": {WithWrites()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHandler(t, opts...)
			err := h.reader.read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, insert)
				return err
			})
			if codeOf(err) != readOnly {
				t.Errorf("in the transaction of a page: %v", err)
			}
			if _, err := h.reader.pool.Exec(t.Context(), insert); codeOf(err) != readOnly {
				t.Errorf("on a connection of the pool: %v", err)
			}
			if _, err := h.follower.WriteMessage(t.Context(), "a-1", mdb.NewMessage("A", nil)); err == nil {
				t.Error("the store of the live tails writes")
			}
			if _, err := h.watcher.Replay(t.Context(), "absent"); err == nil {
				t.Error("the operator that looks writes")
			}
			if _, err := h.store.GetLastStreamMessage(t.Context(), "a-1"); !errors.Is(err, mdb.ErrNoMessage) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

// TestReadOnlyBehindPooler checks that with a pooler, which accepts no settings for connections, the transactions of pages have
// them.
func TestReadOnlyBehindPooler(t *testing.T) {
	t.Parallel()
	h := newHandler(t, BehindPooler(), StatementTimeout(61234*time.Millisecond))
	if _, ok := h.reader.pool.Config().ConnConfig.RuntimeParams["statement_timeout"]; ok {
		t.Error("a start-up parameter is sent to the pooler")
	}
	var readOnly, timeout string
	err := h.reader.read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT current_setting('transaction_read_only'), current_setting('statement_timeout')").Scan(&readOnly, &timeout)
	})
	if err != nil || readOnly != "on" || timeout != "61234ms" {
		t.Errorf("transaction_read_only is %s, statement_timeout %s, %v", readOnly, timeout, err)
	}
	if r := h.reader.pool.QueryRow(t.Context(), "SELECT current_setting('statement_timeout')"); r.Scan(&timeout) != nil || timeout != "0" {
		t.Errorf("after the transaction, statement_timeout is %s", timeout)
	}
}

// TestStatementTimeout checks that the server cancels a statement of a page, and what the user sees then.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	h := newHandler(t, StatementTimeout(50*time.Millisecond))
	err := h.reader.read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT pg_sleep(60)")
		return err
	})
	if codeOf(err) != "57014" {
		t.Fatalf("got %v, want a cancelled statement", err)
	}
	if status, _ := explain(err); status != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", status)
	}
	if _, err := h.reader.pool.Exec(t.Context(), "SELECT pg_sleep(60)"); codeOf(err) != "57014" {
		t.Errorf("outside a page: %v", err)
	}
}

// TestMaxQueries checks that no more statements run at the same time than MaxQueries allows, and that requests beyond it are rejected
// after a while.
func TestMaxQueries(t *testing.T) {
	t.Parallel()
	h := newHandler(t, MaxQueries(2))
	h.reader.wait = 50 * time.Millisecond
	var held []interface{ Release() }
	for range 2 {
		conn, err := h.reader.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	if err := h.reader.read(t.Context(), func(context.Context, pgx.Tx) error { return nil }); !errors.Is(err, errBusy) {
		t.Errorf("got %v, want %v", err, errBusy)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/messages", nil)
	r.RemoteAddr = "127.0.0.1:4000"
	h.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, want 503", w.Code)
	}
	held[0].Release()
	h.reader.wait = time.Minute
	if err := h.reader.read(t.Context(), func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Errorf("after a release: %v", err)
	}
	held[1].Release()
}

// TestAssetsAreSmall checks that what a browser loads beside a page is less than 100 KB.
func TestAssetsAreSmall(t *testing.T) {
	t.Parallel()
	files, err := staticFiles.ReadDir("static")
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, file := range files {
		content, err := staticFiles.ReadFile("static/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		size += len(content)
	}
	if size >= 100_000 || size == 0 {
		t.Errorf("%d bytes", size)
	}
}
