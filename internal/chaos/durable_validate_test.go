package chaos

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// durableValidators compare what durable consumers have done with the store.
var durableValidators = map[string]func(h *durableHistory, store []stored) []string{
	"Once": effectsOnce, "Ordered": effectsOrdered, "NoHole": noHole, "OneOwner": oneOwner, "Bounded": repeatsBounded, "Paused": notPaused,
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

// effectsOnce: a form with transactions has one effect of each message, none that was committed after a seek that it did not
// know, and in no snapshot an effect without the checkpoint that it was committed with.
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
		if e.late {
			violations = append(violations, fmt.Sprintf("%s, global position %d, has an effect of before a seek", e.stream, e.global))
		}
	}
	for i, s := range h.samples {
		if s.ahead > 0 {
			violations = append(violations, fmt.Sprintf("in snapshot %d, %d effects are after their checkpoints", i, s.ahead))
		}
	}
	return violations
}

// effectsOrdered: a message is handled after those before it with the same cardinal ID, unless they were left out. What a
// process repeats, it repeats in the same order.
func effectsOrdered(h *durableHistory, store []stored) (violations []string) {
	out := h.leftOut(store)
	for i := range h.effects {
		if !h.effects[i].late {
			delete(out, h.effects[i].message)
		}
	}
	index := make(map[uuid.UUID]int) // among the messages with the same cardinal ID
	count := make(map[string]int)
	for i := range store {
		if !out[store[i].id] {
			key := store[i].stream.CardinalID()
			index[store[i].id] = count[key]
			count[key]++
		}
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
		if e.late {
			continue
		}
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

// noHole: each message has an effect, and had one when a checkpoint had passed it, unless it was left out.
func noHole(h *durableHistory, store []stored) (violations []string) {
	handled := h.leftOut(store)
	for i := range h.effects {
		if e := &h.effects[i]; !e.late {
			handled[e.message] = true
		}
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

// oneOwner: an epoch of a partition belongs to one process, and no process handles a message of a partition or of a cardinal ID
// after another one has handled one with a greater epoch. The partition is that of the cardinal ID, by the number of partitions that
// there were.
func oneOwner(h *durableHistory, _ []stored) (violations []string) {
	type part struct{ partitions, partition int }
	type claim struct {
		partition int
		epoch     int64
	}
	owners := make(map[claim]int)
	parts, keys := make(map[part]int64), make(map[string]int64)
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
		p, key := part{h.partitionsAt(e.epoch), e.partition}, e.stream.CardinalID()
		if p.partitions > 0 && partitionOf(e.stream, p.partitions) != e.partition {
			violations = append(violations, fmt.Sprintf("process %d has handled %s as of partition %d of %d", e.process, e.stream, e.partition, p.partitions))
		}
		if greatest := max(parts[p], keys[key]); e.epoch < greatest {
			violations = append(violations, fmt.Sprintf("process %d has handled %s, global position %d, of partition %d with epoch %d after %d",
				e.process, e.stream, e.global, e.partition, e.epoch, greatest))
		}
		parts[p], keys[key] = max(parts[p], e.epoch), max(keys[key], e.epoch)
	}
	slices.Sort(violations)
	return slices.Compact(violations)
}

// repeatsBounded: what a checkpoint has passed is not handled again, unless its stream was parked then, or the checkpoint was
// moved back.
func repeatsBounded(h *durableHistory, _ []stored) (violations []string) {
	type part struct{ seeks, partitions, partition int }
	passed := make(map[part]int64)
	numbers := make(map[int]bool) // of partitions
	samples := h.samples
	for i := range h.effects {
		e := &h.effects[i]
		for len(samples) > 0 && samples[0].last < e.n {
			s := &samples[0]
			for partition, position := range s.checkpoints {
				p := part{s.seeks, len(s.checkpoints), partition}
				passed[p] = max(passed[p], position)
			}
			numbers[len(s.checkpoints)] = true
			samples = samples[1:]
		}
		seeks := h.seeksAt(e.epoch)
		limit := int64(0)
		if seeks > 0 {
			limit = h.seeks[seeks-1].Position
		}
		for n := range numbers {
			if n > 0 {
				limit = max(limit, passed[part{seeks, n, partitionOf(e.stream, n)}])
			}
		}
		if e.global <= limit && !e.replayed && !e.late && !h.slept(e) {
			violations = append(violations, fmt.Sprintf("process %d has handled %s, global position %d, after its checkpoint was at %d",
				e.process, e.stream, e.global, limit))
		}
	}
	return violations
}

// notPaused: no handler is called while all processes know that the consumer is paused.
func notPaused(h *durableHistory, _ []stored) (violations []string) {
	for i := range h.effects {
		e := &h.effects[i]
		if slices.ContainsFunc(h.pauses, func(p freeze) bool { return e.begun.After(p.from) && e.begun.Before(p.to) }) {
			violations = append(violations, fmt.Sprintf("process %d has handled %s, global position %d, during a pause", e.process, e.stream, e.global))
		}
	}
	return violations
}
