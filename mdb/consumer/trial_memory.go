package consumer

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/source"
	"github.com/messagedb-go/messagedb/internal/trial"
	"github.com/messagedb-go/messagedb/mdb"
)

// memoryEpoch is the epoch of partitions in memory.
const memoryEpoch = 1

// A memory is what a consumer without a store has instead of one.
type memory struct {
	config     *config
	report     func(trial.Event, Failure)
	partitions int

	messages []mdb.Message
	// positions are the checkpoints, and parked what is parked before them.
	positions map[partition]int64
	parked    []ledger.Parked
}

// A memoryKey is a cardinal ID of a partition.
type memoryKey struct {
	partition
	id string
}

func inMemory(h Handler, opts []Option, report func(trial.Event, Failure)) (trial.Memory, error) {
	c := newConfig(new(mdb.Store), "consumertest", "memory", h, opts)
	if h.transactional {
		c.fault("handler", h.name, "Each or Batch: a transaction needs a database, see CatchUp")
	}
	if c.onPark != nil {
		c.fault("OnPark", "a function", "none: a transaction needs a database, see CatchUp")
	}
	if c.parkAlone {
		c.fault("ParkAlone", "set", "not in memory, see CatchUp")
	}
	if c.positionID != nil {
		c.fault(inPositionStream, "set", "not in memory, see CatchUp")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return &memory{
		config: c, report: report, partitions: cmp.Or(c.partitions, DefaultPartitions),
		positions: make(map[partition]int64),
	}, nil
}

func (t *memory) Write(m mdb.Message) { t.messages = append(t.messages, m) }

func (t *memory) Redeliver() { clear(t.positions) }

func (t *memory) partitionOf(m *mdb.Message) partition {
	return partition{Category: string(m.Stream.Category()), Number: partitionOf(m.Stream, t.partitions)}
}

func (t *memory) CatchUp(ctx context.Context) (handled int, err error) {
	var ms []mdb.Message
	for i := range t.messages {
		if m := &t.messages[i]; m.GlobalPosition > t.positions[t.partitionOf(m)] {
			ms = append(ms, *m)
		}
	}
	handled, done, err := t.run(ctx, ms, t.positions, t.parked, false)
	maps.Copy(t.positions, done)
	return handled, err
}

func (t *memory) Replay(ctx context.Context, streams []mdb.StreamName) (handled int, known bool, err error) {
	var keys []memoryKey
	missing := slices.Clone(streams)
	for i := range t.parked {
		row := &t.parked[i]
		name := mdb.StreamName(row.Stream)
		if len(streams) > 0 && !slices.Contains(streams, name) {
			continue
		}
		missing = slices.DeleteFunc(missing, func(s mdb.StreamName) bool { return s == name })
		if k := (memoryKey{row.Partition, row.Key}); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if len(missing) > 0 {
		return 0, false, nil
	}
	for _, k := range keys {
		n, err := t.replay(ctx, k)
		handled += n
		if err != nil {
			return handled, true, err
		}
	}
	return handled, true, nil
}

// replay handles what waits of a key.
func (t *memory) replay(ctx context.Context, k memoryKey) (handled int, err error) {
	from := make(map[mdb.StreamName]int64)
	t.parked = slices.DeleteFunc(t.parked, func(row ledger.Parked) bool {
		if row.Partition != k.partition || row.Key != k.id {
			return false
		}
		from[mdb.StreamName(row.Stream)] = row.Position
		return true
	})
	var ms []mdb.Message
	for i := range t.messages {
		m := &t.messages[i]
		position, waits := from[m.Stream]
		if waits && m.Position >= position && m.GlobalPosition <= t.positions[k.partition] {
			ms = append(ms, *m)
		}
	}
	handled, done, err := t.run(ctx, ms, nil, nil, true)
	for i := range ms {
		m := &ms[i]
		isParked := func(row ledger.Parked) bool { return row.Stream == string(m.Stream) }
		if m.GlobalPosition > done[k.partition] && !slices.ContainsFunc(t.parked, isParked) {
			t.parked = append(t.parked, rowOf(k.partition, k.id, m, 0))
		}
	}
	return handled, err
}

func rowOf(p partition, key string, m *mdb.Message, attempts int) ledger.Parked {
	return ledger.Parked{
		Partition: p, Key: key, Stream: string(m.Stream), Position: m.Position, GlobalPosition: m.GlobalPosition, Attempts: attempts,
	}
}

// run calls the handler with messages that come after the positions, and returns how many were
// handled, and up to where each partition is done with.
func (t *memory) run(ctx context.Context, ms []mdb.Message, positions map[partition]int64, parked []ledger.Parked, again bool) (handled int, done map[partition]int64, err error) {
	forms := t.config.forms
	forms.consumer = t.config.name
	config := engineConfig{
		form: t.config.handler.form(forms), inOrder: t.config.inOrder, policy: t.config.policy,
		maxParked: t.config.maxParked,
		park: func(_ context.Context, d *delivery, f Failure, _ *ledger.Move) error {
			t.parked = append(t.parked, rowOf(d.partition, d.key, &d.message, f.Attempt))
			return nil
		},
	}
	if t.config.stops {
		config.policy = stopOnError
	}
	handle := config.form.call
	config.form.call = func(ctx context.Context, call call) (int, error) {
		call.deliveries = slices.Clone(call.deliveries)
		for i := range call.deliveries {
			if again {
				call.deliveries[i].replayed = new(replayed)
			}
		}
		return handle(ctx, call)
	}
	w := newWatcher(t.report)
	w.adjust(&config)
	e := newEngine(config)
	claim := func(p partition) {
		e.claim(ledger.Row{Partition: p, Position: positions[p], Epoch: memoryEpoch}, parked)
	}
	for i := range parked { // all of them count
		claim(parked[i].Partition)
	}
	for i := range ms {
		p := t.partitionOf(&ms[i])
		claim(p)
		e.feed(p, memoryEpoch, ms[i:i+1], source.At(ms[i].GlobalPosition))
	}
	err = e.runHere(ctx, func(position int64) bool { return w.stuckAt(position) != nil })
	done = make(map[partition]int64)
	e.mu.Lock()
	for _, l := range e.waitingLanes() {
		if f := w.stuckAt(l.first()); f != nil {
			t.report(trial.Waiting, *f)
		}
	}
	for p, part := range e.parts {
		done[p] = part.move().To
	}
	e.mu.Unlock()
	handled = int(e.stats().handled)
	e.forget(nil)
	return handled, done, err
}
