package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// adminCalls call each method of an Operator for a consumer.
func adminCalls(o *consumer.Operator, name string) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Show":   func(ctx context.Context) error { _, err := o.Show(ctx, name); return err },
		"Parked": func(ctx context.Context) error { _, err := o.Parked(ctx, name); return err },
		"Pause":  func(ctx context.Context) error { return o.Pause(ctx, name, "a reason") },
		"Resume": func(ctx context.Context) error { return o.Resume(ctx, name) },
		"Seek":   func(ctx context.Context) error { _, err := o.Seek(ctx, name, consumer.ToEnd()); return err },
		"Replay": func(ctx context.Context) error { _, err := o.Replay(ctx, name); return err },
		"Skip":   func(ctx context.Context) error { return o.Skip(ctx, name, "a-1") },
		"Resize": func(ctx context.Context) error { return o.Resize(ctx, name, 3) },
		"Fork":   func(ctx context.Context) error { return o.Fork(ctx, name, "other") },
		"Rename": func(ctx context.Context) error { return o.Rename(ctx, name, "other") },
		"Delete": func(ctx context.Context) error { return o.Delete(ctx, name) },
		"WaitFor": func(ctx context.Context) error {
			return o.WaitFor(ctx, name, "a", 1)
		},
		"WaitForStream": func(ctx context.Context) error {
			return o.WaitForStream(ctx, name, "a-1", 1)
		},
	}
}

// TestAdminArguments checks that arguments are checked before anything is sent.
func TestAdminArguments(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "host=127.0.0.1 port=1 connect_timeout=1") // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	o := consumer.Admin(pool)
	calls := make(map[string]func(ctx context.Context) error)
	for what, name := range map[string]string{"no name": "", "a long name": strings.Repeat("é", 101), "NUL": "a\x00", "no UTF-8": "\xff"} {
		for method, call := range adminCalls(o, name) {
			calls[method+" with "+what] = call
		}
	}
	seek := func(to consumer.Target, opts ...consumer.AdminOption) func(ctx context.Context) error {
		return func(ctx context.Context) error { _, err := o.Seek(ctx, "a", to, opts...); return err }
	}
	calls["a long reason"] = func(ctx context.Context) error { return o.Pause(ctx, "a", strings.Repeat("a", 1001)) }
	calls["no target"] = seek(consumer.Target{})
	calls["a negative position"] = seek(consumer.ToPosition(-1))
	for what, year := range map[string]int{"a year before": 0, "a year after": 10000} {
		calls[what] = seek(consumer.ToTime(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)))
	}
	calls["an extreme time"], calls["an extreme time before"] = seek(consumer.ToTime(time.Unix(1<<62, 0))), seek(consumer.ToTime(time.Unix(-1<<62, 0)))
	for method, call := range adminCalls(consumer.Admin(nil), "a") {
		calls[method+" without a pool"] = call
	}
	calls["List without a pool"] = func(ctx context.Context) error { _, err := consumer.Admin(nil).List(ctx); return err }
	calls["ShowAll without a pool"] = func(ctx context.Context) error { _, err := consumer.Admin(nil).ShowAll(ctx); return err }
	calls["no time"] = seek(consumer.ToTime(time.Time{}))
	calls["a stream's name"] = seek(consumer.ToEnd(), consumer.InCategory("a-1"))
	calls["a category twice"] = seek(consumer.ToEnd(), consumer.InCategory("a"), consumer.InCategory("a"))
	calls["a negative time of a write"] = seek(consumer.ToEnd(), consumer.LongestWrite(-1))
	calls["an option of another method"] = seek(consumer.ToEnd(), consumer.Force())
	calls["a zero option"] = seek(consumer.ToEnd(), consumer.AdminOption{})
	calls["no function"] = seek(consumer.ToEnd(), consumer.Within(nil))
	calls["replay of no stream"] = func(ctx context.Context) error { _, err := o.Replay(ctx, "a", "a-1", ""); return err }
	calls["skip of no stream"] = func(ctx context.Context) error { return o.Skip(ctx, "a", "") }
	calls["skip at a negative position"] = func(ctx context.Context) error { return o.Skip(ctx, "a", "a-1", consumer.AtPosition(-1)) }
	for _, n := range []int{-1, 0, 1025} {
		calls[fmt.Sprint(n, " partitions")] = func(ctx context.Context) error { return o.Resize(ctx, "a", n) }
	}
	calls["fork without a name"] = func(ctx context.Context) error { return o.Fork(ctx, "a", "") }
	calls["rename without a name"] = func(ctx context.Context) error { return o.Rename(ctx, "a", "") }
	calls["wait for no stream"] = func(ctx context.Context) error { return o.WaitForStream(ctx, "a", "", 1) }
	calls["wait for a stream's name"] = func(ctx context.Context) error { return o.WaitFor(ctx, "a", "a-1", 1) }
	calls["wait for a negative position"] = func(ctx context.Context) error { return o.WaitFor(ctx, "a", "a", -1) }
	for what, call := range calls {
		var argument *mdb.ArgumentError
		if err := call(t.Context()); !errors.As(err, &argument) {
			t.Errorf("%s: got %v, want an ArgumentError", what, err)
		}
	}
}

