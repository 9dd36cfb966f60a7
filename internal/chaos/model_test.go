package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A storeModel is what a category should contain.
type storeModel struct {
	category mdb.Category
	messages []mdb.Message // in order
}

func (m *storeModel) of(stream mdb.StreamName) (messages []mdb.Message) {
	for _, x := range m.messages {
		if x.Stream == stream {
			messages = append(messages, x)
		}
	}
	return messages
}

// A sequence is a run of random operations on a store and on its model.
type sequence struct {
	s     *mdb.Store
	model storeModel
	rng   *rand.Rand
	log   []string // of the operations, for the error
}

func (q *sequence) stream() mdb.StreamName {
	return q.model.category.Stream([]string{"a", "b", "a+1", "c-d"}[q.rng.IntN(4)])
}

// step performs one operation, and returns an error if its result differs from the
// model's.
func (q *sequence) step(ctx context.Context) error {
	stream := q.stream()
	have := q.model.of(stream)
	version := int64(len(have)) - 1
	switch q.rng.IntN(7) {
	case 0, 1, 2:
		return q.write(ctx, stream, version)
	case 3:
		from, batch := int64(q.rng.IntN(len(have)+2)), 1+q.rng.IntN(5)
		got, err := q.s.GetStreamMessages(ctx, stream, mdb.FromPosition(from), mdb.WithBatchSize(batch))
		q.logf("read %s from %d, %d", stream, from, batch)
		want := have[min(from, int64(len(have))):]
		return differ(got, err, want[:min(batch, len(want))])
	case 4:
		return q.readCategory(ctx)
	case 5:
		got, err := q.s.StreamVersion(ctx, stream)
		q.logf("version of %s", stream)
		if err != nil || got != version {
			return fmt.Errorf("version %d, %w, want %d", got, err, version)
		}
		return nil
	default:
		typ := q.typ()
		got, err := q.s.GetLastStreamMessage(ctx, stream, mdb.OfType(typ))
		q.logf("last %s of %s", typ, stream)
		for _, want := range slices.Backward(have) {
			if want.Type == typ {
				return differ([]mdb.Message{got}, err, []mdb.Message{want})
			}
		}
		if !errors.Is(err, mdb.ErrNoMessage) {
			return fmt.Errorf("last message %v, %w, want none", got, err)
		}
		return nil
	}
}

func (q *sequence) typ() string { return []string{"Opened", "Closed"}[q.rng.IntN(2)] }

func (q *sequence) logf(format string, args ...any) {
	q.log = append(q.log, fmt.Sprintf(format, args...))
}

