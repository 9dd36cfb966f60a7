package consumertest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/consumer/consumertest"
)

// A calls is a handler that records its calls, and fails as the test says.
type calls struct {
	made []string
	fail func(m mdb.Message, d consumer.Delivery) error
}

func (c *calls) handle(ctx context.Context, m mdb.Message) error {
	d := consumer.FromContext(ctx)
	call := fmt.Sprintf("%s/%d", m.Stream, m.Position)
	if d.Replayed {
		call += " replayed"
	}
	c.made = append(c.made, call)
	if c.fail == nil {
		return nil
	}
	return c.fail(m, d)
}

// check compares the calls since the last one.
func (c *calls) check(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(c.made, want) {
		t.Errorf("the calls were %q, want %q", c.made, want)
	}
	c.made = nil
}

func check(t *testing.T, got consumertest.Result, want string) {
	t.Helper()
	if got.String() != want {
		t.Errorf("got:\n%v\nwant:\n%s", got, want)
	}
}

func happened(n int) []mdb.ProposedMessage {
	ms := make([]mdb.ProposedMessage, n)
	for i := range ms {
		ms[i] = mdb.NewMessage("Happened", nil)
	}
	return ms
}

var errNo = errors.New("no")

// TestCatchUp checks that each message is handled once, in the order of its stream, and that
// the next call continues.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	var c calls
	k := consumertest.New(t, consumer.Each(c.handle))
	k.Write("a-1", happened(2)...)
	check(t, k.CatchUp(), "2 handled")
	k.Write("a-1", happened(1)...)
	k.Write("b-1", happened(1)...)
	check(t, k.CatchUp(), "2 handled")
	check(t, k.CatchUp(), "0 handled")
	c.check(t, "a-1/0", "a-1/1", "a-1/2", "b-1/0")
}

