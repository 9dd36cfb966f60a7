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
}

// A durableSample is what one snapshot of the database says about a consumer.
type durableSample struct {
	last        int64   // the greatest n of an effect
	checkpoints []int64 // by partition
	holes       int     // messages that a checkpoint has passed, and that have no effect and are not parked
	ahead       int     // effects after the checkpoint
}

const takeSample = `
WITH points AS (
	SELECT c.partition, c.position, c.consumer FROM message_store_consumers.checkpoints AS c
	JOIN message_store_consumers.consumers AS k ON k.id = c.consumer WHERE k.name = $1
), hashed AS MATERIALIZED (
	SELECT m.id, m.global_position, message_store.cardinal_id(m.stream_name) AS key, mod(abs(message_store.hash_64(message_store.cardinal_id(m.stream_name))), $3::bigint) AS partition
	FROM message_store.messages AS m WHERE split_part(m.stream_name, '-', 1) = $2 AND m.global_position > $4
), passed AS (
	SELECT h.id FROM hashed AS h JOIN points AS p USING (partition) WHERE h.global_position <= p.position
	AND NOT EXISTS (SELECT FROM message_store_consumers.parked AS r WHERE r.consumer = p.consumer AND r.key = h.key)
)
SELECT coalesce((SELECT max(n) FROM public.effects WHERE consumer = $1), 0),
	coalesce((SELECT array_agg(position ORDER BY partition) FROM points), '{}'),
	(SELECT count(*) FROM passed WHERE NOT EXISTS (SELECT FROM public.effects AS e WHERE e.consumer = $1 AND e.message = passed.id)),
	(SELECT count(*) FROM public.effects AS e JOIN points AS p USING (partition) WHERE e.consumer = $1 AND e.global_position > greatest(p.position, $4))`

// A durableHistory is what is known of a durable consumer.
type durableHistory struct {
	consumer, form string
	effects        []effect // by n
	samples        []durableSample
	freezes        map[int][]freeze // by process
	parked         int
}

// A freeze is a time in which a process was stopped.
type freeze struct{ from, to time.Time }

// slept reports whether the handler that wrote the effect was called before its process was frozen, and wrote it after that. What
// it writes outside of a transaction may come too late. No handler that is called later may write anything.
func (h *durableHistory) slept(e *effect) bool {
	return !exactlyOnce(h.form) && slices.ContainsFunc(h.freezes[e.process], func(f freeze) bool {
		return e.begun.Before(f.from) && e.written.After(f.from)
	})
}

func (h *durableHistory) sample(ctx context.Context, pool *pgxpool.Pool, category mdb.Category, partitions int) error {
	var s durableSample
	looked := int64(0) // up to here the snapshot before has looked
	if n := len(h.samples); n > 0 && len(h.samples[n-1].checkpoints) > 0 {
		looked = slices.Min(h.samples[n-1].checkpoints)
	}
	row := pool.QueryRow(ctx, takeSample, h.consumer, category, partitions, looked)
	if err := row.Scan(&s.last, &s.checkpoints, &s.holes, &s.ahead); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	h.samples = append(h.samples, s)
	return nil
}

// end reads what the consumer has done.
func (h *durableHistory) end(ctx context.Context, pool *pgxpool.Pool) error {
	rows, _ := pool.Query(ctx, `SELECT n, process, message, stream, global_position, partition, epoch, replayed, begun, written
FROM public.effects WHERE consumer = $1 ORDER BY n`, h.consumer)
	effects, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e effect, err error) {
		err = row.Scan(&e.n, &e.process, &e.message, &e.stream, &e.global, &e.partition, &e.epoch, &e.replayed, &e.begun, &e.written)
		return e, err
	})
	if err != nil {
		return err
	}
	h.effects = effects
	return pool.QueryRow(ctx, `SELECT count(*) FROM message_store_consumers.parked AS p
JOIN message_store_consumers.consumers AS k ON k.id = p.consumer WHERE k.name = $1`, h.consumer).Scan(&h.parked)
}

// repeated returns the number of effects of messages that have one already.
func (h *durableHistory) repeated() int {
	distinct := make(map[uuid.UUID]bool)
	for i := range h.effects {
		distinct[h.effects[i].message] = true
	}
	return len(h.effects) - len(distinct)
}

// durableValidators compare what durable consumers have done with the store.
var durableValidators = map[string]func(h *durableHistory, store []stored) []string{
	"Once": effectsOnce, "Ordered": effectsOrdered, "NoHole": noHole, "OneOwner": oneOwner, "Bounded": repeatsBounded,
}

func validateDurable(histories []*durableHistory, store []stored) map[string][]string {
	found := make(map[string][]string)
	for name, check := range durableValidators {
		for _, h := range histories {
			for _, violation := range check(h, store) {
				found[name] = append(found[name], h.consumer+": "+violation)
			}
		}
	}
	return found
}

