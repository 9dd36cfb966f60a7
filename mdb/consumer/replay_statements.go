package consumer

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// Replay replays parked streams immediately, instead of when the schedule says (see
// [Failure.Default]): those that are named, or all that are parked. Call it when the cause of the
// failures is fixed. Streams with the same cardinal ID are replayed together. If a replay fails, the
// stream remains parked, and the schedule continues.
//
// Replay returns before the messages are handled. The processes that run the consumer handle them,
// whether this one is among them or not. If none is running, the next one that starts does. Streams
// that are not parked are ignored. The error is an [*mdb.ArgumentError] if a stream is not of the
// consumer's categories, and an [*mdb.SetupError] if the consumer has never run.
func (c *Consumer) Replay(ctx context.Context, streams ...mdb.StreamName) error {
	var names []string // nil: all
	var faults []mdb.Fault
	for _, s := range streams {
		if !slices.Contains(c.config.categories, string(s.Category())) {
			faults = append(faults, mdb.Fault{Argument: "streams", Given: string(s), Allowed: "streams of the consumer's categories"})
		}
		names = append(names, string(s))
	}
	if c.config.positionID != nil {
		faults = append(faults, mdb.Fault{Argument: "consumer", Given: "one with " + inPositionStream, Allowed: "one that parks messages"})
	}
	if len(faults) > 0 {
		return &mdb.ArgumentError{Faults: faults}
	}
	name := c.Name()
	var err error
	for attempt := 1; ; attempt++ {
		_, err = ledger.Replay(ctx, c.config.home.Pool(), name, names)
		if !isConflict(err) || attempt > conflictsUncounted || patient.Wait(ctx, attempt) != nil {
			break
		}
	}
	if err == nil {
		return nil
	}
	explain := besideOf(c.config.home).Explain
	if ctx.Err() == nil {
		if err := fatal(name, explain, err); err != nil {
			return err
		}
	}
	return explain("replay what is parked of the consumer "+name, err)
}

// Name returns the consumer's name, which an operator may have changed while it is running.
func (c *Consumer) Name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engine == nil {
		return c.config.name
	}
	return *c.member.name.Load()
}

func (r *running) self() ledger.Member { return *r.member.self.Load() }

// beginTurn makes the move, unless it is nil, and returns what is parked of the key.
func (r *running) beginTurn(ctx context.Context, k ledger.Key, mv *ledger.Move) (parked []ledger.Parked, err error) {
	var b pgx.Batch
	if mv != nil {
		ledger.QueueMove(&b, r.self(), *mv)
	}
	ledger.QueueKey(&b, r.self(), k, func(ps []ledger.Parked) { parked = ps })
	return parked, r.readOnly(ctx, r.config.home.Pool().SendBatch(ctx, &b).Close())
}

func (r *running) reading(upto ledger.Anchor) readStream {
	if r.config.elsewhere {
		return r.readingBefore(upto)
	}
	return r.read
}

// read reads messages of a stream. Of one that cannot be read, it returns what is known.
func (r *running) read(ctx context.Context, stream string, from int64, most int) (ms []mdb.Message, unreadable *mdb.UnreadableError, err error) {
	ms, err = r.store.GetStreamMessages(ctx, mdb.StreamName(stream), mdb.FromPosition(from), mdb.WithBatchSize(most), mdb.FromPrimary())
	if errors.As(err, &unreadable) && unreadable.Position >= from && unreadable.GlobalPosition > 0 {
		return append(ms, placeholder(unreadable)), unreadable, nil
	}
	return ms, nil, err
}

func (r *running) record(ctx context.Context, mv *ledger.Move, p partition, epoch int64, steps []step, failed *ledger.Postponed) error {
	var b pgx.Batch
	if mv != nil {
		ledger.QueueMove(&b, r.self(), *mv)
	}
	for _, s := range steps {
		ledger.QueueReplayed(&b, r.self(), p, epoch, s.stream, s.from, s.next)
	}
	if failed != nil {
		ledger.QueuePostpone(&b, r.self(), p, epoch, *failed)
	}
	return r.readOnly(ctx, r.config.home.Pool().SendBatch(ctx, &b).Close())
}

func (r *running) unpark(ctx context.Context, mv ledger.Move, key string) error {
	var b pgx.Batch
	ledger.QueueUnpark(&b, r.self(), mv, key)
	return r.readOnly(ctx, r.config.home.Pool().SendBatch(ctx, &b).Close())
}