// TestMessage checks what a handler receives of a message.
func TestMessage(t *testing.T) {
	t.Parallel()
	type data struct{ N int }
	id := uuid.New()
	var got mdb.Message
	k := consumertest.New(t, consumer.Each(func(_ context.Context, m mdb.Message) error {
		got = m
		return nil
	}))
	k.Write("a-1", mdb.ProposedMessage{ID: id, Type: "Happened", Data: data{3}, Metadata: map[string]string{"who": "me"}})
	check(t, k.CatchUp(), "1 handled")
	var d data
	if err := got.Decode(&d); err != nil || d.N != 3 || got.ID != id || string(got.Metadata) != `{"who":"me"}` || got.Time.Location() != time.UTC {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestRetry checks that attempts and errors are reported, and that a later success counts.
func TestRetry(t *testing.T) {
	t.Parallel()
	c := calls{fail: func(_ mdb.Message, d consumer.Delivery) error {
		if d.Attempt < 3 {
			return errNo
		}
		return nil
	}}
	k := consumertest.New(t, consumer.Each(c.handle))
	k.Write("a-1", happened(1)...)
	r := k.CatchUp()
	check(t, r, "1 handled\nfailed: a-1/0 Happened, attempt 1: no\nfailed: a-1/0 Happened, attempt 2: no")
	if !errors.Is(r.Failures[0].Err, errNo) {
		t.Errorf("got %v", r.Failures[0].Err)
	}
}

// TestParking checks that what comes after a parked message waits, that other streams do not,
// and that Replay handles all of it in order, after which the stream is as any other.
func TestParking(t *testing.T) {
	t.Parallel()
	broken := true
	c := calls{fail: func(m mdb.Message, _ consumer.Delivery) error {
		if broken && m.Stream == "a-1" && m.Position == 1 {
			return consumer.Permanent(errNo)
		}
		return nil
	}}
	k := consumertest.New(t, consumer.Each(c.handle))
	k.Write("a-1", happened(3)...)
	k.Write("a-1+follower", happened(1)...)
	k.Write("a-2", happened(1)...)
	const parked = "\nfailed: a-1/1 Happened, attempt 1: no\nparked: a-1/1 Happened, attempt 1: no"
	check(t, k.CatchUp(), "2 handled"+parked)
	c.check(t, "a-1/0", "a-2/0", "a-1/1")

	k.Write("a-1", happened(1)...)
	check(t, k.CatchUp(), "0 handled")
	check(t, k.Replay("a-1"), "0 handled"+parked)
	check(t, k.Replay(), "0 handled"+parked)
	c.check(t, "a-1/1 replayed", "a-1/1 replayed")

	broken = false
	k.Write("a-1", happened(1)...)
	check(t, k.Replay(), "4 handled")
	c.check(t, "a-1/1 replayed", "a-1/2 replayed", "a-1+follower/0 replayed", "a-1/3 replayed")
	check(t, k.CatchUp(), "1 handled")
	c.check(t, "a-1/4")
	check(t, k.Replay(), "0 handled")
}

// TestReplayStops checks that a replay that is stopped leaves the rest parked.
func TestReplayStops(t *testing.T) {
	t.Parallel()
	err := consumer.Permanent(errNo)
	c := calls{fail: func(m mdb.Message, d consumer.Delivery) error {
		if d.Replayed && m.Position == 0 {
			return nil
		}
		return err
	}}
	k := consumertest.New(t, consumer.Each(c.handle))
	k.Write("a-1", happened(3)...)
	k.CatchUp()
	c.check(t, "a-1/0")
	err = consumer.Stop(errNo)
	r := k.Replay()
	if r.Err == nil || r.Handled != 1 {
		t.Errorf("got %v", r)
	}
	c.check(t, "a-1/0 replayed", "a-1/1 replayed")
	err = nil
	check(t, k.CatchUp(), "0 handled")
	check(t, k.Replay("a-1"), "2 handled")
	c.check(t, "a-1/1 replayed", "a-1/2 replayed")
}

// TestDecisions checks what a handler and options can decide.
func TestDecisions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		opts []consumer.Option
		want string
	}{
		"skip": {
			err:  consumer.Skip(errNo),
			want: "1 handled\nfailed: a-1/0 Happened, attempt 1: no\nskipped: a-1/0 Happened, attempt 1: no",
		},
		"stop": {
			err:  consumer.Stop(errNo),
			want: "0 handled\nfailed: a-1/0 Happened, attempt 1: no\nstopped: mdb: the handler failed on a-1/0, global position 1: no",
		},
		"StopOnError": {
			err: errNo, opts: []consumer.Option{consumer.StopOnError()},
			want: "0 handled\nfailed: a-1/0 Happened, attempt 1: no\nstopped: mdb: the handler failed on a-1/0, global position 1: no",
		},
		"OnFailure": {
			err: errNo, opts: []consumer.Option{consumer.OnFailure(consumer.Failure.Skip)},
			want: "1 handled\nfailed: a-1/0 Happened, attempt 1: no\nskipped: a-1/0 Happened, attempt 1: no",
		},
		"transient": {
			err:  consumer.Transient(errNo),
			want: "0 handled\nwaiting: a-1/0 Happened, attempt 100: no",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := calls{fail: func(m mdb.Message, _ consumer.Delivery) error {
				if m.Position == 0 {
					return test.err
				}
				return nil
			}}
			k := consumertest.New(t, consumer.Each(c.handle), test.opts...)
			k.Write("a-1", happened(2)...)
			got := strings.TrimSpace(k.CatchUp().String())
			if got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
			c.made, c.fail = nil, nil
			switch name {
			case "stop", "StopOnError", "transient":
				check(t, k.CatchUp(), "2 handled")
				c.check(t, "a-1/0", "a-1/1")
			default:
				check(t, k.CatchUp(), "0 handled")
			}
		})
	}
}

// TestWaiting checks that a message that is retried for ever keeps no other stream back.
func TestWaiting(t *testing.T) {
	t.Parallel()
	c := calls{fail: func(m mdb.Message, _ consumer.Delivery) error {
		if m.Stream == "a-1" {
			return consumer.Transient(errNo)
		}
		return nil
	}}
	k := consumertest.New(t, consumer.Each(c.handle), consumer.WithPartitions(1))
	k.Write("a-1", happened(2)...)
	k.Write("a-2", happened(2)...)
	r := k.CatchUp()
	if r.Handled != 2 || len(r.Waiting) != 1 || len(r.Failures) != 0 || len(r.Parked) != 0 {
		t.Errorf("got %v", r)
	}
}

// TestBudget checks that no more keys than MaxParked are parked, in several calls.
func TestBudget(t *testing.T) {
	t.Parallel()
	c := calls{fail: func(mdb.Message, consumer.Delivery) error { return consumer.Permanent(errNo) }}
	k := consumertest.New(t, consumer.Each(c.handle), consumer.MaxParked(2))
	k.Write("a-1", happened(1)...)
	if r := k.CatchUp(); len(r.Parked) != 1 || len(r.Waiting) != 0 {
		t.Errorf("got %v", r)
	}
	for i := range 3 {
		k.Write(mdb.Category("a").Stream(fmt.Sprint(i+2)), happened(1)...)
	}
	if r := k.CatchUp(); len(r.Parked) != 1 || len(r.Waiting) != 2 {
		t.Errorf("got %d parked and %d waiting, want 1 and 2", len(r.Parked), len(r.Waiting))
	}
	if r := k.Replay(); len(r.Parked) != 2 || r.Handled != 0 {
		t.Errorf("got %d parked once more, want 2", len(r.Parked))
	}
}

