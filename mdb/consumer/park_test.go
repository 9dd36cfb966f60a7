package consumer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

func (c *clinic) error() string {
	c.Helper()
	var text *string
	if err := c.store.Pool().QueryRow(c.Context(), `SELECT min(error) FROM message_store_consumers.parked`).Scan(&text); err != nil {
		c.Fatal(err)
	}
	if text == nil {
		return ""
	}
	return *text
}

// TestParkedError checks that the type of an error is stored, or, with WithErrorText, its text, so that PostgreSQL can store it.
func TestParkedError(t *testing.T) {
	t.Parallel()
	for want, opts := range map[string][]consumer.Option{
		"*errors.errorString":                   nil,
		"ill \uFFFD" + strings.Repeat("é", 995): {consumer.WithErrorText()},
	} {
		t.Run(want[:3], func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, "Each", opts...)
			c.ill["patient-1"] = true
			c.write("patient-1")
			c.run()
			c.until("the parking", func() bool { return len(c.rows()) == 1 })
			if got := c.error(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if err := c.c.Replay(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.until("another attempt", func() bool { return c.rows()[0] == "patient-1 0 2 1 5" })
			if got := c.error(); got != want {
				t.Errorf("after a replay: got %q, want %q", got, want)
			}
		})
	}
}

// TestOnPark checks that the function of OnPark writes in the transaction that parks, that nothing of a failed call remains, and that a
// stream is parked without it after three failures.
func TestOnPark(t *testing.T) {
	t.Parallel()
	for name, failures := range map[string]int{"success": 0, "two failures": 2, "panics": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var store *mdb.Store
			calls := 0
			c := newClinic(t, "EachTx", consumer.OnPark(func(ctx context.Context, tx pgx.Tx, p consumer.Parked) error {
				calls++
				_, err := store.WithTx(tx).WriteMessage(ctx, "alert-1", mdb.NewMessage("Parked", map[string]int{"call": calls}))
				switch {
				case p.Consumer != "clinic" || p.Stream != "patient-1" || p.Position != 0 || p.Attempts != 1 || p.Error != "*errors.errorString" || p.GlobalPosition == 0:
					t.Errorf("got %+v", p)
				case tx.Commit(ctx) == nil:
					t.Error("the transaction can be committed")
				case name == "panics":
					panic("full")
				case calls <= failures:
					return errors.New("full")
				}
				return err
			}))
			store = c.store
			c.ill["patient-1"] = true
			c.write("patient-1", "patient-1+b")
			c.run()
			c.until("the parking", func() bool { return len(c.rows()) == 2 })
			alerts, err := store.GetStreamMessages(t.Context(), "alert-1")
			if err != nil {
				t.Fatal(err)
			}
			want := 1
			if name == "panics" {
				want = 0
			}
			if len(alerts) != want || calls != min(failures+1, 3) {
				t.Errorf("got %d alerts and %d calls, want %d", len(alerts), calls, want)
			}
			if got := c.rows()[0]; got != "patient-1 0 1 0 1" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestParkAlone checks that with ParkAlone only the message waits, that it is replayed, and that it is not handled again.
func TestParkAlone(t *testing.T) {
	t.Parallel()
	for form := range forms(nil) {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, form, consumer.ParkAlone())
			c.ill["patient-1"] = true
			c.write("patient-1", "patient-1+b", "patient-1", "patient-1+b")
			c.run()
			c.until("the others", func() bool { return len(c.of("1")) >= 2 && len(c.rows()) == 2 })
			c.heal("patient-1")
			c.write("patient-1")
			if err := c.c.Replay(t.Context(), "patient-1"); err != nil {
				t.Fatal(err)
			}
			handled := func() []string {
				got := c.of("1")
				slices.Sort(got)
				if form != "Each" { // those before a failure in the same call are handled again
					got = slices.Compact(got)
				}
				return got
			}
			c.until("the replay", func() bool { return len(c.rows()) == 0 && len(handled()) >= 5 })
			got := handled()
			if want := []string{"patient-1+b/0", "patient-1+b/1", "patient-1/0", "patient-1/1", "patient-1/2"}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestReplayGivesRoom checks that a consumer that has parked as much as it may parks again after a replay, and that a replay by the schedule needs
// nobody who asks for it.
func TestReplayGivesRoom(t *testing.T) {
	t.Parallel()
	c := newClinic(t, "Each", consumer.MaxParked(1))
	c.ill["patient-1"], c.ill["patient-2"] = true, true
	c.write("patient-1", "patient-2", "patient-3")
	c.run()
	c.until("the parking of one", func() bool { return len(c.rows()) == 1 })
	c.until("another key", func() bool { return len(c.of("3")) == 1 })
	first := mdb.StreamName(strings.Fields(c.rows()[0])[0])
	c.heal(first)
	if _, err := c.store.Pool().Exec(t.Context(), `UPDATE message_store_consumers.parked SET due = clock_timestamp() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	c.until("the replay", func() bool { return len(c.of(first.CardinalID())) == 1 })
	c.until("the parking of the other", func() bool {
		rows := c.rows()
		return len(rows) == 1 && !strings.HasPrefix(rows[0], string(first))
	})
}

// TestReplayArguments checks what Replay rejects, and that it does nothing if nothing is parked.
func TestReplayArguments(t *testing.T) {
	t.Parallel()
	c := newClinic(t, "Each")
	var argument *mdb.ArgumentError
	if err := c.c.Replay(t.Context(), "patient-1", "other-1"); !errors.As(err, &argument) || len(argument.Faults) != 1 {
		t.Errorf("got %v, want an ArgumentError", err)
	}
	var setup *mdb.SetupError
	if err := c.c.Replay(t.Context()); !errors.As(err, &setup) {
		t.Errorf("got %v, want a SetupError", err)
	}
	if err := c.c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.c.Replay(t.Context(), "patient-1"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	if err := c.c.Replay(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}
