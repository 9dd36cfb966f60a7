package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/mdb"
)

// A writer performs one write, with as many attempts as it decides.
type writer func(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error)

// writes writes to random streams as long as left is positive.
func (w *workload) writes(ctx context.Context, s *mdb.Store, number int, rng *rand.Rand, left *atomic.Int64) {
	write := w.write
	if write == nil {
		write = writeByMDB
	}
	for n := 0; left.Load() > 0 && ctx.Err() == nil; n++ {
		_ = backoff.Sleep(ctx, w.pause)
		category := w.names[rng.IntN(len(w.names))]
		if w.apart {
			category = w.names[number%len(w.names)]
		}
		stream := category.Stream(fmt.Sprint(rng.IntN(w.streams)))
		o := &op{name: fmt.Sprintf("%d-%d", number, n), stream: stream, ids: make([]uuid.UUID, 1+rng.IntN(5))}
		for i := range o.ids {
			o.ids[i] = uuid.New()
		}
		if rng.IntN(2) == 0 {
			ctx, cancel := w.limit(ctx)
			version, err := s.StreamVersion(ctx, stream)
			cancel()
			if err != nil {
				w.met(err)
				continue
			}
			o.expected = &version
		}
		w.send(o)
		ctx, cancel := w.limit(ctx)
		written, err := write(ctx, s, o)
		cancel()
		unknown := (*mdb.UnknownOutcomeError)(nil)
		wrong := (*mdb.WrongVersionError)(nil)
		switch {
		case err == nil:
			left.Add(-int64(len(o.ids)))
			w.end(o, acked, written)
		case errors.As(err, &unknown):
			w.met(err)
			o.unknown = true
		case errors.As(err, &wrong):
			w.met(err)
			w.end(o, failed, nil)
		default:
			w.refuse(err)
			w.end(o, failed, nil)
		}
	}
}

// limit returns a context with the deadline of one call.
func (w *workload) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.deadline == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, w.deadline)
}

func writeByMDB(ctx context.Context, s *mdb.Store, o *op) ([]mdb.Written, error) {
	return s.WriteMessages(ctx, o.stream, o.messages(), o.options()...)
}

func (o *op) options() []mdb.WriteOption {
	if o.expected == nil {
		return nil
	}
	return []mdb.WriteOption{mdb.ExpectVersion(*o.expected)}
}

// resolve finds out the unknown outcomes, as UnknownOutcomeError's documentation says.
func (w *workload) resolve(ctx context.Context, s *mdb.Store) {
	w.mu.Lock()
	ops := slices.Clone(w.ops) // the chain still appends to w.ops
	w.mu.Unlock()
	for _, o := range ops {
		for o.unknown && o.outcome == pending && ctx.Err() == nil {
			ctx, cancel := w.limit(ctx)
			written, err := s.WriteMessages(ctx, o.stream, o.messages(), append(o.options(), mdb.Idempotent())...)
			cancel()
			w.met(err)
			unknown := (*mdb.UnknownOutcomeError)(nil)
			wrong := (*mdb.WrongVersionError)(nil)
			switch {
			case err == nil:
				w.end(o, acked, written)
			case errors.As(err, &wrong):
				w.end(o, failed, nil)
			case !errors.As(err, &unknown) && !errors.Is(err, context.DeadlineExceeded): // no connection within the deadline
				w.abort(fmt.Errorf("%w: %s: %w", errDropped, o.name, err))
			}
		}
	}
}
