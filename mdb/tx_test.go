package mdb_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestWithTx checks that messages and rows of a service's own table are both committed, or
// neither.
func TestWithTx(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	exec(t, s.Pool(), `CREATE TABLE public.accounts (stream text)`)
	stream := mdbtest.Category("account").Stream("1")
	errFailed := errors.New("failed")
	work := func(end error) error {
		return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `INSERT INTO public.accounts VALUES ($1)`, string(stream)); err != nil {
				return err
			}
			mtx := s.WithTx(tx)
			if _, err := mtx.WriteMessage(t.Context(), stream, mdb.NewMessage("Opened", nil)); err != nil {
				return err
			}
			// Another Tx of the same transaction.
			if _, err := s.WithTx(tx).WriteMessages(t.Context(), stream, proposals(2)); err != nil {
				return err
			}
			return end
		})
	}
	for _, tt := range []struct {
		end              error
		messages, orders int
	}{{errFailed, 0, 0}, {nil, 3, 1}, {errFailed, 3, 1}, {nil, 6, 2}} {
		if err := work(tt.end); !errors.Is(err, tt.end) {
			t.Fatal(err)
		}
		messages := len(positions(t, s.Pool(), stream))
		orders := value[int](t, s.Pool(), `SELECT count(*) FROM public.accounts`)
		if messages != tt.messages || orders != tt.orders {
			t.Errorf("got %d messages and %d rows, want %d and %d", messages, orders, tt.messages, tt.orders)
		}
	}
}

// TestSavepoint checks that rolling back to a savepoint undoes the messages written since,
// and that the next write continues from there.
func TestSavepoint(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("savepoint").Stream("1")
	tx := begin(t, s.Pool())
	write(t, s.WithTx(tx), stream, mdb.NewMessage("First", nil))
	inner, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.WithTx(inner), stream, mdb.NewMessage("Undone", nil))
	_, err = s.WithTx(inner).WriteMessage(t.Context(), stream, mdb.NewMessage("Lost", nil), mdb.ExpectNoStream())
	wantError[*mdb.WrongVersionError](t, err)
	if err := inner.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, s.WithTx(tx), stream, mdb.NewMessage("Second", nil), mdb.ExpectVersion(0))
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	ms, err := s.GetStreamMessages(t.Context(), stream)
	if err != nil || len(ms) != 2 || ms[0].Type != "First" || ms[1].Type != "Second" {
		t.Errorf("got messages %+v, error %v, want First and Second", ms, err)
	}
}

// TestLockCategoriesOrder checks that locks are taken in the order of their hashes, in
// whatever order they are named: while one is held elsewhere, those with smaller hashes
// are taken and those with larger ones are not.
func TestLockCategoriesOrder(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	const n = 7
	categories := make([]mdb.Category, n)
	for i := range categories {
		categories[i] = mdbtest.Category(fmt.Sprint("order", i))
	}
	byHash := func(a, b mdb.Category) int {
		if mdb.Hash64(string(a)) < mdb.Hash64(string(b)) {
			return -1
		}
		return 1
	}
	for held := range n {
		sorted := slices.SortedFunc(slices.Values(categories), byHash)
		release := holdLock(t, s, sorted[held])
		rand.Shuffle(n, func(i, j int) { categories[i], categories[j] = categories[j], categories[i] })
		tx := begin(t, s.Pool())
		done := make(chan error, 1)
		go func() { done <- s.WithTx(tx).LockCategories(t.Context(), append(categories, categories...)...) }()
		untilBlocked(t, s.Pool(), sorted[held], 1)
		for i, category := range sorted {
			const sql = `SELECT EXISTS (SELECT FROM pg_locks WHERE granted AND pid = $2 AND ` + keyLocks + `)`
			if got := value[bool](t, s.Pool(), sql, mdb.Hash64(string(category)), int(tx.Conn().PgConn().PID())); got != (i < held) {
				t.Errorf("whether lock %d is taken before lock %d: got %t", i, held, got)
			}
		}
		release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WithTx(begin(t, s.Pool())).LockCategories(t.Context()); err != nil {
		t.Errorf("no categories: got error %v, want none", err)
	}
}

// TestLockCategoriesIsWritersLock checks that the lock excludes writers of the category's
// streams, and no others.
func TestLockCategoriesIsWritersLock(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	category, other := mdbtest.Category("locked"), mdbtest.Category("free")
	tx := begin(t, s.Pool())
	if err := s.WithTx(tx).LockCategories(t.Context(), category); err != nil {
		t.Fatal(err)
	}
	write(t, s, other.Stream("1"), mdb.NewMessage("Happened", nil))
	done := make(chan error, 3)
	for _, stream := range []mdb.StreamName{category.Stream("1"), category.Stream("2"), mdb.StreamName(category)} {
		go func() {
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			done <- err
		}()
	}
	// The pool has connections for three waiting writes and the transaction, so this query
	// needs another one.
	untilBlocked(t, newPool(t, testdb.Shared(t)), category, 3)
	// The transaction itself can still write.
	if err := s.WithTx(tx).LockCategories(t.Context(), category); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestNoDeadlock checks that no transaction is retried when many write to pairs of few
// categories in any order, because LockCategories takes their locks in one call.
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	var log journal
	s := newStore(t, newPool(t, testdb.New(t)), log.option())
	categories := make([]mdb.Category, 5)
	for i := range categories {
		categories[i] = mdbtest.Category("pair")
	}
	const goroutines, rounds = 40, 4
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range rounds {
				pick := rand.Perm(len(categories))
				pair := []mdb.Category{categories[pick[0]], categories[pick[1]]}
				err := s.Atomically(t.Context(), pair, func(tx *mdb.Tx) error {
					for _, i := range rand.Perm(2) {
						if _, err := tx.WriteMessage(t.Context(), pair[i].Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := log.retries(); n != 0 {
		t.Errorf("got %d retries, want none: %s", n, log.String())
	}
	if n := value[int](t, s.Pool(), `SELECT count(*) FROM message_store.messages`); n != 2*goroutines*rounds {
		t.Errorf("got %d messages, want %d", n, 2*goroutines*rounds)
	}
	for _, category := range categories {
		p := positions(t, s.Pool(), category.Stream("1"))
		for i := range p {
			if p[i] != int64(i) {
				t.Fatalf("got positions %v in the order of the global positions", p)
			}
		}
	}
}