func (q *sequence) write(ctx context.Context, stream mdb.StreamName, version int64) error {
	ms := make([]mdb.ProposedMessage, 1+q.rng.IntN(3))
	for i := range ms {
		ms[i] = mdb.NewMessage(q.typ(), map[string]int{"n": q.rng.IntN(1000)})
		if q.rng.IntN(2) == 0 {
			ms[i].Metadata = map[string]string{"correlationStreamName": []string{"one-1", "two"}[q.rng.IntN(2)]}
		}
	}
	var opts []mdb.WriteOption
	fits := true
	switch q.rng.IntN(4) {
	case 0:
		opts = append(opts, mdb.ExpectVersion(version))
	case 1:
		other := version + 1
		if q.rng.IntN(2) == 0 && version > mdb.NoStream {
			other = version - 1
		}
		fits, opts = false, append(opts, mdb.ExpectVersion(other))
	}
	repeats := fits && q.rng.IntN(3) == 0
	q.logf("write %d to %s at %d, %d options, fits %t, repeats %t", len(ms), stream, version, len(opts), fits, repeats)
	written, err := q.s.WriteMessages(ctx, stream, ms, opts...)
	if !fits {
		if wrong := (*mdb.WrongVersionError)(nil); !errors.As(err, &wrong) || wrong.Actual != version {
			return fmt.Errorf("error %w, want a wrong version, actual %d", err, version)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for i, w := range written {
		if w.Position != version+1+int64(i) || w.Duplicate || w.ID != ms[i].ID {
			return fmt.Errorf("written %+v, want position %d", w, version+1+int64(i))
		}
		x := mdb.Message{ID: w.ID, Stream: stream, Type: ms[i].Type, Position: w.Position, GlobalPosition: w.GlobalPosition}
		if m, ok := ms[i].Metadata.(map[string]string); ok {
			x.Metadata = []byte(m["correlationStreamName"])
		}
		q.model.messages = append(q.model.messages, x)
	}
	if !repeats {
		return nil
	}
	if again, err := q.s.WriteMessages(ctx, stream, ms, append(opts, mdb.Idempotent())...); err != nil || again[0].Position != written[0].Position || !again[0].Duplicate {
		return fmt.Errorf("written again: %v, %w, want the same as duplicates", again, err)
	}
	_, err = q.s.WriteMessage(ctx, q.stream(), ms[0])
	if duplicate := (*mdb.DuplicateIDError)(nil); !errors.As(err, &duplicate) {
		return fmt.Errorf("an ID written twice: error %w", err)
	}
	return nil
}

func (q *sequence) readCategory(ctx context.Context) error {
	all := q.model.messages
	from := int64(1)
	if len(all) > 0 && q.rng.IntN(2) == 0 {
		from = all[q.rng.IntN(len(all))].GlobalPosition
	}
	batch := 1 + q.rng.IntN(8)
	opts := []mdb.CategoryOption{mdb.FromGlobalPosition(from), mdb.WithBatchSize(batch)}
	size, member, correlation := 0, 0, ""
	if q.rng.IntN(2) == 0 {
		size = 1 + q.rng.IntN(3)
		member = q.rng.IntN(size)
		opts = append(opts, mdb.AsConsumerGroup(member, size))
	}
	if q.rng.IntN(2) == 0 {
		correlation = []string{"one", "two"}[q.rng.IntN(2)]
		opts = append(opts, mdb.WithCorrelation(mdb.Category(correlation)))
	}
	var want []mdb.Message
	for _, x := range all {
		hash := mdb.Hash64(x.Stream.CardinalID())
		switch {
		case x.GlobalPosition < from:
		case size > 0 && max(hash, -hash)%int64(size) != int64(member):
		case correlation != "" && string(mdb.StreamName(x.Metadata).Category()) != correlation:
		default:
			want = append(want, x)
		}
	}
	q.logf("read category from %d, %d, member %d of %d, %q", from, batch, member, size, correlation)
	got, err := q.s.GetCategoryMessages(ctx, q.model.category, opts...)
	return differ(got, err, want[:min(batch, len(want))])
}

func differ(got []mdb.Message, err error, want []mdb.Message) error {
	if err != nil {
		return err
	}
	same := func(a, b mdb.Message) bool {
		return a.ID == b.ID && a.Stream == b.Stream && a.Type == b.Type && a.Position == b.Position && a.GlobalPosition == b.GlobalPosition
	}
	if !slices.EqualFunc(got, want, same) {
		return fmt.Errorf("%d messages %v, want %d: %v", len(got), got, len(want), want)
	}
	return nil
}

// TestModel checks the results of random operations against a model in memory.
func TestModel(t *testing.T) { model(t, *seedFlag, scaled(100, 2000)) }

func model(t *testing.T, seed uint64, sequences int) {
	pool := openPool(t, database(t), 2, configure)
	defer pool.Close()
	stores := make([]*mdb.Store, 2)
	for i, opts := range [][]mdb.StoreOption{nil, {mdb.WithDirectSQL()}} {
		s, err := mdb.New(pool, opts...)
		if err != nil {
			t.Fatal(err)
		}
		stores[i] = s
	}
	messages := 0
	for n := range sequences {
		q := &sequence{
			s: stores[n%2], model: storeModel{category: mdbtest.Category("model")},
			rng: rand.New(rand.NewPCG(seed, 1000+uint64(n))),
		}
		for range 20 {
			if err := q.step(t.Context()); err != nil {
				t.Fatalf("sequence %d of seed %d: %v, after\n%s", n, seed, err, fmt.Sprint(q.log))
			}
		}
		messages += len(q.model.messages)
	}
	results.add("T19", tally{messages: messages, acked: messages})
}