// TestAdminNotFound checks the errors if there is no consumer of the name, or no schema.
func TestAdminNotFound(t *testing.T) {
	t.Parallel()
	for method, call := range adminCalls(consumer.Admin(withConsumers.Store(t).Pool()), "nobody") {
		var notFound *consumer.NotFoundError
		if err := call(t.Context()); !errors.As(err, &notFound) || notFound.Consumer != "nobody" {
			t.Errorf("%s: got %v, want a NotFoundError", method, err)
		}
	}
	pool, err := pgxpool.New(t.Context(), testdb.Shared(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	calls := adminCalls(consumer.Admin(pool), "nobody")
	calls["List"] = func(ctx context.Context) error { _, err := consumer.Admin(pool).List(ctx); return err }
	for method, call := range calls {
		var setup *mdb.SetupError
		if err := call(t.Context()); !errors.As(err, &setup) || !strings.Contains(setup.Remedy, "-consumers") {
			t.Errorf("%s: got %v, want a SetupError", method, err)
		}
	}
}

// someForms returns the forms of clinics, or those that differ most.
func someForms() []string {
	if testing.Short() {
		return []string{"Each", "EachTx"}
	}
	return slices.Collect(maps.Keys(forms(nil)))
}

// caughtUp returns a clinic that has handled what it can of some messages: streams of the key 1 are parked.
func caughtUp(t *testing.T, opts ...consumer.Option) (*clinic, *consumer.Operator) {
	t.Helper()
	c := newClinic(t, "Each", opts...)
	c.ill["patient-1"] = true
	c.write("patient-1", "patient-2", "patient-1+b", "patient-1", "patient-3", "patient-2")
	c.catchUp()
	return c, consumer.Admin(c.store.Pool())
}

func (c *clinic) catchUp() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	if err := c.c.CatchUp(ctx); err != nil {
		c.Fatal(err)
	}
}

// TestAdminShow checks what is shown of a consumer while nobody runs it, and while somebody does.
func TestAdminShow(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t, consumer.WithInstance("clinic-0"))
	ctx := t.Context()
	d, err := o.Show(ctx, "clinic")
	if err != nil {
		t.Fatal(err)
	}
	last := d.Checkpoints[0].Position
	if len(d.Processes) > 0 || len(d.Checkpoints) != 2 || d.Partitions != 2 || d.Pending != 0 || !d.Oldest.IsZero() || d.Parked != 1 || d.Paused || d.Members != 0 ||
		!slices.Equal(d.Categories, []mdb.Category{"patient"}) || d.Created.IsZero() || last == 0 {
		t.Errorf("got %+v", d)
	}
	parked, err := o.Parked(ctx, "clinic")
	if err != nil || len(parked) != 2 {
		t.Fatalf("got %+v, %v, want two streams", parked, err)
	}
	p := parked[0]
	if p.Stream != "patient-1" || p.Key != "1" || p.Category != "patient" || p.Position != 0 || p.GlobalPosition == 0 || p.Attempts != 1 || p.Alone ||
		p.Error != "*errors.errorString" || p.Due.Before(p.ParkedAt) || p.TriedAt.IsZero() || parked[1].Stream != "patient-1+b" || parked[1].Attempts != 0 || !parked[1].Due.IsZero() {
		t.Errorf("got %+v", parked)
	}

	if err := o.Pause(ctx, "clinic", "lunch"); err != nil {
		t.Fatal(err)
	}
	c.write("patient-2", "patient-1", "patient-4")
	written, err := c.store.GetLastStreamMessage(ctx, "patient-2")
	if err != nil {
		t.Fatal(err)
	}
	list, err := o.List(ctx)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %+v, %v, want one consumer", list, err)
	}
	if s := list[0]; s.Consumer != "clinic" || s.Pending != 3 || s.PendingMore || !s.Oldest.Equal(written.Time) || !s.Paused || s.Reason != "lunch" {
		t.Errorf("got %+v, want 3 messages since %v", s, written.Time)
	}
	if d, err = o.Show(ctx, "clinic"); err != nil {
		t.Fatal(err)
	}
	all, err := o.ShowAll(ctx)
	if err != nil || len(all) != 1 || all[0].ParkedKeys != nil || !slices.Equal(all[0].Checkpoints, d.Checkpoints) || all[0].Pending != 3 {
		t.Errorf("got %+v, %v, want the checkpoints of %+v", all, err, d)
	}

	c.run()
	c.until("the process", func() bool {
		d, err = o.Show(ctx, "clinic")
		return err == nil && len(d.Processes) == 1 && len(d.Processes[0].Partitions) == 2
	})
	process := d.Processes[0]
	if !process.Alive || process.Instance != "clinic-0" || process.Info == "" || process.Lease != time.Hour || process.Joined.IsZero() || process.Seen.Before(process.Joined) ||
		!slices.Equal(process.Partitions, []int{0, 1}) || !slices.Equal(process.Categories, []mdb.Category{"patient"}) || d.Members != 1 {
		t.Errorf("got %+v", d)
	}
	pending := int64(0)
	for _, p := range d.Checkpoints {
		pending += p.Pending
		if p.Category != "patient" || p.Member != process.ID || p.Epoch == 0 || p.Stored.IsZero() || (p.Pending == 0) != p.Oldest.IsZero() {
			t.Errorf("got %+v", p)
		}
	}
	if pending != 3 || d.Pending != 3 || len(c.of("4")) > 0 {
		t.Errorf("%d messages of partitions are pending, and %d of the consumer, want 3 while it is paused", pending, d.Pending)
	}
	if err := o.Resume(ctx, "clinic"); err != nil {
		t.Fatal(err)
	}
	c.until("the rest", func() bool { return len(c.of("4")) == 1 })
	if name := c.c.Name(); name != "clinic" {
		t.Errorf("got the name %q", name)
	}
	if err := o.Rename(ctx, "clinic", "hospital", consumer.Force()); err != nil {
		t.Fatal(err)
	}
	c.until("the name", func() bool { return c.c.Name() == "hospital" })

	text, err := json.Marshal(d)
	if err != nil || !strings.Contains(string(text), `"consumer":"clinic"`) || !strings.Contains(string(text), `"processes":[{"id":"`+process.ID.String()) {
		t.Errorf("got %s, %v", text, err)
	}
}

