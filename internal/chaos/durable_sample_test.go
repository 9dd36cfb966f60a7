package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// An effect is what a handler has written for a message.
type effect struct {
	n         int64 // in the order in which they were written
	process   int
	message   uuid.UUID
	stream    mdb.StreamName
	global    int64
	partition int
	epoch     int64
	replayed  bool      // in a replay of a parked stream
	begun     time.Time // when the handler was called
	written   time.Time
	late      bool // the handler was called before a seek to a position before the message, and has written it after that
}

// A durableSample is what one snapshot of the database says about a consumer.
type durableSample struct {
	last        int64   // the greatest n of an effect
	checkpoints []int64 // by partition
	holes       int     // messages that a checkpoint has passed, and that have no effect, are not parked, and were not left out
	ahead       int     // effects after the checkpoint
	seeks       int     // how many there were before
}

// The subqueries have a limit so that each of them looks for a message by an index. Nobody has analyzed the tables, and joins would
// read them again and again.
const takeSample = `
WITH own AS (
	SELECT k.id, k.partitions FROM message_store_consumers.consumers AS k WHERE k.name = $1
), points AS (
	SELECT c.partition, c.position, c.consumer FROM message_store_consumers.checkpoints AS c JOIN own AS k ON k.id = c.consumer
), hashed AS MATERIALIZED (
	SELECT m.id, m.stream_name, m.position AS place, m.global_position, message_store.cardinal_id(m.stream_name) AS key,
		mod(abs(message_store.hash_64(message_store.cardinal_id(m.stream_name))), k.partitions::bigint) AS partition
	FROM message_store.messages AS m CROSS JOIN own AS k WHERE split_part(m.stream_name, '-', 1) = $2 AND m.global_position > $3
), states AS MATERIALIZED (
	SELECT h.*, p.consumer, h.global_position <= p.position AS passed,
		coalesce((SELECT true FROM public.effects AS e WHERE e.consumer = $1 AND e.message = h.id LIMIT 1), false) AS handled
	FROM hashed AS h JOIN points AS p USING (partition)
)
SELECT coalesce((SELECT max(n) FROM public.effects WHERE consumer = $1), 0),
	coalesce((SELECT array_agg(position ORDER BY partition) FROM points), '{}'),
	(SELECT count(*) FROM states AS s WHERE s.passed AND NOT s.handled
		AND coalesce((SELECT false FROM message_store_consumers.parked AS r WHERE r.consumer = s.consumer AND r.key = s.key LIMIT 1), true)
		AND coalesce((SELECT false FROM public.seeks AS o WHERE o.consumer = $1 AND s.global_position > o.lowest AND s.global_position <= o.position LIMIT 1), true)
		AND coalesce((SELECT false FROM public.skips AS o WHERE o.consumer = $1 AND o.stream = s.stream_name AND o.position = s.place LIMIT 1), true)),
	(SELECT count(*) FROM states AS s WHERE s.handled AND NOT s.passed),
	(SELECT count(*) FROM public.seeks WHERE consumer = $1)`

// A durableHistory is what is known of a durable consumer.
type durableHistory struct {
	consumer, form string
	partitions     int      // in the beginning
	effects        []effect // by n
	samples        []durableSample
	looked         int64            // up to here, the last snapshot's checkpoints have passed everything
	freezes        map[int][]freeze // by process
	killed         map[int]bool     // by process
	pauses         []freeze         // when all processes knew that the consumer was paused
	resizes        []resize         // by epoch
	seeks          []seek           // by epoch
	skips          map[place]int    // the messages that were skipped, with the number of seeks before
	parked         int
}

// A freeze is a time in which a process was stopped, or a consumer was paused.
type freeze struct{ from, to time.Time }

// A resize is a change of the number of partitions, by which everybody works that has got partitions by this epoch or a greater one.
type resize struct {
	Epoch      int64
	Partitions int
}

// A seek is a change of all checkpoints, from the lowest of them on. Effects after the position were deleted.
type seek struct{ Epoch, Position, Lowest int64 }

// A place is that of a message in its stream.
type place struct {
	Stream   mdb.StreamName
	Position int64
}

// slept reports whether the handler that wrote the effect was called before its process was frozen, and wrote it after that. What
// it writes outside of a transaction may come too late. No handler that is called later may write anything.
func (h *durableHistory) slept(e *effect) bool {
	return !exactlyOnce(h.form) && slices.ContainsFunc(h.freezes[e.process], func(f freeze) bool {
		return e.begun.Before(f.from) && e.written.After(f.from)
	})
}

