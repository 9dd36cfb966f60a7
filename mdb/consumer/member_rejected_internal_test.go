package consumer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// TestMemberWithoutMutex checks that a process whose balances or releases the server ends, because somebody holds the
// lock of the consumer, retries them less and less often, goes on with what it has, and completes them when
// the lock is released.
func TestMemberWithoutMutex(t *testing.T) {
	for _, held := range []string{"balance", "release"} {
		inSubBubble(t, held, func(t *testing.T) {
			h := newHall(t, 4)
			ms := letters(t, 20, 4)
			a := hire(t, h, ms, nil)
			pass(5 * time.Second)
			a.take()
			attempts := 0
			h.set(func() {
				h.before = func(statement string) error {
					h.mu.Lock()
					defer h.mu.Unlock()
					if statement != held {
						return nil
					}
					attempts++
					return &pgconn.PgError{Severity: "ERROR", Code: "55P03"}
				}
			})
			b := hire(t, h, ms, nil)
			pass(2 * time.Minute)
			write(4, 4, a, b)
			pass(5 * time.Second)
			want := 4
			if held == "release" {
				want = 2 // the others are drained
			}
			if n := a.counts.partitions.Load() + b.counts.partitions.Load(); n != 4 || len(a.take()) != want {
				t.Errorf("got %d partitions, want 4, of which %d go on", n, want)
			}
			// At most twice in the longest delay, by each process, and some more at first.
			if attempts < 20 || attempts > 2*(2*125/5+10) {
				t.Errorf("got %d attempts in two minutes", attempts)
			}
			if n := a.counts.losses.Load() + b.counts.losses.Load(); n != 0 || a.counts.joins.Load()+b.counts.joins.Load() != 2 {
				t.Errorf("got %d losses", n)
			}
			h.set(func() { h.before = nil })
			pass(15 * time.Second)
			if got := h.owned(); !slices.Equal(got, []int{2, 2}) {
				t.Errorf("got %v partitions for two processes, want 2 each", got)
			}
			write(4, 4, a, b)
			pass(3 * time.Second)
			if x, y := a.take(), b.take(); len(x) != 2 || len(y) != 6-want {
				t.Errorf("got %v and %v afterwards", x, y)
			}
		})
	}
}

// TestMemberDeleted checks that the handlers of a process end when it learns that it is no member any more, also if its
// lease has not ended and it cannot join again yet.
func TestMemberDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newHall(t, 4)
		c := hire(t, h, letters(t, 4, 4), func(ctx context.Context, _ mdb.Message) error {
			<-ctx.Done()
			return ctx.Err()
		})
		pass(5 * time.Second)
		h.set(func() {
			clear(h.members)
			h.before = func(statement string) error {
				if statement == "join" {
					return &pgconn.PgError{Severity: "ERROR", Code: "55P03"}
				}
				return nil
			}
		})
		pass(3 * time.Second) // less than a lease
		if got := c.endings(); len(got) != 4 || !errors.Is(got[0], ErrLeaseLost) {
			t.Errorf("got the causes %v, want those of 4 handlers", got)
		}
		h.set(func() { h.before = nil })
		pass(10 * time.Second)
		if c.counts.joins.Load() != 2 || c.counts.partitions.Load() != 4 {
			t.Error("the process has not joined again")
		}
	})
}

// TestMemberResized checks that a process which joins again takes over another number of partitions, also if it is configured with
// one, unless it can have no other: then it ends with an error that says so.
func TestMemberResized(t *testing.T) {
	for name, fixed := range map[string]bool{"given": false, "fixed": true} {
		inSubBubble(t, name, func(t *testing.T) {
			h := newHall(t, 2)
			c := hire(t, h, letters(t, 20, 2), nil, func(mc *memberConfig, _ *engineConfig) { mc.join.Partitions, mc.fixed = 2, fixed })
			pass(5 * time.Second)
			c.take()
			h.set(func() {
				h.partitions = 4
				for n := 2; n < 4; n++ {
					h.rows[partition{Category: "category", Number: n}] = &hallRow{position: 20}
				}
				clear(h.members)
			})
			pass(5 * time.Second)
			if fixed {
				var setup *mdb.SetupError
				select {
				case err := <-c.ended:
					c.ended <- err
					if !errors.As(err, &setup) {
						t.Errorf("got %v, want a SetupError", err)
					}
				default:
					t.Error("it goes on")
				}
				return
			}
			write(4, 4, c)
			pass(5 * time.Second)
			if got := c.take(); len(got) != 4 || !slices.Equal(h.owned(), []int{4}) || c.counts.joins.Load() != 2 {
				t.Errorf("got %v of 4 messages in %v partitions", got, h.owned())
			}
		})
	}
}

// TestFatal checks what the errors of the schema's functions mean for a first join: what a retry cannot change becomes
// an error that says what to do.
func TestFatal(t *testing.T) {
	t.Parallel()
	explain := func(what string, err error) error { return errors.Join(errors.New(what), err) }
	for _, test := range []struct {
		code   string
		remedy string // of a SetupError; empty: it is retried
	}{
		{ledger.Partitions, "WithPartitions"},
		{ledger.NoConsumer, "run the consumer once"},
		{"3F000", "mdb install -consumers"},
		{"42883", "mdb install -consumers"},
		{"42501", "grant the role message_store"},
		{"55P03", ""},
		{"40001", ""},
	} {
		err := fatal("mailer", explain, &pgconn.PgError{Severity: "ERROR", Code: test.code, Message: "consumer \"mailer\" has 64 partitions, not 8"})
		var setup *mdb.SetupError
		switch {
		case test.remedy == "" && err != nil:
			t.Errorf("%s: got %v, want that it is retried", test.code, err)
		case test.remedy != "" && (!errors.As(err, &setup) || !strings.Contains(setup.Remedy, test.remedy)):
			t.Errorf("%s: got %v, want %q", test.code, err, test.remedy)
		case test.code == ledger.Partitions && !strings.Contains(err.Error(), "64"):
			t.Errorf("%s: got %v, want the number", test.code, err)
		}
	}
	for _, code := range []string{ledger.Fenced, ledger.Gone} { // which the consumer deals with itself
		if err := fatal("mailer", explain, &pgconn.PgError{Severity: "ERROR", Code: code}); err == nil || !strings.Contains(err.Error(), "join the consumer mailer") {
			t.Errorf("%s: got %v, want the error of the server with what was done", code, err)
		}
	}
}