// TestAdminPending checks that a consumer that has much to do costs no look at all messages.
func TestAdminPending(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t)
	for _, test := range []struct {
		more    int
		pending int64
		cut     bool
	}{{10_000, 10_000, false}, {1, 10_001, true}, {100, 10_001, true}} {
		if _, err := c.store.Pool().Exec(t.Context(), `INSERT INTO message_store.messages (position, stream_name, type, id)
			SELECT n, 'patient-' || 100 + n % 7, 'Came', gen_random_uuid() FROM generate_series($1::integer, $1 + $2 - 1) AS n`, 1000*test.more, test.more); err != nil {
			t.Fatal(err)
		}
		list, err := o.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Pending != test.pending || list[0].PendingMore != test.cut {
			t.Errorf("got %+v, %v, want %d, cut: %t", list, err, test.pending, test.cut)
		}
	}
}

// TestAdminSeek checks that a dry run changes nothing, that a function is part of the change, and that messages are handled
// again after a seek.
func TestAdminSeek(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t)
	ctx := t.Context()
	handled := len(c.of("2"))
	dry, err := o.Seek(ctx, "clinic", consumer.ToBeginning(), consumer.DryRun(), consumer.Within(func(context.Context, pgx.Tx) error {
		t.Error("a dry run calls the function")
		return nil
	}))
	if err != nil || len(dry) != 1 || dry[0].Position != 0 || dry[0].Lowest == 0 || dry[0].Highest < dry[0].Lowest || dry[0].Unparked != 2 || dry[0].Category != "patient" {
		t.Errorf("got %+v, %v", dry, err)
	}
	again, err := o.Seek(ctx, "clinic", consumer.ToBeginning(), consumer.DryRun())
	if err != nil || !slices.Equal(again, dry) {
		t.Errorf("after a dry run: got %+v, %v, want %+v", again, err, dry)
	}
	broken := errors.New("broken")
	create := func(fails error) consumer.AdminOption {
		return consumer.Within(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "CREATE TABLE public.rebuilt ()")
			return errors.Join(err, fails)
		})
	}
	if _, err := o.Seek(ctx, "clinic", consumer.ToBeginning(), create(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want the function's error", err)
	}
	if parked, err := o.Parked(ctx, "clinic"); err != nil || len(parked) != 2 {
		t.Errorf("got %+v, %v, want that nothing has changed", parked, err)
	}
	c.heal("patient-1")
	done, err := o.Seek(ctx, "clinic", consumer.ToBeginning(), create(nil)) // which the error has rolled back
	if err != nil || !slices.Equal(done, dry) {
		t.Errorf("got %+v, %v, want %+v", done, err, dry)
	}
	c.catchUp()
	if got := c.of("2"); len(got) != 2*handled || len(c.of("1")) != 3 || len(c.rows()) != 0 {
		t.Errorf("got %v and %v, want all again, and that nothing is parked", got, c.of("1"))
	}

	if _, err := o.Seek(ctx, "clinic", consumer.ToEnd()); err != nil {
		t.Fatal(err)
	}
	c.catchUp()
	if got := c.of("2"); len(got) != 2*handled {
		t.Errorf("got %v, want that nothing is handled again", got)
	}
	written, err := c.store.GetLastStreamMessage(ctx, "patient-2")
	if err != nil {
		t.Fatal(err)
	}
	done, err = o.Seek(ctx, "clinic", consumer.ToTime(written.Time), consumer.LongestWrite(0), consumer.InCategory("patient"))
	if err != nil || done[0].Position != written.GlobalPosition-1 {
		t.Errorf("got %+v, %v, want the position before %d", done, err, written.GlobalPosition)
	}
	for problem, f := range map[string]func() error{
		"the last message": func() error { _, err := o.Seek(ctx, "clinic", consumer.ToPosition(1<<50)); return err },
		"has no category": func() error {
			_, err := o.Seek(ctx, "clinic", consumer.ToEnd(), consumer.InCategory("visitor"))
			return err
		},
	} {
		var conflict *consumer.ConflictError
		if err := f(); !errors.As(err, &conflict) || !strings.Contains(conflict.Problem, problem) {
			t.Errorf("got %v, want a ConflictError: %s", err, problem)
		}
	}
}