// TestRedeliver checks that messages are delivered again with the same IDs, but not those that
// are parked.
func TestRedeliver(t *testing.T) {
	t.Parallel()
	var ids []uuid.UUID
	k := consumertest.New(t, consumer.Each(func(ctx context.Context, m mdb.Message) error {
		if m.Stream == "a-2" {
			return consumer.Permanent(errNo)
		}
		ids = append(ids, consumer.FromContext(ctx).ID(0))
		return nil
	}))
	k.Write("a-1", happened(2)...)
	k.Write("a-2", happened(1)...)
	k.CatchUp()
	check(t, k.Redeliver(), "2 handled")
	if len(ids) != 4 || ids[0] != ids[2] || ids[1] != ids[3] || ids[0] == ids[1] {
		t.Errorf("got %v", ids)
	}
}

// TestBatch checks that a handler receives what waits in a partition, and that a *BatchError
// parks only its message.
func TestBatch(t *testing.T) {
	t.Parallel()
	var sizes []int
	k := consumertest.New(t, consumer.Batch(func(_ context.Context, ms []mdb.Message) error {
		sizes = append(sizes, len(ms))
		for i, m := range ms {
			if m.Stream == "a-2" {
				return &consumer.BatchError{Index: i, Err: consumer.Permanent(errNo)}
			}
		}
		return nil
	}), consumer.WithPartitions(1), consumer.WithBatchSize(3))
	for _, stream := range []mdb.StreamName{"a-1", "a-2", "a-1", "a-3", "a-3"} {
		k.Write(stream, happened(1)...)
	}
	r := k.CatchUp()
	if r.Handled != 4 || len(r.Parked) != 1 || r.Parked[0].Message.Stream != "a-2" {
		t.Errorf("got %v", r)
	}
	if want := []int{3, 1, 1, 3}; !slices.Equal(sizes, want) {
		t.Errorf("the sizes of the batches were %v, want %v", sizes, want)
	}
}

// TestPanic checks that a panic of the handler is a failure.
func TestPanic(t *testing.T) {
	t.Parallel()
	k := consumertest.New(t, consumer.Each(func(context.Context, mdb.Message) error { panic("oh") }))
	k.Write("a-1", happened(1)...)
	r := k.CatchUp()
	if len(r.Parked) != 1 || !errors.As(r.Parked[0].Err, new(*mdb.PanicError)) || len(r.Failures) != 6 {
		t.Errorf("got %v", r)
	}
}

// A recorder is a test that only records how it fails.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fatal returns the text with which f ends a test.
func fatal(t *testing.T, f func(t testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.fatal
}

// TestMisuse checks the messages of tests that cannot work, and that a handler may end its test.
func TestMisuse(t *testing.T) {
	t.Parallel()
	ignore := func(context.Context, mdb.Message) error { return nil }
	for want, f := range map[string]func(testing.TB){
		"EachTx": func(t testing.TB) {
			consumertest.New(t, consumer.EachTx(func(context.Context, pgx.Tx, mdb.Message) error { return nil }))
		},
		"partitions": func(t testing.TB) { consumertest.New(t, consumer.Each(ignore), consumer.WithPartitions(0)) },
		"not all of these streams are parked": func(t testing.TB) {
			consumertest.New(t, consumer.Each(ignore)).Replay("a-1")
		},
		"message 1: data: it is not JSON": func(t testing.TB) {
			consumertest.New(t, consumer.Each(ignore)).Write("a-1", mdb.NewMessage("A", nil), mdb.NewMessage("B", []byte("{")))
		},
		"message 0: metadata: got a string": func(t testing.TB) {
			consumertest.New(t, consumer.Each(ignore)).Write("a-1", mdb.ProposedMessage{Type: "A", Metadata: "x"})
		},
		"message 1: the ID is that of another message": func(t testing.TB) {
			m := mdb.NewMessage("A", nil)
			consumertest.New(t, consumer.Each(ignore)).Write("a-1", m, m)
		},
		"the handler says so": func(t testing.TB) {
			k := consumertest.New(t, consumer.Each(func(context.Context, mdb.Message) error {
				t.Fatalf("the handler says so")
				return nil
			}))
			k.Write("a-1", happened(1)...)
			k.CatchUp()
		},
	} {
		if got := fatal(t, f); !strings.Contains(got, want) {
			t.Errorf("got %q, want it to contain %q", got, want)
		}
	}
}