// partitionsAt returns the number of partitions that the consumer had at an epoch.
func (h *durableHistory) partitionsAt(epoch int64) int {
	n := h.partitions
	for _, r := range h.resizes {
		if r.Epoch <= epoch {
			n = r.Partitions
		}
	}
	return n
}

// seeksAt returns how many seeks there were up to an epoch.
func (h *durableHistory) seeksAt(epoch int64) (n int) {
	for _, s := range h.seeks {
		if s.Epoch <= epoch {
			n++
		}
	}
	return n
}

// leftOut returns the messages that need no effect, because operators have skipped them, or moved the consumer past them.
func (h *durableHistory) leftOut(store []stored) map[uuid.UUID]bool {
	left := make(map[uuid.UUID]bool)
	if len(h.seeks) == 0 && len(h.skips) == 0 {
		return left
	}
	for i := range store {
		m := &store[i]
		out := false
		after, skipped := h.skips[place{m.stream, m.position}]
		for n := 0; ; n++ {
			if skipped && after == n {
				out = true
			}
			if n == len(h.seeks) {
				break
			}
			if s := h.seeks[n]; m.global > s.Position {
				out = false
			} else if m.global > s.Lowest {
				out = true
			}
		}
		if out {
			left[m.id] = true
		}
	}
	return left
}

func (h *durableHistory) sample(ctx context.Context, pool *pgxpool.Pool, category mdb.Category) error {
	var s durableSample
	row := pool.QueryRow(ctx, takeSample, h.consumer, category, h.looked)
	if err := row.Scan(&s.last, &s.checkpoints, &s.holes, &s.ahead, &s.seeks); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	h.samples = append(h.samples, s)
	h.looked = 0
	if len(s.checkpoints) > 0 {
		h.looked = slices.Min(s.checkpoints)
	}
	return nil
}

// end reads what the consumer has done.
func (h *durableHistory) end(ctx context.Context, pool *pgxpool.Pool) error {
	rows, _ := pool.Query(ctx, `SELECT epoch, partitions FROM public.resizes WHERE consumer = $1 ORDER BY epoch`, h.consumer)
	var err error
	if h.resizes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[resize]); err != nil {
		return err
	}
	rows, _ = pool.Query(ctx, `SELECT epoch, position, lowest FROM public.seeks WHERE consumer = $1 ORDER BY epoch`, h.consumer)
	if h.seeks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[seek]); err != nil {
		return err
	}
	rows, _ = pool.Query(ctx, `SELECT n, process, message, stream, global_position, partition, epoch, replayed, begun, written
FROM public.effects WHERE consumer = $1 ORDER BY n`, h.consumer)
	h.effects, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e effect, err error) {
		err = row.Scan(&e.n, &e.process, &e.message, &e.stream, &e.global, &e.partition, &e.epoch, &e.replayed, &e.begun, &e.written)
		return e, err
	})
	if err != nil {
		return err
	}
	h.markLate()
	return pool.QueryRow(ctx, `SELECT count(*) FROM message_store_consumers.parked AS p
JOIN message_store_consumers.consumers AS k ON k.id = p.consumer WHERE k.name = $1`, h.consumer).Scan(&h.parked)
}

// markLate marks the effects that a seek should have deleted.
func (h *durableHistory) markLate() {
	for i := range h.effects {
		e := &h.effects[i]
		e.late = slices.ContainsFunc(h.seeks, func(s seek) bool { return e.epoch < s.Epoch && e.global > s.Position })
	}
}

// repeated returns the number of effects of messages that have one already.
func (h *durableHistory) repeated() int {
	distinct := make(map[uuid.UUID]bool)
	for i := range h.effects {
		distinct[h.effects[i].message] = true
	}
	return len(h.effects) - len(distinct)
}

// takeovers returns how often a process has continued with a partition of one that was killed.
func (h *durableHistory) takeovers() (n int) {
	type part struct{ partitions, partition int }
	last := make(map[part]int)
	for i := range h.effects {
		e := &h.effects[i]
		p := part{h.partitionsAt(e.epoch), e.partition}
		if before := last[p]; before != e.process && h.killed[before] {
			n++
		}
		last[p] = e.process
	}
	return n
}