// TestAdminSkip checks with handlers of all forms that a message that was skipped is not handled, and that those that wait for it are, unless
// they are skipped, too.
func TestAdminSkip(t *testing.T) {
	t.Parallel()
	for _, form := range someForms() {
		for _, everything := range []bool{false, true} {
			t.Run(fmt.Sprint(form, everything), func(t *testing.T) {
				t.Parallel()
				c := newClinic(t, form)
				o := consumer.Admin(c.store.Pool())
				c.ill["patient-1"] = true
				c.write("patient-1", "patient-1+b", "patient-1")
				c.catchUp() // so that the checkpoint has passed them
				opts := []consumer.AdminOption{consumer.AtPosition(0)}
				want := []string{"patient-1+b/0", "patient-1/1", "patient-1/2"}
				if everything {
					opts, want = append(opts, consumer.AndWaiting()), want[2:]
				}
				var conflict *consumer.ConflictError
				for _, position := range []int64{1, 7} {
					if err := o.Skip(t.Context(), "clinic", "patient-1", consumer.AtPosition(position)); !errors.As(err, &conflict) {
						t.Errorf("got %v, want a ConflictError", err)
					}
				}
				if err := o.Skip(t.Context(), "clinic", "patient-2"); !errors.As(err, &conflict) {
					t.Errorf("got %v, want a ConflictError", err)
				}
				if err := o.Skip(t.Context(), "clinic", "patient-1", append(opts, consumer.DryRun())...); err != nil {
					t.Error(err)
				}
				c.run()
				c.heal("patient-1")
				if err := o.Skip(t.Context(), "clinic", "patient-1", opts...); err != nil {
					t.Fatal(err)
				}
				c.until("the rest", func() bool { return len(c.rows()) == 0 })
				c.write("patient-1")
				c.until("the live flow", func() bool { return slices.Contains(c.of("1"), "patient-1/2") })
				if got := c.of("1"); !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		}
	}
}

// TestAdminSkipAlone checks that a skip of a message that was parked alone leaves room for another one in the process that runs, and that the
// stream's messages are handled then.
func TestAdminSkipAlone(t *testing.T) {
	t.Parallel()
	for _, form := range someForms() {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, form, consumer.ParkAlone(), consumer.MaxParked(1))
			c.ill["patient-1"], c.ill["patient-2"] = true, true
			c.write("patient-1")
			c.run()
			c.until("the parking", func() bool { return c.c.Stats().Parked == 1 && len(c.rows()) == 1 })
			if err := consumer.Admin(c.store.Pool()).Skip(t.Context(), "clinic", "patient-1"); err != nil {
				t.Fatal(err)
			}
			c.write("patient-2")
			c.until("another parking", func() bool { return len(c.rows()) == 1 && strings.HasPrefix(c.rows()[0], "patient-2 0") })
			c.heal("patient-1")
			c.write("patient-1")
			c.until("the next message", func() bool { return len(c.of("1")) > 0 })
			if got, want := c.of("1"), []string{"patient-1/1"}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestAdminReplay checks that a program that does not run the consumer can let it replay.
func TestAdminReplay(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t)
	c.heal("patient-1")
	if n, err := o.Replay(t.Context(), "clinic", "patient-2"); n != 0 || err != nil {
		t.Errorf("got %d, %v, want nothing", n, err)
	}
	if n, err := o.Replay(t.Context(), "clinic"); n != 2 || err != nil {
		t.Errorf("got %d, %v, want 2 streams", n, err)
	}
	c.catchUp()
	if got := c.of("1"); len(got) != 3 {
		t.Errorf("got %v, want all", got)
	}
}

// TestAdminResize checks that a consumer that nobody runs is resized if its partitions have handled the same messages, and
// otherwise not.
func TestAdminResize(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t)
	ctx := t.Context()
	for _, n := range []int{8, 3, 3} {
		if err := o.Resize(ctx, "clinic", n); err != nil {
			t.Fatal(err)
		}
		if d, err := o.Show(ctx, "clinic"); err != nil || d.Partitions != n || len(d.Checkpoints) != n || d.Parked != 1 {
			t.Errorf("got %+v, %v, want %d partitions", d, err, n)
		}
	}
	c.heal("patient-1")
	all, err := consumer.New(c.store, "clinic", "patient", consumer.Each(c.handle))
	if err != nil {
		t.Fatal(err)
	}
	c.c = all
	c.write("patient-1", "patient-2", "patient-4")
	if _, err := o.Replay(ctx, "clinic"); err != nil {
		t.Fatal(err)
	}
	c.catchUp()
	if got := c.of("1"); len(got) != 4 || len(c.of("2")) != 3 || len(c.of("4")) != 1 {
		t.Errorf("got %v, %v, %v, want each message once", got, c.of("2"), c.of("4"))
	}

	if _, err := c.store.Pool().Exec(ctx, `UPDATE message_store_consumers.checkpoints SET position = 0 WHERE partition = 1`); err != nil {
		t.Fatal(err)
	}
	var conflict *consumer.ConflictError
	if err := o.Resize(ctx, "clinic", 2); !errors.As(err, &conflict) || !strings.Contains(conflict.Problem, "no process runs it") {
		t.Errorf("got %v, want a ConflictError", err)
	}
	c.pretend(uuid.New(), 0)
	late, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		var first time.Time // its answer has arrived when the barrier is prolonged
		for late.Err() == nil {
			d, err := o.Show(ctx, "clinic")
			if err == nil && (!slices.Contains(kinds(&d.Status), consumer.ObstacleBarrier) || !slices.Contains(kinds(&d.Status), consumer.ObstacleUnconfirmed)) {
				continue
			}
			var end time.Time
			if err == nil {
				err = c.store.Pool().QueryRow(ctx, "SELECT barrier_end FROM message_store_consumers.consumers").Scan(&end)
			}
			switch {
			case err != nil, !first.IsZero() && end.After(first):
				cancel(errEnough)
			case first.IsZero():
				first = end
			}
		}
	}()
	if err := o.Resize(late, "clinic", 2); !errors.Is(err, errEnough) || !strings.Contains(err.Error(), "1 checkpoints have not reached position") {
		t.Errorf("got %v, want the cause", err)
	}
	unchanged := func() {
		t.Helper()
		if d, err := o.Show(ctx, "clinic"); err != nil || d.Barrier != nil || d.Partitions != 3 {
			t.Errorf("got %+v, %v, want that nothing has changed", d, err)
		}
	}
	unchanged()
	if err := o.Pause(ctx, "clinic", ""); err != nil {
		t.Fatal(err)
	}
	if err := o.Resize(ctx, "clinic", 2); !errors.As(err, &conflict) || !strings.Contains(conflict.Problem, "it is paused") {
		t.Errorf("got %v, want a ConflictError", err)
	}
	unchanged()
}