// effectsOnce: a form with transactions has one effect of each message, and in no snapshot an
// effect without the checkpoint that it was committed with.
func effectsOnce(h *durableHistory, _ []stored) (violations []string) {
	if !exactlyOnce(h.form) {
		return nil
	}
	seen := make(map[uuid.UUID]bool)
	for i := range h.effects {
		e := &h.effects[i]
		if seen[e.message] {
			violations = append(violations, fmt.Sprintf("%s, global position %d, has two effects", e.stream, e.global))
		}
		seen[e.message] = true
	}
	for i, s := range h.samples {
		if s.ahead > 0 {
			violations = append(violations, fmt.Sprintf("in snapshot %d, %d effects are after their checkpoints", i, s.ahead))
		}
	}
	return violations
}

// effectsOrdered: a message is handled after those before it with the same cardinal ID. What a
// process repeats, it repeats in the same order.
func effectsOrdered(h *durableHistory, store []stored) (violations []string) {
	index := make(map[uuid.UUID]int) // among the messages with the same cardinal ID
	count := make(map[string]int)
	for i := range store {
		key := store[i].stream.CardinalID()
		index[store[i].id] = count[key]
		count[key]++
	}
	type claim struct {
		key     string
		process int
		epoch   int64
	}
	next := make(map[string]int)
	last := make(map[claim]int)
	for i := range h.effects {
		e := &h.effects[i]
		at, there := index[e.message]
		c := claim{e.stream.CardinalID(), e.process, e.epoch}
		before, again := last[c]
		switch {
		case !there:
			violations = append(violations, fmt.Sprintf("global position %d is not in the store", e.global))
		case h.slept(e):
		case at > next[c.key], again && at > before+1:
			violations = append(violations, fmt.Sprintf("process %d has handled %s, global position %d, too early", e.process, e.stream, e.global))
		}
		next[c.key] = max(next[c.key], at+1)
		last[c] = at
	}
	return violations
}

// noHole: each message has an effect, and had one when a checkpoint had passed it.
func noHole(h *durableHistory, store []stored) (violations []string) {
	handled := make(map[uuid.UUID]bool)
	for i := range h.effects {
		handled[h.effects[i].message] = true
	}
	for i := range store {
		if !handled[store[i].id] {
			violations = append(violations, fmt.Sprintf("%s/%d, global position %d, was not handled", store[i].stream, store[i].position, store[i].global))
		}
	}
	for i, s := range h.samples {
		if s.holes > 0 {
			violations = append(violations, fmt.Sprintf("in snapshot %d, checkpoints have passed %d messages that were not handled", i, s.holes))
		}
	}
	if h.parked > 0 {
		violations = append(violations, fmt.Sprintf("%d streams are parked", h.parked))
	}
	return violations
}

// oneOwner: an epoch of a partition belongs to one process, and no process handles a message of
// the partition after another one has handled one with a greater epoch.
func oneOwner(h *durableHistory, _ []stored) (violations []string) {
	type claim struct {
		partition int
		epoch     int64
	}
	owners := make(map[claim]int)
	epochs := make(map[int]int64)
	for i := range h.effects {
		e := &h.effects[i]
		if h.slept(e) {
			continue
		}
		c := claim{e.partition, e.epoch}
		if owner, owned := owners[c]; owned && owner != e.process {
			violations = append(violations, fmt.Sprintf("processes %d and %d have epoch %d of partition %d", owner, e.process, e.epoch, e.partition))
		}
		owners[c] = e.process
		if e.epoch < epochs[e.partition] {
			violations = append(violations, fmt.Sprintf("process %d has handled global position %d of partition %d with epoch %d after %d",
				e.process, e.global, e.partition, e.epoch, epochs[e.partition]))
		}
		epochs[e.partition] = max(epochs[e.partition], e.epoch)
	}
	slices.Sort(violations)
	return slices.Compact(violations)
}

// repeatsBounded: what a checkpoint has passed is not handled again, unless its stream was parked then.
func repeatsBounded(h *durableHistory, _ []stored) (violations []string) {
	passed := make(map[int]int64)
	samples := h.samples
	for i := range h.effects {
		e := &h.effects[i]
		for len(samples) > 0 && samples[0].last < e.n {
			for partition, position := range samples[0].checkpoints {
				passed[partition] = max(passed[partition], position)
			}
			samples = samples[1:]
		}
		if e.global <= passed[e.partition] && !e.replayed && !h.slept(e) {
			violations = append(violations, fmt.Sprintf("process %d has handled global position %d of partition %d after its checkpoint was at %d",
				e.process, e.global, e.partition, passed[e.partition]))
		}
	}
	return violations
}