// TestAdminNames checks forks, new names and deletions.
func TestAdminNames(t *testing.T) {
	t.Parallel()
	c, o := caughtUp(t)
	ctx := t.Context()
	copied := consumer.Within(func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE public.copy ()")
		return err
	})
	if err := o.Fork(ctx, "clinic", "hospital", copied); err != nil {
		t.Fatal(err)
	}
	old, err := o.Show(ctx, "clinic")
	if err != nil {
		t.Fatal(err)
	}
	fork, err := o.Show(ctx, "hospital")
	if err != nil || fork.Parked != 1 || len(fork.Checkpoints) != 2 || fork.Checkpoints[0].Position != old.Checkpoints[0].Position || fork.Checkpoints[0].Member != uuid.Nil {
		t.Errorf("got %+v, %v", fork, err)
	}
	var conflict *consumer.ConflictError
	for what, err := range map[string]error{
		"fork": o.Fork(ctx, "clinic", "hospital"), "rename": o.Rename(ctx, "clinic", "hospital"), "copied": o.Fork(ctx, "clinic", "hospital", copied),
	} {
		if !errors.As(err, &conflict) {
			t.Errorf("%s: got %v, want a ConflictError", what, err)
		}
	}
	if err := errors.Join(o.Delete(ctx, "clinic", consumer.DryRun()), o.Delete(ctx, "clinic"), o.Rename(ctx, "hospital", "clinic")); err != nil {
		t.Fatal(err)
	}
	c.run()
	c.until("the process", func() bool {
		list, err := o.List(ctx)
		return err == nil && len(list) == 1 && list[0].Members == 1
	})
	for what, err := range map[string]error{"delete": o.Delete(ctx, "clinic"), "rename": o.Rename(ctx, "clinic", "other")} {
		if !errors.As(err, &conflict) || !strings.Contains(conflict.Problem, "1 running members") {
			t.Errorf("%s: got %v, want a ConflictError", what, err)
		}
	}
	if err := o.Rename(ctx, "clinic", "other", consumer.Force(), consumer.DryRun()); err != nil {
		t.Error(err)
	}
}

// TestAdminDeleteDead checks that a consumer whose only process has died is renamed and deleted, but not by the first try, because that cannot
// know whether it is dead.
func TestAdminDeleteDead(t *testing.T) {
	t.Parallel()
	store := withConsumers.Store(t)
	o := consumer.Admin(store.Pool())
	if _, err := ledger.Join(t.Context(), store.Pool(), ledger.JoinParams{
		Name: "clinic", Member: uuid.New(), Info: "test", Lease: time.Second, Categories: []string{"patient"}, Start: new(int64),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Pool().Exec(t.Context(), `UPDATE message_store_consumers.members SET seen = seen - 2 * lease`); err != nil {
		t.Fatal(err)
	}
	for _, do := range []func(o ...consumer.AdminOption) error{
		func(opts ...consumer.AdminOption) error { return o.Rename(t.Context(), "clinic", "hospital", opts...) },
		func(opts ...consumer.AdminOption) error { return o.Delete(t.Context(), "hospital", opts...) },
	} {
		tries := 0
		err := do(consumer.Within(func(context.Context, pgx.Tx) error { tries++; return nil }))
		if err != nil || tries < 2 {
			t.Errorf("got %v after %d tries, want no error after more than one", err, tries)
		}
	}
	if list, err := o.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("got %v, %v, want no consumer", list, err)
	}
}

// TestWaitFor checks that who has written a message can wait until it is handled, whether or not its stream is named, and that a
// stream that is parked is reported.
func TestWaitFor(t *testing.T) {
	t.Parallel()
	for _, form := range someForms() {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, form)
			o := consumer.Admin(c.store.Pool())
			c.ill["patient-9"] = true
			c.write("patient-9", "patient-9+b")
			c.run()
			c.until("the parking", func() bool { return len(c.rows()) == 2 })
			for i := range 6 {
				stream := mdb.StreamName(fmt.Sprintf("patient-%d", i))
				written, err := c.store.WriteMessage(t.Context(), stream, mdb.NewMessage("Came", nil))
				if err != nil {
					t.Fatal(err)
				}
				if i%2 == 0 {
					err = o.WaitForStream(t.Context(), "clinic", stream, written.GlobalPosition)
				} else {
					err = o.WaitFor(t.Context(), "clinic", "patient", written.GlobalPosition)
				}
				if got := c.of(fmt.Sprint(i)); err != nil || len(got) != 1 {
					t.Errorf("got %v, %v, want that the message is handled", got, err)
				}
			}
			for _, stream := range []mdb.StreamName{"patient-9", "patient-9+b", "patient-9+c"} {
				written, err := c.store.WriteMessage(t.Context(), stream, mdb.NewMessage("Came", nil))
				if err != nil {
					t.Fatal(err)
				}
				if err := o.WaitForStream(t.Context(), "clinic", stream, written.GlobalPosition); !errors.Is(err, consumer.ErrParked) {
					t.Errorf("%s: got %v, want ErrParked", stream, err)
				}
				if err := o.WaitFor(t.Context(), "clinic", "patient", written.GlobalPosition); err != nil {
					t.Errorf("%s: got %v, want that it does not wait for what is parked", stream, err)
				}
			}
		})
	}
	c, o := caughtUp(t)
	written, err := c.store.WriteMessage(t.Context(), "patient-2", mdb.NewMessage("Came", nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errEnough)
	defer cancel()
	if err := o.WaitForStream(ctx, "clinic", "patient-2", written.GlobalPosition); !errors.Is(err, errEnough) {
		t.Errorf("got %v, want the cause, because nobody runs the consumer", err)
	}
	if err := errors.Join(o.WaitFor(t.Context(), "clinic", "patient", written.GlobalPosition-1), o.WaitForStream(t.Context(), "clinic", "patient-3", written.GlobalPosition-1)); err != nil {
		t.Errorf("got %v, want that what is handled is reached", err)
	}
	var conflict *consumer.ConflictError
	if err := o.WaitFor(t.Context(), "clinic", "visitor", 1); !errors.As(err, &conflict) {
		t.Errorf("got %v, want a ConflictError", err)
	}
}

// TestAdminWaitsForTransactions checks that a change waits for a transaction that holds a checkpoint, and lets others have the
// lock of the consumer meanwhile.
func TestAdminWaitsForTransactions(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for locks")
	}
	c, o := caughtUp(t)
	tx, err := c.store.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "SELECT FROM message_store_consumers.checkpoints FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := o.Seek(t.Context(), "clinic", consumer.ToBeginning())
		ended <- err
	}()
	waits := func() bool {
		var n int
		err := c.store.Pool().QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%seek%'").Scan(&n)
		return err == nil && n > 0
	}
	c.until("the wait", waits)
	if err := o.Pause(t.Context(), "clinic", ""); err != nil { // which needs the lock
		t.Error(err)
	}
	c.until("another wait", waits)
	select {
	case err := <-ended:
		t.Fatalf("got %v, want that it waits", err)
	default:
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
